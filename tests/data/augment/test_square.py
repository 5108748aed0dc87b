"""Evaluation's preprocessing against torchvision's reference transforms."""

import numpy as np
import pytest
import torch
from image_files import smooth_image
from torchvision.transforms import v2

from anysize.data.augment.square import EvalTransform, to_crops, to_square
from anysize.data.augment.transform import normalize
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

IMAGENET = Preprocessing(image_size=64)
CIFAR = Preprocessing(image_size=32, resize="stretch")
AUTHORS = Preprocessing(image_size=32, resize="crop-or-pad")


def tensor(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return v2.functional.pil_to_tensor(smooth_image(seed, height, width))


@pytest.mark.parametrize(("height", "width"), [(90, 130), (130, 90), (50, 50)])
@pytest.mark.parametrize("size", [48, 64, 80])
def test_center_crop_is_torchvisions_resize_and_center_crop(height: int, width: int, size: int):
    reference = v2.Compose([v2.Resize(int(size / 0.875)), v2.CenterCrop(size)])
    image = smooth_image(1, height, width)
    ours = to_square(v2.functional.pil_to_tensor(image), size, IMAGENET)
    assert torch.equal(ours, reference(v2.functional.pil_to_tensor(image)))
    from_pil = v2.functional.pil_to_tensor(reference(image))  # PIL's own resize: another implementation
    assert (ours.int() - from_pil.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [16, 24, 32, 40, 48])
def test_stretch_is_torchvisions_resize_of_the_whole_image(size: int):
    image = smooth_image(2, 32, 32)
    ours = to_square(v2.functional.pil_to_tensor(image), size, CIFAR)
    assert (ours.int() - v2.functional.pil_to_tensor(v2.Resize((size, size))(image)).int()).abs().max() <= 1


def test_crop_or_pad_shows_less_or_adds_a_black_frame():
    image = tensor(32, 32)
    assert torch.equal(to_square(image, 24, AUTHORS), image[:, 4:28, 4:28])
    assert torch.equal(to_square(image, 32, AUTHORS), image)
    framed = to_square(image, 48, AUTHORS)
    assert torch.equal(framed[:, 8:40, 8:40], image)
    assert framed.sum() == image.sum()  # everything around is black


def test_crop_or_pad_resizes_other_images_to_the_base_size_first():
    image = tensor(64, 64)
    assert torch.equal(to_square(image, 24, AUTHORS), v2.Resize(32)(image)[:, 4:28, 4:28])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_interpolation_is_the_one_asked_for(interpolation: str):
    image = tensor(40, 40)
    mode = v2.InterpolationMode(interpolation)
    ours = to_square(image, 23, Preprocessing(32, resize="stretch", interpolation=interpolation))
    assert torch.equal(ours, v2.Resize((23, 23), interpolation=mode)(image))


def test_normalize_is_torchvisions_and_channels_last():
    pixels = torch.stack([tensor(20, 20, seed) for seed in range(3)])
    ours = normalize(pixels, IMAGENET)
    reference = v2.Normalize(IMAGENET.mean, IMAGENET.std)(v2.ToDtype(torch.float32, scale=True)(pixels))
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("crops", [5, 10])
def test_several_crops_are_corners_centre_and_mirrored(crops: int):
    image = tensor(80, 60)
    ours = to_crops(image, 48, IMAGENET, crops)
    resized = v2.Resize(int(48 / 0.875))(image)
    corners = [resized[:, :48, :48], resized[:, :48, -48:], resized[:, -48:, :48], resized[:, -48:, -48:]]
    assert torch.equal(ours[:4], torch.stack(corners))
    assert torch.equal(ours[4], to_square(image, 48, IMAGENET))
    if crops == 10:
        assert {row.numpy().tobytes() for row in ours[5:].flip(-1)} == {row.numpy().tobytes() for row in ours[:5]}


def test_crops_of_a_batch_come_crop_by_crop():
    transform = EvalTransform(CIFAR, crops=5)
    images = torch.stack([tensor(32, 32, seed) for seed in range(3)]).permute(0, 2, 3, 1)
    batch = Batch(0, 28, 1, np.array([2, 0]))
    together = transform.batch(images, batch).unflatten(0, (5, 2))
    for place, index in enumerate((2, 0)):
        assert torch.equal(together[:, place], transform.image(images[index].permute(2, 0, 1), batch.at([place])))


def test_crops_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="5 crops of 48 px do not fit"):
        to_crops(tensor(32, 32), 48, AUTHORS, 5)


def test_calibrated_for_another_size_images_are_scaled_as_before():
    image = tensor(50, 40)
    calibrated = Preprocessing(image_size=40, resize="crop-or-pad", trained_size=32)
    assert torch.equal(to_square(image, 40, calibrated), to_square(image, 40, AUTHORS))
    assert calibrated.own_size == Preprocessing.from_dict(calibrated.to_dict()).own_size == 32
    assert Preprocessing.from_dict(AUTHORS.to_dict()).own_size == 32
