"""Each file counts once in the parts of a split, and what is left out is told once for each split."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_files import coco_dict
from mask_folders import mask_of, save_grey, save_image

from anysize.data.catalog import load_dataset
from anysize.data.settings import DataSettings

TAKEN = "naming a file that is taken already"
SPLITS = {"train": ("a", "b", "c", "d"), "test": ("e", "f")}  # d and f are other names of a and e


def write_images(folder: Path, names: tuple[str, ...]) -> None:
    for name in names[:-1]:
        save_image(folder / f"{name}.jpg")
    os.link(folder / f"{names[0]}.jpg", folder / f"{names[-1]}.jpg")


def write_masks(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save_grey(folder / f"{name}.png", mask_of(0, 1))


def folder(root: Path) -> None:
    for split, names in SPLITS.items():
        write_images(root / split / "cat", names)


def folder_labels(root: Path) -> None:
    for split, names in SPLITS.items():
        write_images(root / "images" / split, names)
        lines = "".join(f"{split}/{name}.jpg,cat\n" for name in names)
        (root / f"{split}.csv").write_text(f"image,labels\n{lines}")


def folder_masks(root: Path) -> None:
    for split, names in SPLITS.items():
        write_images(root / split / "images", names)
        write_masks(root / split / "masks", names)


def voc(root: Path) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in SPLITS.items():
        write_images(root / "JPEGImages", names)
        write_masks(root / "SegmentationClass", names)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))


def coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, names in SPLITS.items():
        write_images(root / split, names)
        listed = [{"id": i, "file_name": f"{name}.jpg", "height": 8, "width": 8} for i, name in enumerate(names)]
        content = {**coco_dict(), "images": listed, "annotations": []}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


WRITERS = {"folder": folder, "folder-labels": folder_labels, "folder-masks": folder_masks, "voc": voc, "coco": coco}
TARGETS = {"folder": "class", "folder-labels": "labels", "folder-masks": "masks", "voc": "masks", "coco": "labels"}


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_parts_of_a_split_share_no_file(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path)

    def opened(split: str, share: float) -> tuple[list[int], dict[str, int]]:
        settings = DataSettings(name=name, root=str(tmp_path), memory_limit=0, val_split=share)
        source = load_dataset(settings, split, TARGETS[name])
        return [os.stat(source.describe(i)).st_ino for i in range(len(source))], source.left_out.counts

    for share in (0.3, 0.7):
        learnt, left_out = opened("train", share)
        held_out, again = opened("validation", share)
        assert len({*learnt, *held_out}) == len(learnt) + len(held_out) == 3
        assert len(held_out) == round(3 * share)
        assert (left_out, again) == ({TAKEN: 1}, {})
    tests, left_out = opened("test", 0.3)
    assert (len(tests), left_out) == (1, {TAKEN: 1})
    assert opened("validation", 0.0) == (tests, left_out)  # taken for validation, since there is no other


@pytest.mark.parametrize("name", ["folder-labels", "voc"])
def test_a_file_that_is_not_there_does_not_move_the_others(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    gone = tmp_path / ("images/train/b.jpg" if name == "folder-labels" else "JPEGImages/b.jpg")

    def parts() -> list[set[str]]:
        settings = DataSettings(name=name, root=str(tmp_path), memory_limit=0, val_split=0.3, on_bad_image="skip")
        sources = [load_dataset(settings, split, TARGETS[name]) for split in ("train", "validation")]
        return [{Path(source.describe(i)).stem for i in range(len(source))} for source in sources]

    before = parts()
    gone.unlink()
    assert parts() == [part - {"b"} for part in before]
