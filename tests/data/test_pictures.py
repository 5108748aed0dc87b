"""No image or mask is decoded that has more pixels than the limit, and only regular files are read."""

import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hostile import SIDE, bombs, icon, png_header, specials
from image_files import damage, smooth_image, varied, write_folder
from mask_folders import mask_of, save_grey, save_image
from PIL import Image, ImageFile

from anysize.data import decode, pictures
from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.check import check_dataset
from anysize.data.decode import decode_rgb, decode_with_orientation, read_header
from anysize.data.formats.mask_files import read_mask
from anysize.data.pictures import BadImage, TooLarge
from anysize.data.settings import DataSettings
from anysize.experiment.image_files import image_files
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, override
from anysize.registry import UserError

LIMIT = rf"has {SIDE**2:,} pixels, and data\.max_pixels is 250,000,000: if the image is sound, raise that"


def test_a_header_that_states_too_many_pixels_is_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def decoding(*args: object, **kwargs: object) -> None:
        raise AssertionError("a decoder was called")

    (tmp_path / "icon.ico").write_bytes(icon())
    with pytest.raises(TooLarge, match=f"^it {LIMIT}$"):
        decode_rgb(str(tmp_path / "icon.ico"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoding)
    if decode.simplejpeg is not None:
        monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", decoding)
    before = Image.MAX_IMAGE_PIXELS
    for name, data in bombs().items():
        path = tmp_path / name
        path.write_bytes(data)
        assert len(data) < 2000
        for look in (decode_rgb, decode_with_orientation, lambda each: read_header(each)):
            with pytest.raises(TooLarge, match=f"^it {LIMIT}$"):
                look(str(path))
        with pytest.raises(TooLarge, match=rf"^its mask {path} {LIMIT}$"):
            read_mask(str(path))
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(decode, "simplejpeg", None)
    with pytest.raises(TooLarge, match=LIMIT):
        decode_rgb(str(tmp_path / "bomb.jpg"))


def test_the_limit_is_exact_and_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # of a program that uses PIL, too
    for ending in ("jpg", "png", "bmp", "webp", "gif", "tif"):
        path = str(tmp_path / f"a.{ending}")
        smooth_image(0, 10, 20).save(path)
        assert decode_rgb(path, max_pixels=200).shape == (10, 20, 3)
        assert read_header(path, max_pixels=200).shape == (10, 20)
        with pytest.raises(TooLarge, match=r"it has 200 pixels, and data\.max_pixels is 199"):
            decode_rgb(path, max_pixels=199)
    save_grey(tmp_path / "mask.png", mask_of(0, 1, height=10, width=20))
    assert read_mask(str(tmp_path / "mask.png"), 200).shape == (10, 20)
    with pytest.raises(TooLarge, match=r"mask\.png has 200 pixels"):
        read_mask(str(tmp_path / "mask.png"), 199)
    assert Image.MAX_IMAGE_PIXELS == 30


def test_what_is_no_regular_file_or_only_named_as_an_image_is_refused_at_once(tmp_path: Path):
    for what, path in specials(tmp_path, "x.png").items():
        for look in (decode_rgb, lambda each: read_header(each, max_pixels=100)):
            with pytest.raises(BadImage, match=rf"^it cannot be read \(it is {what}, and no file\)$"):
                look(str(path))
        with pytest.raises(BadImage, match=rf"^its mask {path} cannot be read \(it is {what}, and no file\)$"):
            read_mask(str(path))
    large = tmp_path / "large.png"
    large.touch()
    os.truncate(large, 2**40)  # which takes no room on the disk
    with pytest.raises(TooLarge, match=r"too large a file \(it has 1,099,511,627,776 bytes, of at most 2,067"):
        decode_rgb(str(large))
    script = tmp_path / "script.png"  # PIL would give it to Ghostscript
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(BadImage, match="in no image format"):
        decode_rgb(str(script))


def test_grey_values_of_a_large_image_are_scaled_in_parts(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 2**16, (150, 7), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.array_equal(decode_rgb(str(tmp_path / "grey.png"))[..., 0], np.rint(values / 65535 * 255))


def test_images_that_are_too_large_are_told_from_damaged_ones(
    tmp_path: Path, anysize: Callable[..., CompletedProcess[str]]
):
    root = write_folder(tmp_path / "folder", 4, varied)
    (root / "train/cat/0-bomb.jpg").write_bytes(bombs()["bomb.jpg"])  # also the first that tells how images are used
    damage(root / "train/cat/001.jpg")
    settings = DataSettings(name="folder", root=str(root))
    assert dataset_info(settings).image_size == 224
    train, validation = check_dataset(settings)
    assert [*train.too_large] == [str(root / "train/cat/0-bomb.jpg")]
    assert [*train.damaged] == [str(root / "train/cat/001.jpg")]
    assert (train.images, validation.too_large) == (7, {})
    small = check_dataset(dataclasses.replace(settings, max_pixels=40 * 50))
    assert (small[1].images, len(small[1].too_large)) == (2, 6)
    done = anysize("data", "check", "folder", "--data.root", str(root))
    assert done.returncode == 1
    assert f"too large: {root}/train/cat/0-bomb.jpg: it has 400,000,000 pixels" in done.stdout
    assert "1 too large file: raise data.max_pixels, remove it, or train with" in done.stdout
    assert "1 damaged file:" in done.stdout
    with pytest.raises(UserError, match=r"0-bomb\.jpg cannot be used: it has 400,000,000 .*on_bad_image skip$"):
        load_dataset(settings, "train")
    for path in root.glob("*/*/*.jpg"):
        path.unlink() if "bomb" in path.name else smooth_image(0, 24, 24).save(path)
    (root / "train/dog/bomb.jpg").write_bytes(bombs()["bomb.jpg"])
    source = load_dataset(dataclasses.replace(settings, on_bad_image="skip"), "train")
    assert (len(source), [*source.bad_files]) == (8, [str(root / "train/dog/bomb.jpg")])


def test_masks_and_pictures_to_predict_for_have_the_limit(tmp_path: Path):
    save_image(tmp_path / "train/images/a.jpg")
    save_image(tmp_path / "train/images/b.jpg")
    save_grey(tmp_path / "train/masks/a.png", mask_of(0, 1))
    (tmp_path / "train/masks/b.png").write_bytes(png_header(SIDE, SIDE, colours=0))
    source = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    with pytest.raises(TooLarge, match=rf"b\.png {LIMIT}"):
        source.read(1)
    recipe = override(Recipe(), {"data.max_pixels": 100})
    for channels in (1, 3):
        preprocessing = Preprocessing(16, (0.5,) * channels, (0.5,) * channels, classes=("a", "b"))
        with pytest.raises(TooLarge, match=r"data\.max_pixels is 100"):
            image_files(recipe, preprocessing, [str(tmp_path / "train/images/a.jpg")]).read(0)


def test_too_few_open_files_are_no_fault_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pictures, "open_regular", none_left)
    monkeypatch.setattr(pictures, "read_regular", none_left)
    for look in (decode_rgb, read_header):
        with pytest.raises(OSError, match="Too many open files"):
            look(str(tmp_path / "a.png"))
