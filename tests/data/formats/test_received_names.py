"""What lists and annotations name stays in the data's folder, and names that nobody gives are refused in one line."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import coco_dict, write_coco
from mask_folders import mask_of, save_image, save_palette

from anysize.data.catalog import load_dataset
from anysize.data.formats import names
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.registry import UserError

OUTSIDE = r"names '.*', which lies outside of data\.root, .*; expected files in it: .* set data\.outside to allow$"


def write_labels(root: Path, text: str) -> None:
    save_image(root / "a.png")
    save_image(root / "images/b.png")
    (root / "train.csv").write_text(text)
    (root / "val.csv").write_text("image,labels\na.png,x\n")


def write_list(root: Path, *lines: str) -> None:
    """VOC's folders, with a list of training images."""
    for name in ("a", "b"):
        save_image(root / f"JPEGImages/{name}.jpg")
        save_palette(root / f"SegmentationClass/{name}.png", mask_of(0, 1))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(lines) + "\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\n")


def write_annotations(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    write_coco(root)
    content = coco_dict()
    change(content)
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))


def load(name: str, root: Path, **changes: Any) -> Source:
    targets = {"folder-labels": "labels", "voc": "masks", "coco": "labels"}[name]
    return load_dataset(DataSettings(name=name, root=str(root), memory_limit=0, **changes), "train", targets)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """An image and a mask beside the data's folder."""
    save_image(tmp_path / "other/0.jpg")
    save_palette(tmp_path / "other/0.png", mask_of(0, 1))
    return tmp_path / "other"


def test_a_csv_file_names_images_in_the_folder(tmp_path: Path, others: Path):
    root = tmp_path / "data"
    for name in ("../other/0.jpg", "images/../../other/0.jpg", str(others / "0.jpg")):
        write_labels(root, f"image,labels\na.png,x\n{name},y\n")
        with pytest.raises(UserError, match=rf"train\.csv line 3 {OUTSIDE}"):
            load("folder-labels", root)
        assert os.path.samefile(load("folder-labels", root, outside="allow").describe(1), others / "0.jpg")
    (root / "linked").symlink_to(others)
    (tmp_path / "link").symlink_to(root)
    for given in (root, tmp_path / "link"):
        for name in ("linked/0.jpg", str(root / "images/b.png"), str(given / "images/b.png"), "images/../images/b.png"):
            write_labels(root, f"image,labels\na.png,x\n{name},y\n")
            assert len(load("folder-labels", given)) == 2


def test_annotations_name_images_in_the_folder(tmp_path: Path, others: Path):
    root = tmp_path / "data"
    for name in ("../../other/0.jpg", str(others / "0.jpg")):
        write_annotations(
            root / name.replace("/", "-"), lambda content, name=name: content["images"][1].update(file_name=name)
        )
        with pytest.raises(UserError, match=rf"train2017\.json: image number 1 {OUTSIDE}"):
            load("coco", root / name.replace("/", "-"))
    write_annotations(root, lambda content: content["images"][1].update(file_name="../val2017/000000000007.jpg"))
    assert len(load("coco", root)) == 4


def test_lists_name_images_and_masks_in_the_folder(tmp_path: Path, others: Path):
    lines = ("../../other/0", "/JPEGImages/a.jpg /../other/0.png", "/../other/0.jpg /SegmentationClass/a.png")
    for number, line in enumerate(lines):
        root = tmp_path / f"data{number}"
        write_list(root, "b", line)
        with pytest.raises(UserError, match=rf"train\.txt line 2 {OUTSIDE}"):
            load("voc", root)
        source = load("voc", root, outside="allow")
        files = [source.describe(1), source.targets.files()[1]]
        assert any("other/0" in os.path.normpath(file) for file in files)


LONG = "a" * 100_000
CSVS = [
    (f"image,labels\n{LONG},x\n", "line 2 names 'a+...a+'; expected the name of a file, which has at most 1,024 bytes"),
    ("image,labels\na\0.png,x\n", r"line 2 names 'a\\x00.png'; expected the name of a file"),
    (
        f"image,labels\na.png,{LONG}\n",
        r"a class whose name is 100,000 characters long, 'a+\.\.\.a+'; expected at most 500",
    ),
    (f"image,x,{LONG}\na.png,0,1\n", r"line 1 has a class whose name is 100,000 characters long"),
    (f"image,x,y\na.png,0,{LONG}\n", r"line 2 has 'a+\.\.\.a+' in column 'y'; expected 0 or 1"),
    (f"image,labels\na.png,x\n{2 * LONG},y\n", "no CSV .field larger than field limit"),
    ("image," + ",".join(map(str, range(100_001))) + "\n", "line 1 names 100,001 classes; expected at most 100,000"),
]


@pytest.mark.parametrize(("text", "message"), CSVS, ids=range(len(CSVS)))
def test_names_and_values_beyond_all_measure_are_told_in_a_line(tmp_path: Path, text: str, message: str):
    write_labels(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        load("folder-labels", tmp_path)
    assert len(str(error.value)) < 400


def test_other_lists_are_looked_at_alike(tmp_path: Path):
    for number, line in enumerate((LONG, "a\0b", "/a\0.jpg /b.png")):
        write_list(tmp_path / str(number), line)
        with pytest.raises(UserError, match=r"train\.txt line 1 names '.{1,60}; expected the name of a file"):
            load("voc", tmp_path / str(number))
    write_labels(tmp_path, "image,labels\na.png,x\n")
    (tmp_path / "classes.txt").write_text(f"x\n{LONG}\n")
    with pytest.raises(UserError, match=r"classes\.txt has a class whose name is 100,000 characters long"):
        load("folder-labels", tmp_path)
    (tmp_path / "classes.txt").unlink()
    for link in ("/dev/zero", "nowhere"):  # it is not passed over as if there were none
        (tmp_path / "classes.txt").symlink_to(link)
        with pytest.raises(UserError, match=r"classes\.txt cannot be read: (it is a device|No such file)"):
            load("folder-labels", tmp_path)
        (tmp_path / "classes.txt").unlink()
    for name in ("train.csv", "a.png"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=r"train\.csv cannot be read: it is a named pipe|a\.png, which is no file"):
            load("folder-labels", tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / "train.csv").write_text("image,labels\na.png,x\nimages/b.png,y\n")


def test_a_table_of_labels_that_no_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(names, "_MOST_LABELS", 11)
    write_labels(tmp_path, "image,labels\na.png,x\nb.png,y\n")
    assert len(load("folder-labels", tmp_path)) == 2
    write_coco(tmp_path)
    with pytest.raises(UserError, match=r"has 4 images and 3 classes, whose labels take .* GiB; expected at most"):
        load("coco", tmp_path)
    only = dataclasses.replace(DataSettings(name="coco", root=str(tmp_path)), categories=("cat",))
    monkeypatch.setattr(names, "_MOST_LABELS", 12)
    assert load_dataset(only, "train", "labels").targets.dtype == np.uint8


def test_no_list_in_a_set_of_class_names_takes_long(tmp_path: Path):
    classes = [f"class {number}" for number in range(20_000)]  # a look at each for each would take a minute
    write_labels(tmp_path, f"image,{','.join(classes)}\na.png{',1' * len(classes)}\n")
    (tmp_path / "val.csv").write_text((tmp_path / "train.csv").read_text())
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    assert load("folder-labels", tmp_path).targets.sum() == len(classes)
