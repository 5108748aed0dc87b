"""Operations on pixels and erasing are torchvision's own, for the generator that a sample is given."""

import dataclasses

import numpy as np
import pytest
import torch
from image_files import smooth_image
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.joint import JointTrainTransform
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.transform import normalize
from anysize.data.random import Stream, seeded, uniform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

RGB = Preprocessing(image_size=32, resize="stretch")
GREY = Preprocessing(image_size=32, mean=(0.286,), std=(0.353,), resize="stretch")
ONLY = AugmentSettings(crop="none", flip=0.0)
BATCH = Batch(epoch=4, size=32, copies=40, indices=np.array([5]))
BILINEAR = v2.InterpolationMode.BILINEAR
POLICIES = {  # as torchvision's reference training calls them
    "randaugment": v2.RandAugment(interpolation=BILINEAR, magnitude=9),
    "trivialaugment": v2.TrivialAugmentWide(interpolation=BILINEAR),
    "augmix": v2.AugMix(interpolation=BILINEAR, severity=3),
    "imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=128),
}


def picture(channels: int = 3) -> Image.Image:
    return smooth_image(3, 32, 32).convert("RGB" if channels == 3 else "L")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preprocessing", [RGB, GREY])
def test_a_policy_is_torchvisions(policy: str, preprocessing: Preprocessing):
    original = picture(preprocessing.channels)
    pixels = F.pil_to_tensor(original)
    augment = dataclasses.replace(ONLY, autoaugment=policy)
    ours = TrainTransform(preprocessing, augment, seed=2).image(pixels, BATCH)
    by_pil = TrainTransform(preprocessing, dataclasses.replace(augment, backend="pil"), seed=2).image(pixels, BATCH)
    for copy in range(BATCH.copies):
        with seeded(2, 4, 5, copy, Stream.AUTOAUGMENT):
            assert torch.equal(ours[copy], POLICIES[policy](pixels))
        with seeded(2, 4, 5, copy, Stream.AUTOAUGMENT):
            assert torch.equal(by_pil[copy], F.pil_to_tensor(POLICIES[policy](original)))
    assert len(torch.unique(ours.flatten(1), dim=0)) > 15
    assert torch.equal(ours, by_pil) == (policy == "augmix")  # it makes tensors of PIL images


@pytest.mark.parametrize(("name", "policy", "strong"), [("magnitude", "randaugment", 30), ("severity", "augmix", 10)])
def test_magnitude_and_severity_are_strengths(name: str, policy: str, strong: int):
    pixels = F.pil_to_tensor(picture())

    def change(**settings: object) -> float:
        augment = dataclasses.replace(ONLY, autoaugment=policy, **settings)
        changed = TrainTransform(RGB, augment).image(pixels, dataclasses.replace(BATCH, copies=200))
        return (changed.float() - pixels).abs().mean().item()

    assert change(**{name: strong}) > 1.3 * change()
    with pytest.raises(UserError, match=rf"^augment.{name} is {strong}, but .* 'trivialaugment', which has none"):
        TrainTransform(RGB, dataclasses.replace(ONLY, autoaugment="trivialaugment", **{name: strong}))


def test_bicubic_operations_are_for_pil_images():
    bicubic = dataclasses.replace(RGB, interpolation="bicubic")
    augment = dataclasses.replace(ONLY, autoaugment="randaugment")
    with pytest.raises(
        UserError, match=r"^augment\.autoaugment is 'randaugment', which turns tensors by nearest or bil"
    ):
        TrainTransform(bicubic, augment)
    by_pil = TrainTransform(bicubic, dataclasses.replace(augment, backend="pil"))
    assert by_pil.image(F.pil_to_tensor(picture()), BATCH).shape == (40, 3, 32, 32)
    for backend in ("tensor", "pil"):  # torchvision's works on tensors with both
        with pytest.raises(
            UserError, match=r"'augmix', which .* not bicubic; set data\.interpolation to one of these$"
        ):
            TrainTransform(bicubic, dataclasses.replace(ONLY, autoaugment="augmix", backend=backend))


@pytest.mark.parametrize("size", [32, 20])
def test_random_erasing_is_torchvisions_on_normalised_values(size: int):
    transform = TrainTransform(RGB, dataclasses.replace(ONLY, random_erasing=0.4, cutout=4), seed=2)
    batch = Batch(1, size, 2, np.array([3, 8, 5] * 40), repeats=np.repeat(np.arange(40), 3))
    pixels = torch.randint(1, 255, (240, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = transform.finish(pixels, batch)
    without = TrainTransform(RGB, dataclasses.replace(ONLY, cutout=4), seed=2).finish(pixels, batch)
    erased = 0
    for row, (index, copy) in enumerate(zip(*batch.sample_keys(), strict=True)):
        expected = without[row]
        if uniform(2, 1, index, copy, Stream.RANDOM_ERASING) < 0.4:
            with seeded(2, 1, index, copy, Stream.RANDOM_ERASING):
                expected = v2.RandomErasing(1.0)(expected)
        assert torch.equal(ours[row], expected)
        erased += not torch.equal(expected, without[row])
    assert 60 < erased < 130  # 240 times 0.4, of which some lie within the hole that is there


def test_random_erasing_at_probability_1_takes_2_to_33_percent():
    transform = TrainTransform(GREY, dataclasses.replace(ONLY, random_erasing=1.0))
    batch = Batch(0, 32, 1, np.arange(500))
    pixels = torch.full((500, 1, 32, 32), 255, dtype=torch.uint8)
    erased = transform.finish(pixels, batch) == 0
    share = erased.float().mean((1, 2, 3))
    assert 0.015 < share.min() < 0.05
    assert 0.3 < share.max() < 0.35
    rows, columns = erased.any(3).sum((1, 2)), erased.any(2).sum((1, 2))
    assert torch.equal(rows * columns, erased.sum((1, 2, 3)))  # one rectangle
    assert torch.equal(transform.finish(pixels, batch)[~erased], normalize(pixels, GREY)[~erased])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoaugment": "augmix"}, "augment.autoaugment is 'augmix', but its policies move pixels"),
        (
            {"random_erasing": 0.1},
            "augment.random_erasing is 0.1; it is for images with a class: set it to 0",
        ),
        ({"backend": "pil"}, "augment.backend is 'pil', but an image and its mask are resized alike as tensors"),
    ],
)
def test_masks_take_none_of_it(settings: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        JointTrainTransform(RGB, dataclasses.replace(ONLY, **settings))
