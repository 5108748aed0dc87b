"""Image folders: which files are found, how they are read, and what is said when something is wrong."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import damage, smooth_image, varied, write_folder
from PIL import Image

import anysize.data.decode
from anysize.data.catalog import build_preprocessing, dataset_info, load_dataset
from anysize.data.check import check_dataset
from anysize.data.decode import decode_rgb
from anysize.data.formats import listing
from anysize.data.left_out import warn_of
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import ArraySource, FileSource
from anysize.registry import UserError


def settings(root: Path, **changes: object) -> DataSettings:
    return DataSettings(name="folder", root=str(root), **changes)


def test_small_images_of_one_size_are_held_in_memory_and_others_stay_files(tmp_path: Path):
    small = load_dataset(settings(write_folder(tmp_path / "small")), "train")
    assert isinstance(small, ArraySource)
    assert small.images.shape == (12, 24, 24, 3)
    files = load_dataset(settings(tmp_path / "small", memory_limit=0), "train")
    assert isinstance(files, FileSource)
    assert isinstance(load_dataset(settings(write_folder(tmp_path / "varied", size=varied)), "train"), FileSource)
    large = write_folder(tmp_path / "large", 1, lambda i: (300, 300))
    assert isinstance(load_dataset(settings(large), "train"), FileSource)
    assert small.targets.tolist() == files.targets.tolist() == [0] * 6 + [1] * 6
    assert small.classes == files.classes == ("cat", "dog")
    for i in range(12):
        assert torch.equal(small.image(i), files.image(i))
        assert (
            small.describe(i)
            == files.describe(i)
            == str(tmp_path / f"small/train/{files.classes[i // 6]}/{i % 6:03d}.jpg")
        )


def test_nested_images_are_found_and_hidden_files_left_alone(tmp_path: Path):
    root = write_folder(tmp_path, 2)
    nested = root / "train/cat/more/deep"
    nested.mkdir(parents=True)
    smooth_image(9, 24, 24).save(nested / "x.PNG")
    (root / "train/cat/._000.jpg").write_bytes(b"not an image")
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "train/.cache").mkdir()
    source = load_dataset(settings(root), "train")
    found = [os.path.relpath(source.describe(i), root / "train/cat") for i in range(3)]
    assert found == ["000.jpg", "001.jpg", "more/deep/x.PNG"]
    assert len(source) == 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_any_image_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = smooth_image(1, 24, 30).convert("RGB").convert(mode)
    image.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode_rgb(str(path))
    assert pixels.shape == (24, 30, 3)
    assert np.abs(pixels.astype(int) - np.asarray(Image.open(path).convert("RGB")).astype(int)).max() == 0


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_simplejpeg_gives_pils_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]):
    pytest.importorskip("simplejpeg")
    for i, mode in enumerate(("RGB", "L")):
        path = tmp_path / f"{i}.jpg"
        smooth_image(i, 61, 83).convert(mode).save(path, **options)
        fast = decode_rgb(str(path))
        with monkeypatch.context() as patch:
            patch.setattr(anysize.data.decode, "simplejpeg", None)
            assert np.array_equal(fast, decode_rgb(str(path)))


def test_a_folder_of_classes_is_split_once_and_for_all(tmp_path: Path):
    root = write_folder(tmp_path, 20, splits=(".",))
    train, validation = (load_dataset(settings(root), split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (36, 4)
    assert np.bincount(validation.targets).tolist() == [2, 2]
    names = [{source.describe(i) for i in range(len(source))} for source in (train, validation)]
    assert len(names[0] | names[1]) == 40
    again = load_dataset(settings(root), "validation")
    assert [again.describe(i) for i in range(4)] == [validation.describe(i) for i in range(4)]


def test_small_square_images_are_used_as_cifars_are(tmp_path: Path):
    small = dataset_info(settings(write_folder(tmp_path / "small", 1)))
    assert (small.image_size, small.resize, small.crop) == (24, "stretch", "pad")
    other = dataset_info(settings(write_folder(tmp_path / "other", 1, lambda i: (24, 30))))
    assert (other.image_size, other.resize, other.crop) == (224, "center-crop", "random-resized")


def test_limit_spreads_over_the_classes(tmp_path: Path):
    root = write_folder(tmp_path)
    source = load_dataset(settings(root, limit=5), "train")
    assert [Path(source.describe(i)).stem + source.classes[source.targets[i]] for i in range(5)] == [
        "000cat", "001cat", "002cat", "000dog", "001dog",
    ]  # fmt: skip


def test_a_damaged_file_stops_or_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = write_folder(tmp_path)
    bad = root / "train/cat/003.jpg"
    damage(bad)
    with pytest.raises(BadImage):
        decode_rgb(str(bad))
    with pytest.raises(UserError, match=f"{bad} cannot be used: it cannot be decoded .*--data.on_bad_image skip"):
        load_dataset(settings(root), "train")
    source = load_dataset(settings(root, on_bad_image="skip"), "train")
    assert len(source) == 11
    assert np.bincount(source.targets).tolist() == [5, 6]
    assert list(source.bad_files) == [str(bad)]
    assert caplog.text.count(str(bad)) == 1
    assert str(bad) not in [source.describe(i) for i in range(11)]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no jpeg at all", b"GIF89a", b"text"])
def test_whatever_is_in_a_file_it_is_a_bad_image_not_a_crash(tmp_path: Path, content: bytes):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImage):
        decode_rgb(str(path))


def test_a_truncated_png_is_bad(tmp_path: Path):
    buffer = io.BytesIO()
    smooth_image(0, 64, 64).save(buffer, "PNG")
    path = tmp_path / "x.png"
    path.write_bytes(buffer.getvalue()[:-2000])
    with pytest.raises(BadImage):
        decode_rgb(str(path))


def test_check_counts_measures_and_lists_the_damaged(tmp_path: Path):
    root = write_folder(tmp_path, size=varied)
    damage(root / "train/dog/002.jpg")
    train, validation = check_dataset(settings(root))
    assert train.counts == {"cat": 6, "dog": 5}
    assert list(train.damaged) == [str(root / "train/dog/002.jpg")]
    assert (validation.images, validation.damaged) == (12, {})
    assert validation.heights == (40, 47, 55)
    assert validation.widths == (40, 45, 50)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"'folder' needs a folder: set data\.root"):
        load_dataset(DataSettings(name="folder"), "train")
    with pytest.raises(UserError, match="nowhere', which is not a folder"):
        load_dataset(settings(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_dataset(settings(tmp_path, download=True), "train")
    with pytest.raises(UserError, match="holds no class folders"):
        load_dataset(settings(tmp_path), "train")
    root = write_folder(tmp_path / "a", 1, splits=("train",))
    with pytest.raises(
        UserError, match=r"has no folder validation \(or val, valid, dev, test\); expected train/CLASS/IMAGE"
    ):
        load_dataset(settings(root), "validation")
    with pytest.raises(UserError, match=r"has no folder train \(or training\); expected train/CLASS/IMAGE"):
        load_dataset(settings(write_folder(tmp_path / "b", 1, splits=("val",))), "train")


def test_the_base_size_is_that_of_the_first_image_that_can_be_read(tmp_path: Path):
    root = write_folder(tmp_path, 1)
    damage(root / "train/cat/000.jpg")
    assert dataset_info(settings(root)).image_size == 24
    (root / "train/cat/000.jpg").write_text("no image")
    (root / "train/dog/000.jpg").write_text("no image")
    with pytest.raises(UserError, match="train holds no image that can be read"):
        dataset_info(settings(root))


def test_an_empty_class_is_named(tmp_path: Path):
    root = write_folder(tmp_path)
    (root / "train/emu").mkdir()
    (root / "train/emu/notes.txt").write_text("no image")
    with pytest.raises(UserError, match=rf"class 'emu' has no image in {root}/train/emu; expected .*\.jpg .*\.png"):
        load_dataset(settings(root), "train")
    (root / "val/emu").mkdir()
    (root / "train/dog/000.jpg").write_text("no image")
    checked = {each.split: each for each in check_dataset(settings(root))}  # names it, and all else that it finds
    assert checked["train"].empty == (f"{root}/train/emu",)
    assert checked["validation"].counts == {"cat": 6, "dog": 6, "emu": 0}
    assert [*checked["train"].damaged] == [f"{root}/train/dog/000.jpg"]


def test_validation_must_have_the_classes_of_training(tmp_path: Path):
    root = write_folder(tmp_path)
    (root / "val/dog").rename(root / "val/dogs")
    with pytest.raises(UserError, match="other classes than the train folder beside it: dog, dogs"):
        load_dataset(settings(root), "validation")


def test_settings_override_the_usual_preprocessing():
    info = dataset_info(DataSettings(name="cifar10"))
    changed = DataSettings(name="cifar10", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize="crop-or-pad")
    preprocessing = build_preprocessing(changed, info, base=40, classes=["a"])
    assert (preprocessing.image_size, preprocessing.mean, preprocessing.std) == (40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocessing.resize, preprocessing.classes) == ("crop-or-pad", ("a",))
    with pytest.raises(UserError, match=r"data\.mean is .* 3 channels"):
        build_preprocessing(DataSettings(name="cifar10", mean=(0.5,)), info)
    with pytest.raises(UserError, match=r"data\.std is .*; expected positive values"):
        build_preprocessing(DataSettings(name="cifar10", std=(0.5, 0.0, 0.5)), info)


def test_each_folder_of_a_class_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_folder(tmp_path, 2, varied)
    (root / "train/cat/deeper").mkdir()
    smooth_image(0, 20, 20).save(root / "train/cat/deeper/9.jpg")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda folder: (listed.append(os.fspath(folder)), scandir(folder))[1])
    assert len(load_dataset(settings(root, memory_limit=0), "train")) == 5
    classes = [folder for folder in listed if folder.startswith(os.path.join(root, "train", ""))]
    assert sorted(classes) == [str(root / "train" / name) for name in ("cat", "cat/deeper", "dog")]


def test_what_all_processes_leave_out_is_said_by_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    root = write_folder(tmp_path, 3)
    damage(root / "train/cat/001.jpg")
    (root / "train/cat/\x1b[2Jnotes.txt").touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, count in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        caplog.clear()
        source = load_dataset(settings(root, on_bad_image="skip"), "train")
        warn_of(source.left_out, source.name)
        assert (caplog.text.count("001.jpg"), caplog.text.count("notes.txt")) == (count, count)
        assert [*source.bad_files] == [str(root / "train/cat/001.jpg")]
        assert "\x1b" not in caplog.text
