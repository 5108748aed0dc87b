"""Pixels of images that are not square: the same for each kind of targets, from files and in memory."""

import numpy as np
import pytest
import torch
from image_files import smooth_image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import EvalTransform, needed_scale
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import Aspect

WIDE = Aspect(4 / 3, 8)
RGB = Preprocessing(64, resize="center-crop", crop_ratio=0.8)


def photo(height: int, width: int) -> Tensor:
    return F.pil_to_tensor(smooth_image(3, height, width))


def batch_of(copies: int = 1, size: int = 64, aspect: Aspect = WIDE) -> Batch:
    return Batch(0, size, copies, np.arange(1), aspect=aspect)


def stretched(image: Tensor, sides: tuple[int, int]) -> Tensor:
    return F.resize(image, list(sides), InterpolationMode.BILINEAR, antialias=True)


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (100, 300)])
def test_evaluation_cuts_the_shape_out_of_an_image_that_covers_it(shape: tuple[int, int]) -> None:
    image = photo(*shape)
    found = EvalTransform(RGB).image(image, batch_of())
    high, wide = 56 / 0.8, 72 / 0.8  # of the shape over the crop ratio
    scale = max(high / shape[0], wide / shape[1])
    whole = stretched(image, (max(70, int(shape[0] * scale + 1e-9)), max(90, int(shape[1] * scale + 1e-9))))
    assert torch.equal(found[0], F.center_crop(whole, [56, 72]))
    assert needed_scale(shape, (56, 72), RGB) == pytest.approx(
        min(1, max(s / t for s, t in zip(whole.shape[1:], shape, strict=True)))
    )


def test_at_its_own_shape_an_image_is_shown_as_a_whole() -> None:
    image = photo(90, 120)
    mask = torch.randint(0, 3, (90, 120), dtype=torch.uint8)
    for resize in ("center-crop", "stretch", "crop-or-pad"):
        transform = EvalTransform(Preprocessing(64, resize=resize), own=True)
        assert torch.equal(transform.image(image, batch_of())[0], stretched(image, (56, 72)))
    for resize in ("pad", "stretch"):
        sample = JointEvalTransform(Preprocessing(64, resize=resize), own=True).sample(image, mask, batch_of())
        assert torch.equal(sample.pixels[0], stretched(image, (56, 72)))
        assert torch.equal(sample.targets[0], mask)
        assert sample.box.tolist() == [0, 0, 56, 72]


@pytest.mark.parametrize("backend", ["tensor", "pil"])
@pytest.mark.parametrize("crop", ["random-resized", "none"])
def test_training_images_have_the_shape_of_their_batch(crop: str, backend: str) -> None:
    """A part as large as the whole image is the image stretched to the shape; a mask has the part of its image."""
    augment = AugmentSettings(crop=crop, flip=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0), backend=backend, cutout=8)
    image, settings = photo(90, 120), Preprocessing(64, resize="stretch", backend=backend)
    transform, batch = TrainTransform(settings, augment), batch_of(copies=2)
    sample = transform.sample(image, torch.tensor(1), batch)
    assert sample.pixels.shape == (2, 3, 56, 72)
    if backend == "tensor":
        assert torch.equal(sample.pixels[1], stretched(image, (56, 72)))
        memory = image.permute(1, 2, 0)[None].contiguous()
        assert torch.equal(transform.batch(memory, batch), sample.pixels)
    assert transform.finish(sample.pixels, batch).shape == (2, 3, 56, 72)
    assert transform.need((180, 240), batch) == pytest.approx(max(56 / 180, 72 / 240))


@pytest.mark.parametrize("crop", ["random-resized", "rescale", "none"])
def test_a_mask_has_the_part_of_its_image(crop: str) -> None:
    mask = torch.zeros(90, 120, dtype=torch.uint8)
    mask[20:, 30:], mask[50:, 80:] = 1, 2
    image = (60 * mask).expand(3, -1, -1)
    augment = AugmentSettings(crop=crop, flip=0.5)
    settings = Preprocessing(64, resize="pad", mean=(0.0, 0.0, 0.0), interpolation="nearest")
    sample = JointTrainTransform(settings, augment).sample(image, mask, batch_of(copies=4))
    assert sample.pixels.shape == (4, 3, 56, 72)
    assert sample.targets.shape == (4, 56, 72)
    assert sample.box.tolist() == [0, 0, 56, 72]
    there = sample.targets != 255
    assert there.float().mean() > 0.4
    assert (sample.pixels[:, 0] == 60 * sample.targets)[there].float().mean() > 0.9  # the rest is beside an edge


def test_boxes_are_as_much_wider_as_the_shape_is() -> None:
    """Images of a batch are distorted as much as squares are, and sizes of one sample see the same part."""
    transform = TrainTransform(RGB, AugmentSettings(crop="random-resized", scale=(0.3, 0.3), flip=0.0))
    boxes = [transform._boxes((300, 400), batch_of(64, size, aspect))[:64] for size, aspect in (
        (64, WIDE), (96, WIDE), (64, Aspect(0.75, 8))
    )]  # fmt: skip
    assert boxes[0] == boxes[1]
    wide, high = (np.median([box.width / box.height for box in of]) for of in (boxes[0], boxes[2]))
    assert wide == pytest.approx(4 / 3, rel=0.15)
    assert high == pytest.approx(3 / 4, rel=0.15)


def test_what_cannot_be_shaped_says_so() -> None:
    image = photo(90, 120)
    with pytest.raises(UserError, match=r"augment.crop is pad, which cuts squares of the base size; for other shapes"):
        TrainTransform(RGB, AugmentSettings(crop="pad", flip=0.0)).image(image, batch_of())
    settings = Preprocessing(64, resize="crop-or-pad")
    with pytest.raises(UserError, match=r"data.resize is crop-or-pad, which cuts squares out of images"):
        EvalTransform(settings).image(image, batch_of())
    with pytest.raises(UserError, match=r"data.resize is crop-or-pad"):
        TrainTransform(settings, AugmentSettings(crop="none", flip=0.0)).image(image, batch_of())
    with pytest.raises(UserError, match=r"evaluation.crops is 5, but at their own shape .* shown as a whole"):
        EvalTransform(RGB, 5, own=True)


def test_five_crops_of_a_shape() -> None:
    found = EvalTransform(RGB, 5).image(photo(90, 120), batch_of())
    assert found.shape == (5, 3, 56, 72)
