"""Training augmentation: batched equals one by one, and each step does what its name says."""

import dataclasses

import numpy as np
import pytest
import torch
from image_files import smooth_image
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import resize
from anysize.data.augment.transform import normalize
from anysize.data.random import Stream, uniform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

RGB = Preprocessing(image_size=32, resize="stretch")
GREY = Preprocessing(image_size=28, mean=(0.286,), std=(0.353,), resize="stretch")
PLAIN = AugmentSettings(crop="pad", flip=0.5)
BATCH = Batch(epoch=4, size=24, copies=3, indices=np.array([5, 0, 11, 7]))


def stored(side: int = 32, channels: int = 3, width: int = 0) -> torch.Tensor:
    images = [F.pil_to_tensor(smooth_image(seed, side, width or side))[:channels] for seed in range(12)]
    return torch.stack(images).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("size", [16, 24, 32, 48])
@pytest.mark.parametrize(
    ("preprocessing", "side", "width"),
    [(RGB, 32, 32), (RGB, 40, 40), (GREY, 28, 28), (dataclasses.replace(RGB, resize="center-crop"), 36, 50)],
)
@pytest.mark.parametrize(
    "augment",
    [
        PLAIN,
        AugmentSettings(crop="pad", flip=1.0, padding=0),
        AugmentSettings(crop="none", flip=0.5),
        AugmentSettings(crop="random-resized", flip=0.5),
        AugmentSettings(crop="pad", flip=0.5, autoaugment="cifar10", color_jitter=0.4),
        AugmentSettings(crop="pad", flip=0.5, flip_alternates=True, padding=2, padding_mode="reflect"),
    ],
)
def test_a_batch_equals_its_images_one_by_one(
    augment: AugmentSettings, preprocessing: Preprocessing, side: int, width: int, size: int
):
    transform = TrainTransform(preprocessing, augment, seed=1)
    images = stored(side, preprocessing.channels, width)
    batch = dataclasses.replace(BATCH, size=size)
    together = transform.batch(transform.prepare(images), batch).unflatten(0, (3, 4))
    for place, index in enumerate(batch.indices.tolist()):
        alone = transform.image(images[index].permute(2, 0, 1), batch.at([place]))
        assert torch.equal(together[:, place], alone)


def test_pad_crop_is_pad_crop_flip_then_resize():
    transform = TrainTransform(RGB, PLAIN, seed=1)
    images = stored()
    pixels = transform.batch(images, BATCH).unflatten(0, (3, 4))
    flips = 0
    for copy in range(3):
        for place, index in enumerate(BATCH.indices.tolist()):
            key = (1, 4, np.array([index]), copy)
            top, left = (int(uniform(*key, stream)[0] * 9) for stream in (Stream.TOP, Stream.LEFT))
            image = F.pad(images[index].permute(2, 0, 1), [4])[:, top : top + 32, left : left + 32]
            if uniform(*key, Stream.FLIP)[0] < 0.5:
                image = image.flip(2)
                flips += 1
            assert torch.equal(pixels[copy, place], resize(image, (24, 24)))
    assert 0 < flips < 12


def test_reflected_padding_mirrors_the_image_at_its_border():
    augment = AugmentSettings(crop="pad", flip=0.0, padding=3, padding_mode="reflect")
    transform, images = TrainTransform(RGB, augment, seed=1), stored()
    batch = Batch(0, 32, 1, np.arange(12))
    pixels = transform.batch(images, batch)
    for index in range(12):
        top, left = (int(uniform(1, 0, np.array([index]), 0, stream)[0] * 7) for stream in (Stream.TOP, Stream.LEFT))
        padded = F.pad(images[index].permute(2, 0, 1), [3], padding_mode="reflect")
        assert torch.equal(pixels[index], padded[:, top : top + 32, left : left + 32])


