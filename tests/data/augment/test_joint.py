"""Images with masks: both are moved alike, results follow from the sample alone, and evaluation keeps every pixel."""

import dataclasses

import numpy as np
import pytest
import torch
from image_files import smooth_image
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.augment.joint_geometry import mean_colour, resize_into_frame
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.transform import normalize
from anysize.data.random import Stream, uniform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

RGB = Preprocessing(image_size=64, resize="pad")
RESCALE = AugmentSettings(crop="rescale", flip=0.5)
VOID = 255


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return F.pil_to_tensor(smooth_image(seed, height, width))


def halves(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Red on the left, green on the right, and blue where a square is; the mask says 1, 2 and 3."""
    mask = torch.ones(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] = 2
    mask[height // 4 : height // 2, width // 4 : width // 2] = 3
    image = torch.stack([torch.where(mask == value, 255, 0) for value in (1, 2, 3)]).to(torch.uint8)
    return image, mask


def batch_of(size: int, copies: int = 1, index: int = 0, epoch: int = 0) -> Batch:
    return Batch(epoch, size, copies, np.array([index]))


def classes_seen(pixels: Tensor) -> Tensor:
    """The class that a pixel's colour tells, 255 where it is the colour of padding, -1 where colours are mixed."""
    high = pixels > 200
    seen = torch.where(high.sum(1) == 1, high.int().argmax(1) + 1, -1)
    padding = torch.tensor(mean_colour(RGB))[None, :, None, None]
    return torch.where((pixels == padding).all(1), VOID, seen)


@pytest.mark.parametrize("crop", ["rescale", "random-resized", "none"])
@pytest.mark.parametrize("size", [48, 64, 97])
@pytest.mark.parametrize("color_jitter", [0.0, 0.3])
def test_the_mask_says_what_the_image_shows(crop: str, size: int, color_jitter: float):
    image, mask = halves(60, 90)
    augment = AugmentSettings(crop=crop, flip=0.5)
    sample = JointTrainTransform(RGB, augment, seed=3).sample(image, mask, batch_of(size, 30, index=7))
    assert sample.pixels.shape == (30, 3, size, size)
    assert sample.targets.shape == (30, size, size)
    assert sample.box.tolist() == [0, 0, size, size]
    seen = classes_seen(sample.pixels)
    clear = seen >= 0
    assert clear.float().mean() > 0.9  # the rest is on the border of two colours
    assert torch.equal(seen[clear], sample.targets[clear].to(seen.dtype))
    if color_jitter:
        jittered = JointTrainTransform(RGB, dataclasses.replace(augment, color_jitter=color_jitter), seed=3)
        other = jittered.sample(image, mask, batch_of(size, 30, index=7))
        assert torch.equal(other.targets, sample.targets)
        assert not torch.equal(other.pixels, sample.pixels)


@pytest.mark.parametrize("crop", ["rescale", "random-resized"])
def test_a_copy_depends_on_its_key_alone(crop: str):
    image, mask = photo(50, 70), halves(50, 70)[1]
    transform = JointTrainTransform(RGB, AugmentSettings(crop=crop, flip=0.5, color_jitter=0.4), seed=1)
    four = transform.sample(image, mask, batch_of(64, 4, epoch=2, index=9))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    two = transform.sample(image, mask, Batch(2, 64, 2, np.array([4, 9])).at([1]))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(four.pixels[:2], two.pixels)
    assert torch.equal(four.targets[:2], two.targets)
    others = [four.pixels[2:3], transform.sample(image, mask, batch_of(64, 1, epoch=2, index=8)).pixels]
    others += [transform.sample(image, mask, batch_of(64, 1, epoch=3, index=9)).pixels]
    reseeded = JointTrainTransform(RGB, transform.augment, seed=2)
    others += [reseeded.sample(image, mask, batch_of(64, epoch=2, index=9)).pixels]
    repeated = Batch(2, 64, 1, np.array([9, 9]), repeats=np.array([0, 1]))
    others += [transform.sample(image, mask, repeated.at([1])).pixels]
    assert torch.equal(transform.sample(image, mask, repeated.at([0])).pixels, two.pixels[:1])
    assert not any(torch.equal(two.pixels[:1], other) for other in others)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (64, 64), (31, 45), (200, 150)])
