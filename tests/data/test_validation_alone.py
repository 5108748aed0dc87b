"""Validation images can be had where the training images are not there, and what is missing then is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_files import write_coco
from image_files import smooth_image, write_folder
from mask_folders import mask_of, save_image, save_palette

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.dataset import MissingSplit
from anysize.data.settings import DataSettings


def folder(root: Path) -> None:
    write_folder(root)


def labels(root: Path) -> None:
    for name in ("train", "val"):
        smooth_image(0, 12, 16).save(root / f"{name}.jpg")
        (root / f"{name}.csv").write_text(f"image,cat,dog\n{name}.jpg,1,0\n")


def masks(root: Path) -> None:
    for name in ("train", "val"):
        save_image(root / f"{name}/images/a.jpg")
        save_palette(root / f"{name}/masks/a.png", mask_of(0, 1, 2))


def voc(root: Path) -> None:
    for name in ("train", "val"):
        save_image(root / f"VOC2012/JPEGImages/{name}.jpg")
        save_palette(root / f"VOC2012/SegmentationClass/{name}.png", mask_of(0, 5))
        (root / "VOC2012/ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"VOC2012/ImageSets/Segmentation/{name}.txt").write_text(f"{name}\n")


def coco(root: Path) -> None:
    write_coco(root)


@pytest.mark.parametrize(
    ("name", "targets", "write", "training"),
    [
        ("folder", "class", folder, ["train"]),
        ("imagenet", "class", folder, ["train"]),
        ("folder-labels", "labels", labels, ["train.csv", "train.jpg"]),
        ("folder-masks", "masks", masks, ["train"]),
        ("voc", "masks", voc, ["VOC2012/ImageSets/Segmentation/train.txt"]),
        ("coco", "labels", coco, ["annotations/instances_train2017.json", "train2017"]),
        ("coco", "masks", coco, ["train2017"]),
    ],
)
def test_validation_needs_no_training_images(
    tmp_path: Path, name: str, targets: str, write: Callable[[Path], None], training: list[str]
) -> None:
    write(tmp_path)
    settings = DataSettings(name=name, root=str(tmp_path))
    before, info = load_dataset(settings, "validation", targets), dataset_info(settings, targets)
    for path in (tmp_path / entry for entry in training):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    after = load_dataset(settings, "validation", targets)
    assert after.classes == before.classes
    assert [after.describe(i) for i in range(len(after))] == [before.describe(i) for i in range(len(before))]
    found = dataset_info(settings, targets)
    assert (found.image_size, found.crop, found.resize) == (info.image_size, info.crop, info.resize)
    with pytest.raises(MissingSplit, match="train"):
        load_dataset(settings, "train", targets)


def test_without_a_root_photographs_are_expected() -> None:
    """The augmentation of pictures that only calibrate is then known, too."""
    assert dataset_info(DataSettings(name="folder")).crop == "random-resized"
    assert dataset_info(DataSettings(name="folder-masks"), "masks").image_size == 512