def test_flips_alternate_after_a_random_first_half():
    """Each image is mirrored in one of two epochs that follow each other; which, its seed and number alone say."""
    augment = AugmentSettings(crop="none", flip=0.5, flip_alternates=True)
    images = torch.arange(32, dtype=torch.uint8)[None, None, :, None].expand(400, 32, 32, 3).contiguous()

    def mirrored(epoch: int, indices: np.ndarray, seed: int = 3) -> np.ndarray:
        pixels = TrainTransform(RGB, augment, seed).batch(images, Batch(epoch, 32, 1, indices))
        return (pixels[:, 0, 0, 0] > pixels[:, 0, 0, 31]).numpy()

    everything = np.arange(400)
    first = mirrored(0, everything)
    assert 150 < first.sum() < 250
    for epoch in range(1, 5):
        assert (mirrored(epoch, everything) == (first if epoch % 2 == 0 else ~first)).all()
    assert (mirrored(2, everything[::-1])[::-1] == first).all()
    assert (mirrored(2, everything[7:9]) == first[7:9]).all()
    assert (mirrored(0, everything, seed=4) != first).any()


def test_brightness_and_contrast_are_one_of_each_an_image():
    augment = AugmentSettings(crop="none", flip=0.0, brightness=0.2, contrast=0.1)
    transform, batch = TrainTransform(RGB, augment), Batch(0, 4, 1, np.arange(5000))
    pixels = torch.randint(256, (5000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, values = normalize(pixels, RGB), transform.finish(pixels, batch)
    low, high = (plain.flatten(1)[:, place] for place in (0, 1))
    apart = (low - high).abs() > 0.5
    factor = ((values.flatten(1)[:, 0] - values.flatten(1)[:, 1]) / (low - high))[apart]
    shift = values.flatten(1)[apart, 0] / factor - low[apart]
    for found, middle, width in ((factor, 1.0, 0.1), (shift, 0.0, 0.2)):
        assert (found - middle).abs().max() < width * 1.001
        assert (found - middle).abs().max() > width * 0.99
        assert abs((found - middle).mean()) < width * 0.05
    torch.testing.assert_close(values[apart], (plain[apart] + shift[:, None, None, None]) * factor[:, None, None, None])


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (AugmentSettings(crop="none", flip=0.5, padding_mode="reflect"), "which pads nothing by"),
        (AugmentSettings(crop="pad", flip=0.5, padding=32, padding_mode="reflect"), "no more than 31 pixels"),
        (AugmentSettings(crop="pad", flip=0.0, flip_alternates=True), "set flip to a share between 0 and 1"),
    ],
)
def test_new_settings_say_what_does_not_fit(augment: AugmentSettings, said: str):
    with pytest.raises(UserError, match=said):
        TrainTransform(RGB, augment)


def test_crops_reach_every_offset_and_half_are_flipped():
    ramp = torch.arange(1, 33, dtype=torch.uint8).expand(2000, 1, 32).contiguous()  # a row: its value tells its place
    images = ramp[..., None].expand(2000, 32, 32, 1).contiguous()
    transform = TrainTransform(dataclasses.replace(GREY, image_size=32), PLAIN)
    pixels = transform.batch(images, Batch(0, 32, 1, np.arange(2000)))[:, 0, 16]  # (2000, 32), one row
    flipped = pixels[:, 15] > pixels[:, 16]
    assert 900 < flipped.sum() < 1100
    assert set((pixels[~flipped][:, 16].int() - 17).tolist()) == set(range(-4, 5))


def test_copies_and_epochs_differ_and_a_seed_repeats():
    images = stored()

    def pixels(seed: int, epoch: int) -> torch.Tensor:
        transform = TrainTransform(RGB, dataclasses.replace(PLAIN, autoaugment="imagenet"), seed)
        return transform.batch(images, dataclasses.replace(BATCH, epoch=epoch))

    first = pixels(0, 0)
    assert torch.equal(first, pixels(0, 0))
    assert not torch.equal(first, pixels(1, 0))
    assert not torch.equal(first, pixels(0, 1))
    assert not torch.equal(first[:4], first[4:8])