@pytest.mark.parametrize(("size", "mode"), [(64, ""), (65, ""), (64, "lanczos")])
def test_rescale_is_resize_pad_crop_flip_as_written_down(height: int, width: int, size: int, mode: str):
    """Each copy against PIL on the whole image: resize, pad half on both sides, crop, flip."""
    image, mask = photo(height, width), halves(height, width)[1]
    augment = dataclasses.replace(RESCALE, rescale_interpolation=mode)
    sample = JointTrainTransform(RGB, augment, seed=4).sample(image, mask, batch_of(size, 12, index=11))
    picture, labels = F.to_pil_image(image), Image.fromarray(mask.numpy())
    for copy in range(12):
        key = (4, 0, 11, copy)
        factor = 0.5 * 4 ** uniform(*key, Stream.RESCALE).item() * size / 64
        high, wide = round(height * factor), round(width * factor)
        canvases = []
        pad = [max(0, -((side - size) // 2)) for side in (high, wide)]
        for whole, filter, fill in (
            (picture, Image.Resampling[(mode or "bilinear").upper()], tuple(mean_colour(RGB))),
            (labels, Image.Resampling.NEAREST, VOID),
        ):
            canvas = Image.new(whole.mode, (wide + 2 * pad[1], high + 2 * pad[0]), fill)
            canvas.paste(whole.resize((wide, high), filter), (pad[1], pad[0]))
            top = int(uniform(*key, Stream.TOP).item() * (canvas.height - size + 1))
            left = int(uniform(*key, Stream.LEFT).item() * (canvas.width - size + 1))
            part = canvas.crop((left, top, left + size, top + size))
            if uniform(*key, Stream.FLIP).item() < 0.5:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            canvases.append(np.array(part))
        pixels = sample.pixels[copy].permute(1, 2, 0).numpy()
        difference = np.abs(pixels.astype(int) - canvases[0].astype(int))
        assert difference.max() <= 4
        assert difference.mean() < 0.5
        # a line of the mask may be its neighbour's where the two are equally near
        assert (sample.targets[copy].numpy() != canvases[1]).mean() < 0.03


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resized", [(375, 500), (563, 751), (747, 996), (188, 250), (301, 1003)])
def test_a_part_is_cut_from_where_it_lies_in_the_whole_resized(mode: str, resized: tuple[int, int]):
    """Within 1/32 of a pixel: of an image whose levels change by at most 8 a pixel, within 2 levels, two roundings."""
    y, x = torch.meshgrid(torch.arange(375.0), torch.arange(500.0), indexing="ij")
    levels = [128 + 60 * torch.sin(x / 20 + c) + 60 * torch.cos(y / 17 - c) for c in range(3)]
    image = tv_tensors.Image(torch.stack(levels).round().to(torch.uint8))
    rows = torch.arange(375, dtype=torch.uint8)[:, None]
    columns = (torch.arange(500) // 2).to(torch.uint8)
    preprocessing = dataclasses.replace(RGB, interpolation=mode)
    whole = F.resize(image, list(resized), InterpolationMode(mode), antialias=True).int()
    by_row, by_column = (tv_tensors.Mask(values.expand(1, 375, 500).contiguous()) for values in (rows, columns))
    for top, left, height, width in ((0, 0, 64, 64), (37, 91, 128, 100), (100, 201, 88, 49), (60, 122, 128, 128)):
        box = (top, left, height, width)
        part = resize_into_frame(image, resized, box, preprocessing).int()
        difference = (part - whole[:, top : top + height, left : left + width]).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.1
        for mask in (by_row, by_column):
            shown = F.resize(mask, list(resized), InterpolationMode.NEAREST_EXACT)
            expected = shown[:, top : top + height, left : left + width].int()
            difference = (resize_into_frame(mask, resized, box, preprocessing).int() - expected).abs()
            assert difference.max() <= max(1, 375 // resized[0])  # the neighbour, where two are almost equally near
            assert (difference > 0).float().mean() < 0.05


def test_factors_are_log_uniform_and_crops_reach_every_place():
    """A picture of one row and one column of numbers tells where a crop lies and how it was scaled."""
    image = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200).contiguous()
    augment = AugmentSettings(crop="rescale", flip=0.0, rescale=(0.5, 2.0))
    transform = JointTrainTransform(dataclasses.replace(RGB, image_size=32), augment)
    pixels = transform.sample(image, image[0], batch_of(32, 400)).pixels[:, 0, 16].float()
    slope = (pixels[:, 24] - pixels[:, 8]) / 16  # stored pixels a pixel
    powers = -torch.log2(slope)
    assert torch.allclose(
        powers.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])), torch.linspace(-1, 1, 5), atol=0.15
    )
    middle = pixels[:, 16]
    assert middle.min() < 32
    assert middle.max() > 168
    assert abs(middle.mean() - 100) < 6


def test_padding_is_half_on_both_sides_and_void():
    image, mask = photo(20, 33), torch.zeros(20, 33, dtype=torch.uint8)
    augment = AugmentSettings(crop="rescale", flip=0.0, rescale=(1.0, 1.0))
    sample = JointTrainTransform(RGB, augment).sample(image, mask, batch_of(64, 20))
    padded = sample.targets == VOID
    assert torch.equal((sample.pixels == torch.tensor(mean_colour(RGB))[None, :, None, None]).all(1), padded)
    rows, columns = (~padded).any(2), (~padded).any(1)
    assert set(rows.sum(1).tolist()) == {20}
    assert set(columns.sum(1).tolist()) == {33}
    assert set(rows.int().argmax(1).tolist()) == {22}
    assert set(columns.int().argmax(1).tolist()) == {15, 16}  # 31 do not halve: the crop decides


def test_no_crop_and_no_flip_is_the_middle_of_evaluations_image():
    augment = AugmentSettings(crop="none", flip=0.0)
    for height, width in ((40, 70), (41, 63), (90, 100)):
        image, mask = photo(height, width), halves(height, width)[1]
        trained = JointTrainTransform(RGB, augment).sample(image, mask, batch_of(64))
        evaluated = JointEvalTransform(RGB).sample(image, mask, batch_of(64))
        y, x = ((side - 64) // 2 for side in evaluated.pixels.shape[2:])
        assert torch.equal(trained.pixels, evaluated.pixels[..., y : y + 64, x : x + 64])
    stretched = dataclasses.replace(RGB, resize="stretch")
    trained = JointTrainTransform(stretched, augment).sample(image, mask, batch_of(48))
    assert torch.equal(trained.pixels, JointEvalTransform(stretched).sample(image, mask, batch_of(48)).pixels)


@pytest.mark.parametrize(
    ("height", "width", "size", "canvas", "box"),
    [
        (40, 50, 64, (64, 64), [12, 7, 40, 50]),  # at the base size nothing is resampled
        (41, 90, 64, (64, 90), [11, 0, 41, 90]),
        (100, 70, 64, (100, 70), [0, 0, 100, 70]),
        (40, 50, 128, (128, 128), [24, 14, 80, 100]),
        (40, 50, 32, (32, 32), [6, 3, 20, 25]),
    ],
)
def test_evaluation_keeps_the_shape_and_the_mask(
    height: int, width: int, size: int, canvas: tuple[int, int], box: list[int]
):
    image, mask = photo(height, width), halves(height, width)[1]
    sample = JointEvalTransform(RGB).sample(image, mask, batch_of(size))
    assert sample.pixels.shape == (1, 3, *canvas)
    assert sample.box.tolist() == box
    assert torch.equal(sample.targets, mask[None])
    top, left, high, wide = box
    shown = sample.pixels[0, :, top : top + high, left : left + wide]
    assert torch.equal(shown, image if size == 64 else F.resize(image, [high, wide], antialias=True))
    outside = torch.ones(canvas, dtype=torch.bool)
    outside[top : top + high, left : left + wide] = False
    assert (sample.pixels[0][:, outside] == torch.tensor(mean_colour(RGB))[:, None]).all()


def test_evaluation_stretches_where_it_is_asked_to():
    image, mask = photo(40, 50), halves(40, 50)[1]
    sample = JointEvalTransform(dataclasses.replace(RGB, resize="stretch")).sample(image, mask, batch_of(32))
    assert torch.equal(sample.pixels[0], F.resize(image, [32, 32], antialias=True))
    assert sample.box.tolist() == [0, 0, 32, 32]
    assert sample.targets.shape == (1, 40, 50)


def test_input_is_normalised_and_lit_as_without_masks():
    image, mask = photo(64, 64), halves(64, 64)[1]
    augment = AugmentSettings(crop="none", flip=0.0, lighting=0.1)
    transform, batch = JointTrainTransform(RGB, augment, seed=6), batch_of(64, 2, index=3)
    pixels = transform.sample(image, mask, batch).pixels
    plain = TrainTransform(dataclasses.replace(RGB, resize="stretch"), augment, seed=6)
    assert torch.equal(transform.finish(pixels, batch), plain.finish(pixels, batch))
    evaluation = JointEvalTransform(RGB)
    assert torch.equal(evaluation.finish(pixels, batch), normalize(pixels, RGB))
    padding = torch.tensor(mean_colour(RGB), dtype=torch.uint8)[None, :, None, None]
    assert normalize(padding, RGB).abs().max() < 0.01


def test_grey_images_are_padded_with_their_mean():
    grey = Preprocessing(image_size=32, mean=(0.5,), std=(0.5,), resize="pad")
    image, mask = photo(20, 20)[:1], torch.zeros(20, 20, dtype=torch.uint8)
    sample = JointTrainTransform(grey, AugmentSettings(crop="rescale", flip=0.5, color_jitter=0.2)).sample(
        image, mask, batch_of(32, 3)
    )
    assert sample.pixels.shape == (3, 1, 32, 32)
    assert JointEvalTransform(grey).sample(image, mask, batch_of(32)).pixels[0, 0, 0, 0] == 128


def test_the_smallest_and_the_longest_images_pass():
    for height, width in ((1, 1), (1, 300), (700, 2)):
        image, mask = photo(height, width), torch.zeros(height, width, dtype=torch.uint8)
        for crop in ("rescale", "random-resized", "none"):
            transform = JointTrainTransform(RGB, AugmentSettings(crop=crop, flip=0.5))
            assert transform.sample(image, mask, batch_of(33, 4)).pixels.shape == (4, 3, 33, 33)
        assert JointEvalTransform(RGB).sample(image, mask, batch_of(16)).targets.shape == (1, height, width)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "pad"}, "crop pad is for images with a class; expected rescale, random-resized or none"),
        ({"autoaugment": "imagenet"}, "autoaugment is 'imagenet', but its policies move pixels"),
        ({"cutout": 8}, "cutout is 8; .* set it to 0 for masks"),
        (
            {"crop": "none", "rescale_interpolation": "lanczos"},
            "rescale_interpolation is lanczos, and augment.crop none",
        ),
        ({"rescale": (2.0, 0.5)}, r"augment.rescale is \[2.0, 0.5\]; expected two positive numbers"),
        ({"rescale": (0.0, 0.5)}, r"augment.rescale is \[0.0, 0.5\]"),
    ],
)
def test_settings_that_do_not_fit_masks_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        JointTrainTransform(RGB, dataclasses.replace(RESCALE, **changes))


@pytest.mark.parametrize("resize", ["center-crop", "crop-or-pad"])
def test_what_cuts_images_off_is_refused(resize: str):
    preprocessing = dataclasses.replace(RGB, resize=resize)
    for make in (JointEvalTransform, lambda p: JointTrainTransform(p, RESCALE)):
        with pytest.raises(UserError, match=f"data.resize is '{resize}'.*expected pad or stretch"):
            make(preprocessing)


def test_rescale_is_refused_for_images_with_a_class():
    with pytest.raises(UserError, match="crop rescale is for images with masks; expected pad, random-resized or none"):
        TrainTransform(dataclasses.replace(RGB, resize="stretch"), RESCALE)
