"""What becomes of pixels: values beyond 8 bits, and EXIF rotations."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import smooth_image
from mask_folders import mask_of, save_grey, write_png
from PIL import Image, ImageOps, TiffImagePlugin

from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.decode import decode_rgb
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.experiment.image_files import image_files
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, override

RAMP = np.linspace(0, 65535, 16 * 16).round().reshape(16, 16).astype(np.uint16)
GREY = np.rint(RAMP / 65535 * 255)


def tiff(path: Path, values: np.ndarray, **tags: Any) -> Path:
    """A TIFF with tags beside PIL's own."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


def write_16_bits(folder: Path) -> list[Path]:
    """One picture in what carries 16 bits of grey, or says that it has 10 or 12."""
    files = [folder / f"grey.{ending}" for ending in ("png", "tif", "jp2", "pgm")]
    write_png(files[0], RAMP, 16)
    for path in files[1:]:
        Image.fromarray(RAMP).save(path)
    (folder / "ten.pgm").write_bytes(b"P5 16 16 1023\n" + (RAMP >> 6).astype(">u2").tobytes())
    files.append(folder / "ten.pgm")
    files.append(tiff(folder / "twelve.tif", RAMP >> 4, t281=4095))
    files.append(tiff(folder / "whole32.tif", RAMP.astype(np.int32), t280=0, t281=65535))
    return [*files, tiff(folder / "float.tif", (RAMP / 65535).astype(np.float32), t340=0.0, t341=1.0)]


def test_grey_values_beyond_8_bits_are_scaled_by_their_stated_range(tmp_path: Path):
    for path in write_16_bits(tmp_path):
        pixels = decode_rgb(str(path))
        assert (pixels.dtype, pixels.shape) == (np.uint8, (16, 16, 3)), path
        assert np.abs(pixels.astype(int) - GREY[..., None]).max() <= 1, path
        assert (pixels[..., 0] == pixels[..., 2]).all(), path


def test_a_tiff_whose_zero_is_white_is_turned_round(tmp_path: Path):
    path = tiff(tmp_path / "x.tif", RAMP)
    data = path.read_bytes()
    at = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01")  # tag 262, one short: 1, zero is black
    path.write_bytes(data[: at + 8] + b"\x00" + data[at + 9 :])
    assert np.abs(decode_rgb(str(path))[..., 0].astype(int) - (255 - GREY)).max() <= 1


@pytest.mark.parametrize("values", [RAMP.astype(np.int32), (RAMP / 65535).astype(np.float32), RAMP.astype(np.float32)])
def test_numbers_without_a_stated_range_are_refused_by_name(tmp_path: Path, values: np.ndarray):
    for name in ("a", "b"):
        (tmp_path / f"train/{name}").mkdir(parents=True)
        smooth_image(0, 16, 16).save(tmp_path / f"train/{name}/0.png")
    bad = tiff(tmp_path / "train/a/bad.tif", values)
    with pytest.raises(BadImage, match=r"no range of them is stated; save it with 8 or 16 bits a pixel"):
        decode_rgb(str(bad))
    settings = DataSettings(name="folder", root=str(tmp_path), on_bad_image="skip")
    source = load_dataset(settings, "train")
    assert (len(source), list(source.bad_files)) == (2, [str(bad)])


def test_sixteen_bits_with_a_sign_have_no_range(tmp_path: Path):
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2"]
    header = "".join(f"{card:80}" for card in (*cards, "NAXIS1  = 16", "NAXIS2  = 16", "END")).ljust(2880)
    (tmp_path / "a.fits").write_bytes(header.encode() + (RAMP.astype(int) - 32768).astype(">i2").tobytes())
    with pytest.raises(BadImage, match="or with a sign"):
        decode_rgb(str(tmp_path / "a.fits"))


