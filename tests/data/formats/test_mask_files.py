"""Masks in files: the numbers that are stored come out, whatever the colours, and what is no mask is named."""

import struct
from pathlib import Path

import numpy as np
import pytest
from image_files import damage, smooth_image
from mask_folders import mask_of, save_grey, save_palette, write_png
from PIL import Image

from anysize.data.formats.mask_files import MaskFiles, read_mask
from anysize.data.pictures import BadImage


def test_palette_masks_give_their_indices_not_their_colours(tmp_path: Path):
    mask = mask_of(0, 3, 20, 255)
    save_palette(tmp_path / "a.png", mask)
    assert (read_mask(str(tmp_path / "a.png")) == mask).all()
    small = mask_of(0, 1, 3)  # PIL stores few colours with two bits a pixel
    image = Image.fromarray(small)
    image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0, 7, 7, 7])
    image.save(tmp_path / "b.png", bits=2)
    assert (read_mask(str(tmp_path / "b.png")) == small).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_grey_masks_give_the_numbers_in_the_file_for_any_number_of_bits(tmp_path: Path, bits: int):
    mask = mask_of(*range(min(2**bits, 20)), width=80)
    write_png(tmp_path / "a.png", mask, bits)
    read = read_mask(str(tmp_path / "a.png"))
    assert read.dtype == np.uint8
    assert (read == mask).all()


def test_grey_masks_of_eight_bits_and_other_formats(tmp_path: Path):
    mask = mask_of(0, 7, 130, 255)
    for ending in ("png", "bmp", "tif"):
        save_grey(tmp_path / f"a.{ending}", mask)
        assert (read_mask(str(tmp_path / f"a.{ending}")) == mask).all()


def test_numbers_are_checked_and_replaced(tmp_path: Path):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, numbers in zip(paths, ((0, 1, 2), (2, 255, 0), (0, 3, 1)), strict=True):
        save_palette(Path(path), mask_of(*numbers))
    files = MaskFiles(paths, 3)
    assert (files.read(0, mask_of(0).shape) == mask_of(0, 1, 2)).all()
    with pytest.raises(BadImage, match=r"2\.png has the class number 3; expected 0 to 2, or 255 where there is no cla"):
        files.read(2, mask_of(0).shape)
    kept = MaskFiles(paths, 3, np.array([0, 0, 1], dtype=np.uint8))
    assert (kept.read(1, mask_of(0).shape) == mask_of(1, 255, 0)).all()
    assert (kept[np.array([1, 0])].read(1, mask_of(0).shape) == mask_of(0, 0, 1)).all()


def test_what_is_no_mask_is_named(tmp_path: Path):
    colours, jpeg, broken, text, wide = (str(tmp_path / name) for name in ("c.png", "j.jpg", "b.png", "t.png", "w.png"))
    smooth_image(0, 30, 40).save(colours)
    smooth_image(0, 30, 40).convert("L").save(jpeg)
    save_grey(Path(broken), np.random.default_rng(0).integers(0, 21, (90, 90), dtype=np.uint8))
    damage(Path(broken))
    Path(text).write_text("no picture")
    write_png(Path(wide), np.array([[0, 300]]), 16)
    for path, message in (
        (colours, "pixels of mode RGB; expected one class number a pixel"),
        (jpeg, "is a JPEG file, which does not keep class numbers"),
        (broken, "cannot be decoded"),
        (text, "in no image format"),
        (wide, "class number 300; expected at most 255"),
        (str(tmp_path / "none.png"), "is not there"),
    ):
        with pytest.raises(BadImage, match=message) as error:
            MaskFiles([path], 21).read(0, (30, 40))
        assert f"its mask {path}" in str(error.value)


def write_tiff(path: Path, values: np.ndarray, bits: int, zero_is_white: bool = False) -> None:
    """A grey TIFF with 1, 2, 4 or 8 bits a pixel, written out by hand: PIL writes no such files."""
    weights = 2 ** (bits * np.arange(8 // bits)[::-1])
    data = (values.reshape(len(values), -1, 8 // bits).astype(int) @ weights).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not zero_is_white), 273: 0, 277: 1, 278: height}
    tags |= {273: 14 + 12 * 9, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data)


def test_numbers_in_tiffs_are_those_that_are_stored(tmp_path: Path):
    values = np.arange(64).reshape(4, 16)
    for bits in (1, 2, 4, 8):
        write_tiff(tmp_path / "mask.tif", values % 2**bits, bits)
        assert (read_mask(str(tmp_path / "mask.tif")) == values % 2**bits).all()
        write_tiff(tmp_path / "mask.tif", values % 2**bits, bits, zero_is_white=True)
        with pytest.raises(BadImage, match="is a TIFF whose 0 is white"):
            read_mask(str(tmp_path / "mask.tif"))
