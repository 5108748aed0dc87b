"""Targets from which nothing can be learnt are refused in training, and said by `data check`, with their cause."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import smooth_image
from mask_folders import mask_of, save_grey, save_image

from anysize.cli import build_app
from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.kinds.base import create_kind
from anysize.data.settings import DataSettings
from anysize.experiment.build import check_targets
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError

pytest.importorskip("pycocotools")


def write_masks(root: Path, *numbers: int, images: int = 4) -> None:
    for split in ("train", "validation"):
        for i in range(images):
            save_image(root / split / f"images/{i}.jpg", i)
            save_grey(root / split / f"masks/{i}.png", mask_of(*numbers))


def write_voc(root: Path) -> None:
    year = root / "VOC2012"
    for name in ("a", "b"):
        save_image(year / f"JPEGImages/{name}.jpg")
        save_grey(year / f"SegmentationClass/{name}.png", mask_of(0, 255))
    (year / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (year / f"ImageSets/Segmentation/{split}.txt").write_text("a\nb\n")


def write_classes(root: Path) -> None:
    for split in ("train", "validation"):
        (root / split / "cat").mkdir(parents=True)
        for i in range(2):
            smooth_image(i, 24, 24).save(root / split / f"cat/{i}.png")


def write_csv(*lines: str) -> Callable[[Path], None]:
    """Four images with these labels."""

    def write(root: Path) -> None:
        for split in ("train", "validation"):
            (root / f"{split}.csv").write_text(
                "image,labels\n" + "".join(f"{i}.png,{x}\n" for i, x in enumerate(lines))
            )
        for i in range(len(lines)):
            smooth_image(i, 24, 24).save(root / f"{i}.png")

    return write


def write_coco(*segmentations: list[list[int]], crowd: int = 0) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for split in ("train", "val"):
            save_image(root / f"{split}2017/0.jpg")
            boxes = [
                {"id": i + 1, "image_id": 0, "category_id": 1, "area": 9.0, "iscrowd": crowd, "bbox": [1, 1, 3, 3]}
                | {"segmentation": each}
                for i, each in enumerate(segmentations)
            ]
            images = [{"id": 0, "file_name": "0.jpg", "height": 30, "width": 40}]
            (root / "annotations").mkdir(exist_ok=True)
            (root / f"annotations/instances_{split}2017.json").write_text(
                json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})
            )

    return write


CASES = [
    ("folder-masks", "masks", lambda root: write_masks(root, 0, 255), "0, 255, and 255 is void.*mask_values 0,255"),
    (
        "folder-masks",
        "masks",
        lambda root: write_masks(root, 255),
        "no class, but 255 for none: the files hold the value 255, .* nor counted;",
    ),
    ("folder-masks", "masks", lambda root: write_masks(root, 1), "one class, '1': the files hold the value 1"),
    ("voc", "masks", write_voc, "one class, 'background': .* set --data.mask_values 0,255"),
    ("folder", "class", write_classes, "all 2 images have one class, 'cat'"),
    ("folder-labels", "labels", write_csv(*4 * ["cat"]), r"all 4 images have every label there is \('cat'\)"),
    ("coco", "labels", write_coco(), "no image has the only label, 'cat'"),
    ("coco", "masks", write_coco(), "one class, 'background': .* has no annotation with a segmentation"),
    (
        "coco",
        "masks",
        write_coco([[1, 1, 5, 5]]),
        "has 1 segmentation .* 0 of crowds, .* and 1 without pixels: a polygon",
    ),
    (
        "coco",
        "masks",
        write_coco([[1, 1, 5, 5, 1, 5]], crowd=1),
        "has 1 segmentation .* 1 of crowds, which",
    ),
]


@pytest.mark.parametrize(("name", "kind", "write", "says"), CASES)
def test_what_teaches_nothing_is_refused_with_its_cause(
    name: str, kind: str, write: Callable[[Path], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    settings = DataSettings(name=name, root=str(tmp_path))
    splits = [load_dataset(settings, split, kind) for split in ("train", "validation")]
    with pytest.raises(UserError, match=f"nothing can be learnt from the training images: .*{says}"):
        check_targets(*splits, create_kind(kind), pytest.fail)
    for checked in check_dataset(settings, kind):
        (text,) = checked.doubts.of_split(checked.split)
        assert text.startswith("nothing can be")
    task = {"class": "classification", "labels": "multilabel", "masks": "segmentation"}[kind]
    with pytest.raises(SystemExit) as ended:
        build_app()(["data", "check", name, "--data.root", str(tmp_path), "--task.name", task])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "warning: nothing can be learnt from the training images" in said
    assert "warning: nothing can be measured with the validation images" in said


def test_the_check_of_labels_tells_of_masks_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a data set offers both: labels can be learnt, masks cannot."""
    write_coco([[1, 1, 5, 5]])(tmp_path / "two")
    write_coco([[1, 1, 5, 5, 1, 5]])(tmp_path / "three")
    for name in ("two", "three"):
        for task in ((), ("--task.name", "multilabel")):
            with contextlib.suppress(SystemExit):
                build_app()(["data", "check", "coco", "--data.root", str(tmp_path / name), *task])
            said = capsys.readouterr().out
            assert ("warning: masks: nothing can be learnt" in said) == (name == "two" and not task)


