"""The figures of a data set: counts, sizes from headers alone, colours, masks in pixels, what cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from mask_folders import mask_of, save_image, save_palette
from packs import opened, pack_folder
from PIL import Image
from torch import Tensor

from anysize.data.catalog import load_dataset
from anysize.data.decode import read_header
from anysize.data.kinds.base import create_kind
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.data.statistics import channel_statistics, dataset_statistics, split_statistics
from anysize.registry import UserError


def test_counts_and_sizes_of_a_folder(image_folder: Path) -> None:
    (image_folder / "train/apple/000.jpg").write_bytes(b"no picture")
    told: list[tuple[str, int, int]] = []
    settings = DataSettings(name="folder", root=str(image_folder))
    found = dataset_statistics(settings, size=32, on_image=lambda *each: told.append(each))
    train, validation = found.splits
    assert (train.split, train.images, train.looked_at) == ("train", 60, 60)
    assert dict(zip(found.classes, train.counts.tolist(), strict=True)) == {"apple": 19, "banana": 20, "cherry": 20}
    assert validation.counts.tolist() == [6, 6, 6]
    assert (train.heights.min(), train.heights.max(), train.widths.min(), train.widths.max()) == (30, 34, 34, 36)
    assert train.ratios.max() == pytest.approx(36 / 30)
    assert [Path(name).parent.name for name, *_ in train.largest] == ["cherry"] * 3
    assert train.smallest[0][1:] == (30, 34)
    assert [Path(path).name for path in train.bad] == ["000.jpg"]
    assert found.channels.images == 59
    assert ("train: looked at", 60, 60) in told
    assert ("measured the colours of", 60, 60) in told


def test_sizes_need_no_pixels(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_dataset(DataSettings(name="folder", root=str(image_folder)), "train")

    def decode(self: FileSource, index: int) -> Tensor:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(FileSource, "image", decode)
    found = split_statistics(source, "train", create_kind("class"), most=30)
    assert (found.images, found.looked_at, len(found.heights)) == (60, 30, 30)
    assert found.counts.tolist() == [20, 20, 20]  # which no file has to tell


def test_the_shape_of_a_turned_photograph_is_that_of_its_decoded_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    assert read_header(str(path)).shape == (30, 40)
    assert read_header(path.read_bytes(), exif=True).shape == (40, 30)


@pytest.mark.parametrize("levels", ["original,32,16", "32,16"])
def test_a_pack_knows_the_shapes_of_its_images(image_folder: Path, tmp_path: Path, levels: str) -> None:
    source = load_dataset(opened(pack_folder(image_folder, tmp_path / "pack", levels)), "train")
    assert isinstance(source, FileSource)
    for index in (0, 21, 44):
        assert source.shape(index) == tuple(source.image(index).shape[1:])


def test_colours_are_those_of_all_pixels_each_image_alike(tmp_path: Path) -> None:
    pixels = [np.full((20, 30, 3), (255, 0, 51), np.uint8), np.full((10, 10, 3), (0, 0, 51), np.uint8)]
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
    source = FileSource([str(tmp_path / f"{i}.png") for i in range(2)], np.zeros(2, np.int64), ("a",), "two")
    found = channel_statistics(source, 8)
    assert found.mean == pytest.approx((0.5, 0, 0.2))
    assert found.std == pytest.approx((0.5, 0, 0), abs=1e-6)
    assert (found.images, found.size) == (2, 8)


def test_colours_are_measured_at_the_size_that_is_told() -> None:
    """Fashion-MNIST's published values are those at its own size; fewer pixels spread less."""
    source = load_dataset(DataSettings(), "train")
    own, small = (channel_statistics(source, size, images=1500) for size in (28, 7))
    assert (own.mean[0], own.std[0]) == pytest.approx((0.286, 0.353), abs=0.006)
    assert small.mean[0] == pytest.approx(own.mean[0], abs=0.01)
    assert small.std[0] < own.std[0] - 0.02


def test_masks_are_counted_in_images_and_pixels(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    masks = {"a": mask_of(0, 1, 255), "b": mask_of(2, 0)}
    for name, mask in masks.items():
        save_image(tmp_path / f"train/images/{name}.jpg")
        save_palette(tmp_path / f"train/masks/{name}.png", mask)
    save_image(tmp_path / "validation/images/d.jpg")
    save_palette(tmp_path / "validation/masks/d.png", mask_of(1))
    found = dataset_statistics(DataSettings(name="folder-masks", root=str(tmp_path)))
    train = found.splits[0]
    both = np.concatenate([mask.ravel() for mask in masks.values()])
    assert train.counts.tolist() == [2, 1, 1]
    assert train.pixels is not None
    assert train.pixels.tolist() == np.bincount(both, minlength=256)[:3].tolist()
    assert train.classes_an_image.tolist() == [2, 2]


def test_data_of_which_no_image_can_be_decoded_are_refused(tmp_path: Path) -> None:
    source = FileSource([str(tmp_path / "none.png")], np.zeros(1, np.int64), ("a",), "none")
    with pytest.raises(UserError, match="no training image can be decoded"):
        channel_statistics(source, 8)
