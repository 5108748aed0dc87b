"""The back end "pil" makes the pixels of torchvision's reference presets, which work on PIL images.

Version 1 of its transforms is taken for reference, but for the policies, which draw in another order there.
"""

import dataclasses

import numpy as np
import pytest
import torch
from image_files import smooth_image
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import functional as F1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.joint import JointEvalTransform
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import EvalTransform
from anysize.data.loader import PlanLoader
from anysize.data.random import Stream, seeded, uniform
from anysize.data.settings import AugmentSettings
from anysize.data.source import ArraySource
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

IMAGENET = Preprocessing(image_size=64, backend="pil")
CIFAR = Preprocessing(image_size=32, resize="stretch", backend="pil")
BATCH = Batch(epoch=4, size=40, copies=12, indices=np.array([7]))
TO_INPUT = v1.Compose([v1.PILToTensor(), v1.ConvertImageDtype(torch.float), v1.Normalize(IMAGENET.mean, IMAGENET.std)])


def flips(batch: Batch, seed: int) -> list[bool]:
    return (uniform(seed, batch.epoch, *batch.sample_keys(), Stream.FLIP) < 0.5).tolist()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_training_is_the_reference_preset(interpolation: str):
    image = smooth_image(1, 90, 130)
    preprocessing = dataclasses.replace(IMAGENET, interpolation=interpolation)
    augment = AugmentSettings(
        crop="random-resized", flip=0.5, autoaugment="trivialaugment", random_erasing=0.5, backend="pil"
    )
    transform = TrainTransform(preprocessing, augment, seed=3)
    pixels = transform.image(F.pil_to_tensor(image), BATCH)
    values = transform.finish(pixels, BATCH)
    mode = v1.InterpolationMode(interpolation)
    crop, policy = v1.RandomResizedCrop(40, interpolation=mode), v2.TrivialAugmentWide(interpolation=mode)
    for copy, flip in enumerate(flips(BATCH, 3)):
        with seeded(3, 4, 7, copy, Stream.RANDOM_RESIZED):
            view = crop(image)
        view = F1.hflip(view) if flip else view
        with seeded(3, 4, 7, copy, Stream.AUTOAUGMENT):
            view = policy(view)
        assert torch.equal(pixels[copy], F.pil_to_tensor(view))
        expected = TO_INPUT(view)
        if uniform(3, 4, 7, copy, Stream.RANDOM_ERASING) < 0.5:
            with seeded(3, 4, 7, copy, Stream.RANDOM_ERASING):
                expected = v1.RandomErasing(1.0)(expected)
        torch.testing.assert_close(values[copy], expected, atol=1e-5, rtol=0)


def test_crop_pad_is_pad_crop_flip_then_pils_resize():
    image, seed = smooth_image(2, 32, 32), 5
    transform = TrainTransform(CIFAR, AugmentSettings(crop="pad", flip=0.5, backend="pil", color_jitter=0.4), seed)
    pixels = transform.image(F.pil_to_tensor(image), BATCH)
    keys = (seed, 4, *BATCH.sample_keys())
    tops, lefts = ((uniform(*keys, stream) * 9).astype(int).tolist() for stream in (Stream.TOP, Stream.LEFT))
    for copy, (flip, top, left) in enumerate(zip(flips(BATCH, seed), tops, lefts, strict=True)):
        view = F1.crop(F1.pad(image, 4), top, left, 32, 32)
        view = F1.resize(F1.hflip(view) if flip else view, [40, 40])
        with seeded(seed, 4, 7, copy, Stream.COLOR_JITTER):
            view = v1.ColorJitter(0.4, 0.4, 0.4)(view)
        assert torch.equal(pixels[copy], F.pil_to_tensor(view))


@pytest.mark.parametrize(("size", "resized"), [(224, 232), (299, 342), (48, 49)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_evaluation_is_the_reference_preset(size: int, resized: int, mode: str):
    image = smooth_image(3, 375, 250).convert(mode)
    preprocessing = dataclasses.replace(IMAGENET, crop_ratio=size / resized, interpolation="bicubic")
    pixels = F.pil_to_tensor(image)
    batch = Batch(0, size, 1, np.arange(1))
    reference = v1.Compose([v1.Resize(resized, v1.InterpolationMode.BICUBIC), v1.CenterCrop(size)])
    ours = EvalTransform(preprocessing).image(pixels, batch)
    assert torch.equal(ours[0], F.pil_to_tensor(reference(image)))
    plain = AugmentSettings(crop="none", flip=0.0, backend="pil")
    assert torch.equal(TrainTransform(preprocessing, plain).image(pixels, batch), ours)
    by_tensors = EvalTransform(dataclasses.replace(preprocessing, backend="tensor")).image(pixels, batch)
    assert not torch.equal(by_tensors, ours)
    crops = v1.Compose([reference.transforms[0], v1.FiveCrop(size)])(image)
    five = EvalTransform(preprocessing, crops=5).image(pixels, batch)
    assert torch.equal(five, torch.stack([F.pil_to_tensor(crop) for crop in crops]))


def test_small_images_are_stretched_by_pil():
    image = smooth_image(4, 32, 32)
    ours = EvalTransform(CIFAR).image(F.pil_to_tensor(image), Batch(0, 24, 1, np.arange(1)))
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert torch.equal(ours[0], torch.from_numpy(expected.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_memory_go_one_by_one(workers: int):
    images = torch.stack([torch.from_numpy(np.array(smooth_image(i, 32, 32))) for i in range(6)])
    source = ArraySource(images, np.arange(6), tuple("abcdef"), "six")
    transform = TrainTransform(CIFAR, AugmentSettings(crop="pad", flip=0.5, backend="pil"), seed=1)
    batch = Batch(2, 24, 2, np.array([4, 1, 4]), repeats=np.array([0, 0, 1]))
    (loaded,) = PlanLoader(source, transform, workers=workers).load([batch])
    assert loaded.targets.tolist() == [4, 1, 4] * 2
    for place in range(3):
        alone = batch.at([place])
        pixels = transform.image(source.image(int(alone.indices[0])), alone)
        assert torch.equal(loaded.images[place::3], transform.finish(pixels, alone))
    assert len({image.numpy().tobytes() for image in loaded.images}) == 6


def test_masks_are_not_evaluated_by_pil():
    with pytest.raises(UserError, match=r"augment\.backend is 'pil', but an image and its mask"):
        JointEvalTransform(CIFAR)
    with pytest.raises(UserError, match="backend is 'cv2'; expected one of: tensor, pil"):
        Preprocessing(32, backend="cv2")