def test_no_crop_and_no_flip_is_evaluations_image():
    images = stored()
    transform = TrainTransform(RGB, AugmentSettings(crop="none", flip=0.0))
    expected = resize(images[torch.from_numpy(BATCH.indices)].permute(0, 3, 1, 2), (24, 24))
    assert torch.equal(transform.batch(images, BATCH)[:4], expected)


def test_random_resized_crops_have_the_shares_asked_for():
    whole = AugmentSettings(crop="random-resized", flip=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    transform = TrainTransform(RGB, whole)
    images = stored()
    expected = resize(images[5].permute(2, 0, 1), (24, 24))
    assert torch.equal(transform.batch(images, BATCH)[0], expected)
    quarter = TrainTransform(RGB, dataclasses.replace(whole, scale=(0.25, 0.25)))
    ramp = torch.arange(0, 160, 5, dtype=torch.uint8)[None, :, None].expand(32, 32, 3)[None].contiguous()
    row = quarter.batch(ramp, Batch(0, 16, 1, np.array([0])))[0, 0, 8]
    assert row[15].int() - row[0].int() == 15 * 5  # half the side at its own resolution


@pytest.mark.parametrize("size", [16, 32, 48])
def test_cutout_covers_its_square_clipped_by_the_border(size: int):
    transform = TrainTransform(RGB, AugmentSettings(crop="none", flip=0.0, cutout=16))
    indices = np.arange(3000)
    batch = Batch(0, size, 1, indices)
    pixels = torch.full((3000, 3, size, size), 255, dtype=torch.uint8)
    holes = (transform.finish(pixels, batch) == 0).all(1)
    side = size // 2
    assert holes.sum((1, 2)).max() == side**2
    covered = [sum(min(size, c - side // 2 + side) - max(0, c - side // 2) for c in range(size)) / size] * 2
    assert abs(holes.float().sum((1, 2)).mean() / np.prod(covered) - 1) < 0.02  # centres are uniform
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(rows * columns, holes.sum((1, 2)))  # one rectangle


def test_lighting_adds_one_colour_an_image_of_the_published_covariance():
    transform = TrainTransform(RGB, AugmentSettings(crop="none", flip=0.0, lighting=0.1))
    indices = np.arange(20_000)
    batch = Batch(0, 2, 1, indices)
    pixels = torch.full((20_000, 3, 2, 2), 128, dtype=torch.uint8)
    noise = transform.finish(pixels, batch) - normalize(pixels, RGB)
    assert noise.std((2, 3)).max() < 1e-6
    colours = (noise[:, :, 0, 0] * torch.tensor(RGB.std)).double().numpy()
    # Krizhevsky et al.: p * (alpha * lambda) summed over the components, alpha of standard deviation 0.1
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = vectors @ np.diag((0.1 * np.array([0.2175, 0.0188, 0.0045])) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(colours.T), expected, rtol=0.05)


def test_grey_images_take_autoaugment_and_jitter():
    augment = AugmentSettings(crop="pad", flip=0.5, autoaugment="imagenet", color_jitter=0.4)
    transform = TrainTransform(GREY, augment)
    pixels = transform.batch(stored(28, 1), dataclasses.replace(BATCH, copies=8))
    assert pixels.shape == (32, 1, 24, 24)


@pytest.mark.parametrize(
    ("preprocessing", "augment", "message"),
    [
        (GREY, AugmentSettings(crop="pad", flip=0.5, lighting=0.1), "lighting is 0.1, but the images have 1 channel"),
        (RGB, AugmentSettings(crop="pad", flip=0.5, scale=(0.5, 0.1)), r"augment.scale is \[0.5, 0.1\]"),
        (RGB, AugmentSettings(crop="pad", flip=0.5, scale=(0.5, 2.0)), "at most 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(preprocessing: Preprocessing, augment: AugmentSettings, message: str):
    with pytest.raises(UserError, match=message):
        TrainTransform(preprocessing, augment)
