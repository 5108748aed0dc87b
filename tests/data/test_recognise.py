"""A folder is taken for the data set whose reader lists it, whatever else lies in it."""

import json
from pathlib import Path

import numpy as np
import pytest
from mask_folders import mask_of, save_grey, save_image
from PIL import Image

from anysize.data import recognise as module
from anysize.data.recognise import look_at, recognise
from anysize.data.source import FileSource
from anysize.registry import UserError


def classes(root: Path, *splits: str) -> None:
    for split in splits or ("",):
        for number, name in enumerate(("cat", "dog")):
            for i in range(3):
                save_image(root / split / name / f"{i}.png", seed=10 * number + i)


def masks(root: Path) -> None:
    for i in range(3):
        save_image(root / "images" / f"{i}.png", seed=i)
        save_grey(root / "masks" / f"{i}.png", mask_of(0, 1))


def labels(root: Path) -> None:
    for i in range(3):
        save_image(root / "images" / f"{i}.png", seed=i)
    lines = "".join(f"{i}.png,{'a;b' if i else 'b'}\n" for i in range(3))
    (root / "train.csv").write_text("image,labels\n" + lines, encoding="utf-8")


def coco(root: Path) -> None:
    for split in ("train", "valid"):
        save_image(root / split / "a.png")
        held = {
            "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(held), encoding="utf-8")


def voc(root: Path) -> None:
    for i in range(3):
        save_image(root / "JPEGImages" / f"{i}.png", seed=i)
        save_grey(root / "SegmentationClass" / f"{i}.png", mask_of(0, 1))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("0\n1\n2\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "name", "targets", "counts"),
    [
        (classes, "folder", "class", (4, 2)),
        (lambda root: classes(root, "train"), "folder", "class", (4, 2)),
        (lambda root: classes(root, "train", "test"), "folder", "class", (4, 2)),  # the test images stay for the end
        (lambda root: classes(root, "Training", "val"), "folder", "class", (6, 6)),
        (masks, "folder-masks", "masks", (2, 1)),
        (labels, "folder-labels", "labels", (2, 1)),
        (coco, "coco", "labels", (1, 1)),
        (voc, "voc", "masks", (2, 1)),
    ],
    ids=["classes", "train", "train-test", "splits", "masks", "labels", "coco", "voc"],
)
def test_form_is_told_and_validation_is_there(tmp_path, make, name, targets, counts):
    make(tmp_path)
    (tmp_path / "notes.txt").write_text("beside")
    found = recognise(tmp_path)
    assert (found.name, found.targets) == (name, targets)
    assert (len(found.sources["train"]), len(found.sources["validation"])) == counts
    assert found.held_out == bool(found.settings.val_split) == (counts[0] != counts[1])
    assert look_at(found).shorter.tolist() == [30] * counts[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "holds no images: expected CLASS/IMAGE"),
        (lambda root: save_image(root / "a.png"), "images, but no folder a class and no file with labels"),
        (lambda root: root.rmdir(), "is not there"),
        (lambda root: (root.rmdir(), root.write_text("a")), "is a file"),
        (lambda root: (root / "cat").mkdir(), "holds no images"),
    ],
    ids=["empty", "flat", "nowhere", "file", "empty-class"],
)
def test_what_has_no_form_is_told_in_a_sentence(tmp_path, make, words):
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=words):
        recognise(folder)


def test_targets_that_the_form_does_not_offer_are_refused(tmp_path):
    classes(tmp_path)
    with pytest.raises(UserError, match="'folder', which has class, and no masks"):
        recognise(tmp_path, "masks")


def test_look_counts_grey_square_and_damaged_images(tmp_path):
    classes(tmp_path, "train", "val")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "train" / "cat" / "1.png")
    (tmp_path / "train" / "dog" / "2.png").write_bytes(b"none")
    look = look_at(recognise(tmp_path))
    assert (look.images, look.square, look.grey, look.damaged) == (5, 1, 1, 1)
    assert look.longer.tolist() == [20, 40, 40, 40, 40]


def test_look_is_bounded_and_spread_over_all_classes(tmp_path, monkeypatch):
    classes(tmp_path)
    found = recognise(tmp_path)
    seen = []
    header = FileSource.header
    monkeypatch.setattr(module, "LOOKED_AT", 2)
    monkeypatch.setattr(FileSource, "header", lambda source, i: seen.append(source.describe(i)) or header(source, i))
    assert look_at(found).images == 2
    assert [Path(path).parent.name for path in seen] == ["cat", "dog"]