def test_single_labels_and_classes_are_warned_about(tmp_path: Path) -> None:
    write_csv("cat;dog", "cat", "cat;fox", "cat")(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\neel\nfox\n")
    settings = DataSettings(name="folder-labels", root=str(tmp_path))
    warned: list[str] = []
    train, validation = (load_dataset(settings, split, "labels") for split in ("train", "validation"))
    check_targets(train, validation, create_kind("labels"), warned.append)
    assert warned[:2] == [
        "training images: no image has 1 of the 4 labels: 'eel'",
        "training images: all 4 images have 1 of the 4 labels: 'cat'",
    ]
    assert [text.replace("validation", "training") for text in warned[2:]] == warned[:2]
    assert check_dataset(settings)[0].doubts.of_split("train") == warned[:2]
    only = train.subset(np.array([1, 3]))  # cat alone, twice
    check_targets(train, only, create_kind("labels"), warned.append)
    assert warned[-1].startswith("nothing can be measured with the validation images: all 2 images have the same of")


def test_masks_are_read_only_until_there_are_two_classes(tmp_path: Path) -> None:
    write_masks(tmp_path, 0, 1)
    source = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    read: list[int] = []
    plain = source.read
    source.read = lambda index: read.append(index) or plain(index)
    assert not create_kind("masks").first_doubts(source).of_split("train")
    assert len(read) == 1
    for i in range(3):  # one image of four has the class
        save_grey(tmp_path / f"train/masks/{i}.png", mask_of(0))
    assert not create_kind("masks").first_doubts(source).nothing


def test_values_of_masks_stand_for_classes_as_the_setting_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_masks(tmp_path, 0, 255)
    settings = DataSettings(name="folder-masks", root=str(tmp_path), mask_values=(0, 255))
    source = load_dataset(settings, "train", "masks")
    assert source.classes == ("background", "1")
    assert np.array_equal(source.read(1)[1], mask_of(0, 1))
    assert np.array_equal(source.subset(np.array([1])).read(0)[1], mask_of(0, 1))
    check_targets(source, load_dataset(settings, "validation", "masks"), create_kind("masks"), pytest.fail)
    (tmp_path / "classes.txt").write_text("ground\ncat\ndog\n")
    with pytest.raises(
        UserError, match=r"mask_values is \[0, 255\], and .*classes.txt has 3 classes \(ground, cat, dog\)"
    ):
        load_dataset(settings, "train", "masks")
    three = DataSettings(name="folder-masks", root=str(tmp_path), mask_values=(255, 0, 64), categories=("dog",))
    save_grey(tmp_path / "train/masks/0.png", mask_of(255, 0, 64))
    assert np.array_equal(load_dataset(three, "train", "masks").read(0)[1], mask_of(0, 0, 1))
    save_grey(tmp_path / "train/masks/0.png", mask_of(0, 65))
    reason = check_dataset(three)[0].damaged[str(tmp_path / "train/images/0.jpg")]
    assert "has the value 65; expected those of data.mask_values, 255, 0, 64" in reason
    with pytest.raises(UserError, match="mask_values is set, but data set 'scenes' has no masks in files"):
        load_dataset(DataSettings(name="scenes", mask_values=(0, 1)), "train", "masks")
    (tmp_path / "classes.txt").unlink()
    write_masks(tmp_path, 0, 128)
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks").classes) == 129
    assert "hold the class numbers 0, 128, and 127 below the largest do not occur" in caplog.text
    write_masks(tmp_path, 0, 2)
    load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    assert "hold the class numbers 0, 2, and 1 below the largest does not occur" in caplog.text
    save_grey(tmp_path / "train/masks/0.png", np.resize(np.arange(140, dtype=np.uint8), mask_of(0).shape))
    caplog.clear()
    load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    assert "hold 140 class numbers, 0, 1, 2, 3" in caplog.text
    assert "smoothed when they were resized" in caplog.text


def test_what_mask_values_needs_besides_is_said(tmp_path: Path) -> None:
    write_masks(tmp_path, 0, 255)
    (tmp_path / "classes.txt").write_text("ground\ncat\ndog\n")
    source = load_dataset(DataSettings(name="folder-masks", root=str(tmp_path)), "train", "masks")
    said = create_kind("masks").first_doubts(source).nothing
    assert said.endswith("name as many classes in classes.txt and set --data.mask_values 0,255")
    write_masks(tmp_path, 0, 1)
    assert create_kind("masks").first_doubts(source).others == ("no image has 1 of the 3 classes: 'dog'",)


def test_names_that_differ_in_case_or_accents_alone_are_told(tmp_path: Path) -> None:
    for name in ("Cat", "cat", "caf\u00e9", "cafe\u0301", "dog"):
        for i in range(2):
            save_image(tmp_path / name / f"{i}.jpg", i)
    source = load_dataset(DataSettings(name="folder", root=str(tmp_path)), "train")
    others = create_kind("class").first_doubts(source).others
    assert [text.count("differ in case or accents alone") for text in others] == [1, 1]
    assert "'Cat', 'cat'" in others[0]
    for split, name in (("train", "Cat"), ("validation", "cat")):
        save_image(tmp_path / f"splits/{split}/{name}/0.jpg")
    with pytest.raises(UserError, match="expected the same class folders in both, in the same case and with accents"):
        load_dataset(DataSettings(name="folder", root=str(tmp_path / "splits")), "validation")


def test_a_training_ends_before_its_first_step(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    write_classes(tmp_path)
    recipe = tiny(data__name="folder", data__root=str(tmp_path), data__limit=0, sizes__mix="fixed", sizes__base=24)
    with pytest.raises(UserError, match="nothing can be learnt from the training images: all 2 images have one class"):
        train(recipe, run=tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()
