"""JPEGs decoded at a part of their size for training: what comes out, when, and that nothing else changes."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damage, smooth_image
from PIL import Image
from torch import Tensor

from anysize.data import decode
from anysize.data.augment.joint import JointTrainTransform
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.square import EvalTransform
from anysize.data.augment.transform import Transform
from anysize.data.decode import decode_reduced, decode_rgb, decoder
from anysize.data.loader import PlanLoader
from anysize.data.pictures import BadImage, TooLarge
from anysize.data.settings import AugmentSettings
from anysize.data.source import FileSource
from anysize.preprocessing import Preprocessing
from anysize.sizes.batch import Batch

HEIGHT, WIDTH = 203, 310


def jpeg(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    smooth_image(seed, height, width).convert(mode).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def decibels(one: Tensor, other: Tensor) -> float:
    error = (one.double() - other.double()).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.fixture(params=["simplejpeg", "PIL"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "PIL":
        monkeypatch.setattr(decode, "simplejpeg", None)
    assert decoder().startswith(request.param)
    return request.param


@pytest.mark.usefixtures("by")
def test_the_smallest_part_that_is_enough_is_decoded_and_looks_alike() -> None:
    data = jpeg()
    whole = decode_rgb(data)
    for need, part in ((1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.001, 8)):
        pixels, stored = decode_reduced(data, lambda *_, need=need: need)
        assert stored == (HEIGHT, WIDTH)
        assert pixels.shape == (round(HEIGHT / part), round(WIDTH / part), 3)
        averaged = Image.fromarray(whole).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BOX)
        assert decibels(torch.from_numpy(pixels), torch.from_numpy(np.array(averaged))) > 36
    for odd, shape in (((1, 1), (1, 1)), ((3, 9), (2, 4)), ((15, 8), (2, 1)), ((17, 4), (4, 1))):
        pixels, stored = decode_reduced(jpeg(0, *odd), lambda *_: 0.001)
        assert (stored, pixels.shape) == (odd, (*shape, 3))


@pytest.mark.usefixtures("by")
def test_turned_photographs_are_asked_for_as_they_are_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    asked = []

    def need(height: int, width: int) -> float:
        asked.append((height, width))
        return 0.3

    data = jpeg(exif=exif)
    pixels, stored = decode_reduced(data, need, exif=True)
    assert asked == [stored] == [(WIDTH, HEIGHT)]
    assert pixels.shape == (WIDTH // 2, 102, 3)
    small = np.array(Image.fromarray(decode_rgb(data, exif=True)).resize((102, WIDTH // 2), Image.Resampling.BOX))
    assert decibels(torch.from_numpy(pixels), torch.from_numpy(small)) > 36
    assert decode_reduced(data, need)[1] == (HEIGHT, WIDTH)  # data.exif is false


@pytest.mark.usefixtures("by")
def test_what_is_no_whole_jpeg_is_decoded_in_full_or_refused_as_ever(tmp_path: Path) -> None:
    def least(*_: int) -> float:
        return 0.001

    smooth_image(0, 40, 60).save(tmp_path / "x.png")
    others = [(tmp_path / "x.png").read_bytes(), jpeg(mode="CMYK")]
    for data in others:
        pixels, stored = decode_reduced(data, least)
        assert np.array_equal(pixels, decode_rgb(data))
        assert stored == pixels.shape[:2]
    assert decode_reduced(jpeg(mode="L"), least)[0].shape == (25, 39, 3)
    assert decode_reduced(jpeg(progressive=True), least)[0].shape == (25, 39, 3)
    cut = jpeg()[:2000]
    for bad in (cut, cut[:20], b"\xff\xd8\xff", b""):
        with pytest.raises(BadImage, match="cannot be decoded"):
            decode_reduced(bad, least)
    with pytest.raises(TooLarge, match="has 62,930 pixels"):
        decode_reduced(jpeg(), least, max_pixels=60_000)


@pytest.mark.usefixtures("by")
def test_a_damaged_file_is_found_at_any_scale_or_at_none() -> None:
    rng, damaged = np.random.default_rng(0), 0
    whole = [jpeg(1, 90, 130), jpeg(1, 90, 130, progressive=True), jpeg(1, 90, 130, restart_marker_blocks=4)]
    for number in range(150):
        data = bytearray(whole[number % 3])
        if number % 2:
            data = data[: rng.integers(len(data))]
        for place in rng.integers(len(data), size=number % 3) if data else ():
            data[place] = rng.integers(256)
        try:
            full = decode_rgb(bytes(data)).shape[:2]
        except BadImage:
            damaged += 1
            with pytest.raises(BadImage):
                decode_reduced(bytes(data), lambda *_: 0.2)
        else:
            assert decode_reduced(bytes(data), lambda *_: 0.2)[1] == full
    assert 50 < damaged < 120


class Halves:
    """Masks of 1 to the right of the middle."""

    def __len__(self) -> int:
        return 3

    def files(self) -> list[str]:
        return []

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        mask = np.zeros(shape, np.uint8)
        mask[:, shape[1] // 2 :] = 1
        return mask


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[:, WIDTH // 2 :] = 255
    Image.fromarray(mask).save(folder / "2.jpg", quality=95)  # what its mask says
    return [str(folder / f"{number}.jpg") for number in range(3)]


PLAIN = Preprocessing(24)
STRETCHED = Preprocessing(24, resize="stretch")
TRANSFORMS = {
    "random-resized": lambda: TrainTransform(PLAIN, AugmentSettings(crop="random-resized", flip=0.5, scale=(0.3, 1))),
    "pil": lambda: TrainTransform(PLAIN, AugmentSettings(crop="random-resized", flip=0.5, backend="pil")),
    "none": lambda: TrainTransform(PLAIN, AugmentSettings(crop="none", flip=0.5)),
    "none, stretched": lambda: TrainTransform(STRETCHED, AugmentSettings(crop="none", flip=0.5, backend="pil")),
    "pad": lambda: TrainTransform(PLAIN, AugmentSettings(crop="pad", flip=0.5)),
    "pad, stretched": lambda: TrainTransform(STRETCHED, AugmentSettings(crop="pad", flip=0.5, backend="pil")),
}  # fmt: skip
JOINT = {
    "rescale": lambda: JointTrainTransform(Preprocessing(100, resize="pad"), AugmentSettings(crop="rescale", flip=0.5)),
    "none": lambda: JointTrainTransform(Preprocessing(48, resize="stretch"), AugmentSettings(crop="none", flip=0)),
    "random-resized": lambda: JointTrainTransform(
        Preprocessing(48, resize="pad"), AugmentSettings(crop="random-resized", flip=0.5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_crops_of_smaller_images_show_what_those_of_whole_ones_do(paths: list[str], name: str) -> None:
    transform: Transform = TRANSFORMS[name]()
    scaled, full = (FileSource(paths, np.arange(3), ("a",), "x", scaled=scaled) for scaled in (True, False))
    batch = Batch(2, 24, 2, np.arange(3))
    read = [scaled.image_for(i, lambda h, w, i=i: transform.need((h, w), batch.at([i])))[0].shape for i in range(3)]
    assert max(shape[1] for shape in read) < HEIGHT
    (ours,), (expected,) = (list(PlanLoader(each, transform, reduced=True).load([batch])) for each in (scaled, full))
    (in_full,) = PlanLoader(scaled, transform).load([batch])
    assert torch.equal(in_full.images, expected.images)  # a loader that is not told to reduces nothing
    assert ours.images.shape == expected.images.shape
    assert not torch.equal(ours.images, expected.images)
    std = torch.tensor(PLAIN.std)[:, None, None] * 255
    assert decibels(ours.images * std, expected.images * std) > 24  # a crop begins and ends at whole pixels
    assert torch.equal(ours.targets, expected.targets)


@pytest.mark.parametrize("name", JOINT)
def test_masks_stay_whole_and_say_what_the_smaller_image_shows(paths: list[str], name: str) -> None:
    transform: Transform = JOINT[name]()
    source = FileSource(paths, Halves(), ("a", "b"), "x", scaled=True)
    batch = Batch(1, 24, 8, np.array([2]))
    image, mask, stored = source.read(2, lambda h, w: transform.need((h, w), batch))
    assert tuple(mask.shape) == stored == (HEIGHT, WIDTH) != tuple(image.shape[1:])
    sample = transform.sample(image, mask, batch, stored)
    shown, told = sample.pixels[:, 0] > 127, sample.targets
    assert (told == 1).any()
    inside = told != 255
    assert (shown == (told == 1))[inside].double().mean() > 0.97  # all but the pixels on the line
    whole = FileSource(paths, Halves(), ("a", "b"), "x").read(2)
    agree = transform.sample(*whole[:2], batch, whole[2]).targets == told
    assert agree.double().mean() > 0.98


def test_evaluation_needs_images_in_full_and_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg())
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    damage(tmp_path / "1.jpg")
    source = FileSource([str(tmp_path / f"{i}.jpg") for i in range(2)], np.arange(2), ("a",), "x", "skip", scaled=True)
    assert EvalTransform(PLAIN).need((HEIGHT, WIDTH), Batch(0, 8, 1, np.arange(1))) == 1
    train = TRANSFORMS["random-resized"]()
    (batch,) = PlanLoader(source, train, reduced=True).load([Batch(0, 8, 1, np.arange(2))])
    assert batch.indices.tolist() == [0]
    assert list(source.bad_files) == [str(tmp_path / "1.jpg")]