def test_masks_of_16_bits_hold_numbers_that_are_not_scaled(tmp_path: Path):
    (tmp_path / "train/images").mkdir(parents=True)
    write_png(tmp_path / "train/images/0.png", RAMP, 16)
    (tmp_path / "train/masks").mkdir()
    write_png(tmp_path / "train/masks/0.png", mask_of(0, 1, 2, height=16, width=16).astype(np.uint16), 16)
    source = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    image, mask, stored = source.read(0)
    assert np.abs(image[0].numpy().astype(int) - GREY).max() <= 1
    assert (mask.unique().tolist(), stored) == ([0, 1, 2], (16, 16))


def rotated(orientation: int, ending: str, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """A file of 12 x 20 pixels that carries an orientation, and its pixels turned upright by PIL."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    smooth_image(seed, 12, 20).save(buffer, ending, exif=exif, **({"lossless": True} if ending == "WEBP" else {}))
    with Image.open(buffer) as image:
        return buffer.getvalue(), np.array(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("ending", ["JPEG", "PNG", "WEBP"])
def test_exif_rotations_are_applied_where_they_are_asked_for(tmp_path: Path, ending: str):
    for orientation in range(1, 10):  # 9 is none
        data, upright = rotated(orientation, ending)
        (tmp_path / "x").write_bytes(data)
        assert np.array_equal(decode_rgb(str(tmp_path / "x"), exif=True), upright)
        assert decode_rgb(str(tmp_path / "x")).shape == (12, 20, 3)


def test_the_check_counts_images_that_carry_one_and_every_source_takes_the_setting(tmp_path: Path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            smooth_image(0, 12, 20).save(tmp_path / split / name / "plain.jpg")
    data, upright = rotated(6, "JPEG")
    (tmp_path / "train/a/turned.jpg").write_bytes(data)
    stored = DataSettings(name="folder", root=str(tmp_path))
    seen = DataSettings(name="folder", root=str(tmp_path), exif=True)
    for settings, heights in ((stored, (12, 12, 12)), (seen, (12, 12, 20))):
        train, validation = check_dataset(settings)
        assert (train.turned, validation.turned, train.heights) == (1, 0, heights)
    assert load_dataset(stored, "train").image(1).shape == (3, 12, 20)
    for source in (load_dataset(seen, "train"), load_dataset(seen, "train").subset(np.arange(3))):
        assert torch.equal(source.image(1), torch.from_numpy(upright).permute(2, 0, 1))
    recipe = override(Recipe(), {"data.exif": True})
    for channels in (1, 3):  # to predict for, and to calibrate with
        preprocessing = Preprocessing(16, (0.5,) * channels, (0.5,) * channels, classes=("a", "b"))
        files = image_files(recipe, preprocessing, [str(tmp_path / "train/a/turned.jpg")])
        assert files.image(0).shape == (channels, 20, 12)


def test_a_mask_that_differs_by_the_rotation_alone_says_so(tmp_path: Path):
    (tmp_path / "train/images").mkdir(parents=True)
    for i, mask in enumerate((mask_of(0, 1, height=20, width=12), mask_of(0, 1, height=12, width=20))):
        (tmp_path / f"train/images/{i}.jpg").write_bytes(rotated(6, "JPEG", i)[0])
        save_grey(tmp_path / f"train/masks/{i}.png", mask)
    save_grey(tmp_path / "train/masks/2.png", mask_of(0, 1, height=5, width=5))
    (tmp_path / "train/images/2.jpg").write_bytes(rotated(6, "JPEG")[0])
    settings = DataSettings(name="folder-masks", root=str(tmp_path))
    for exif, turned, as_it_is, hint in (
        (False, 0, 1, "set data.exif to true"),
        (True, 1, 0, "set data.exif to false"),
    ):
        source = load_dataset(DataSettings(name="folder-masks", root=settings.root, exif=exif), "train", "masks")
        image, mask, _ = source.read(as_it_is)
        assert image.shape[1:] == mask.shape
        with pytest.raises(BadImage, match=f"carries an EXIF rotation, .*{hint}"):
            source.read(turned)
        with pytest.raises(BadImage, match=r"has 5 x 5 pixels .* expected the same$"):
            source.read(2)
