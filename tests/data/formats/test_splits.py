"""Splits under their usual names in every layout, what is refused, and what is held out."""

from pathlib import Path

import pytest
from coco_files import write_coco
from image_files import smooth_image
from mask_folders import mask_of, save_image, save_palette

from anysize.data.catalog import DATASETS, dataset_info, load_dataset
from anysize.data.check import check_dataset
from anysize.data.dataset import MissingSplit
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.registry import UserError


def images(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        smooth_image(i, 12, 12).save(folder / f"{i}.png")


def classes(root: Path, *splits: str, count: int = 2) -> DataSettings:
    for split in splits:
        for name in ("cat", "dog"):
            images(root / split / name, count)
    return DataSettings(name="folder", root=str(root), memory_limit=0)


def places(source: Source) -> set[str]:
    return {Path(source.describe(i)).parent.parent.name for i in range(len(source))}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "valid", "test"), ("TRAIN", "Val", "Testing"), ("training_set", "dev", "test_set")],
)
def test_folders_have_any_usual_name(tmp_path: Path, train: str, validation: str, test: str) -> None:
    settings = classes(tmp_path, train, validation, test)
    assert [places(load_dataset(settings, split)) for split in ("train", "validation", "test")] == [
        {train}, {validation}, {test},
    ]  # fmt: skip
    told = DATASETS["folder"]().splits(settings)
    assert f"training is {train}, validation is {validation}, {test} is kept for" in told
    assert [(each.split, each.images) for each in check_dataset(settings)] == [
        ("train", 4), ("validation", 4), ("test", 4),
    ]  # fmt: skip


def test_test_images_validate_where_there_are_no_others_and_that_is_said(tmp_path: Path) -> None:
    settings = classes(tmp_path, "train", "test", count=10)
    assert places(load_dataset(settings, "validation")) == places(load_dataset(settings, "test")) == {"test"}
    assert "validation is test, as there is no other" in DATASETS["folder"]().splits(settings)
    assert [each.split for each in check_dataset(settings)] == ["train", "validation"]
    held_out = DataSettings(name="folder", root=str(tmp_path), memory_limit=0, val_split=0.2)
    train, validation = (load_dataset(held_out, split) for split in ("train", "validation"))
    assert (len(train), len(validation), places(validation)) == (16, 4, {"train"})
    assert places(load_dataset(held_out, "test")) == {"test"}
    assert dataset_info(held_out).image_size == 12


def test_training_images_alone_can_be_split(tmp_path: Path) -> None:
    settings = classes(tmp_path, "train", count=10)
    with pytest.raises(MissingSplit, match=r"or --data\.val_split 0\.1, which holds a fixed tenth"):
        load_dataset(settings, "validation")
    halves = [
        load_dataset(DataSettings(name="folder", root=str(tmp_path), memory_limit=0, val_split=0.3), split)
        for split in ("train", "validation", "validation")
    ]
    found = [[half.describe(i) for i in range(len(half))] for half in halves]
    assert [len(half) for half in found] == [14, 6, 6]
    assert found[1] == found[2]
    assert not set(found[0]) & set(found[1])
    images(tmp_path / "test")  # without classes
    with pytest.raises(MissingSplit, match="val_split"):
        load_dataset(settings, "validation")
    images(tmp_path / "valid")
    with pytest.raises(MissingSplit, match="valid holds no class folders"):
        load_dataset(settings, "validation")
    classes(tmp_path, "valid")
    with pytest.raises(UserError, match=r"val_split is 0\.3, but .* has validation images in valid; leave one"):
        load_dataset(DataSettings(name="folder", root=str(tmp_path), val_split=0.3), "train")
    with pytest.raises(MissingSplit, match=r"has no folder test \(or testing\)"):
        load_dataset(settings, "test")


def test_what_may_be_splits_or_classes_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="has val and valid, which both stand for the validation images"):
        load_dataset(classes(tmp_path / "two", "train", "val", "valid"), "validation")
    for name in ("cat", "dog"):  # the splits below the classes
        images(tmp_path / f"below/{name}/train")
        images(tmp_path / f"below/{name}/test")
    below = DataSettings(name="folder", root=str(tmp_path / "below"))
    with pytest.raises(UserError, match="cat holds test and train, which are named as splits"):
        load_dataset(below, "train")
    classes(tmp_path / "up/pets", "train", "val")
    with pytest.raises(UserError, match=r"pets holds train and val, .* give .*pets as data\.root"):
        load_dataset(DataSettings(name="folder", root=str(tmp_path / "up")), "train")
    load_dataset(classes(tmp_path / "odd", "learn", "exam"), "train")
    assert "exam, learn are taken for classes, but each holds the folders cat, dog" in caplog.text
    with pytest.raises(UserError, match=r"holds seg_test, seg_train, which look like splits, .* cat, dog"):
        load_dataset(classes(tmp_path / "seg", "seg_train", "seg_test"), "train")
    for name in ("bus", "train"):  # a vehicle
        images(tmp_path / "vehicles" / name)
    assert load_dataset(DataSettings(name="folder", root=str(tmp_path / "vehicles")), "train").classes == (
        "bus",
        "train",
    )


def test_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    source = load_dataset(classes(tmp_path, "train", "val", "unlabeled", "eval"), "train")
    assert str(source.left_out) == f"2 beside the splits ({tmp_path}/eval, {tmp_path}/unlabeled)"
    assert not load_dataset(DataSettings(name="folder", root=str(tmp_path)), "validation").left_out  # told once
    assert not load_dataset(classes(tmp_path / "whole", "."), "train").left_out


def test_csv_files_have_any_usual_name(tmp_path: Path) -> None:
    for name in ("Training", "valid", "TEST"):
        smooth_image(0, 12, 16).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.csv").write_text(f"image,cat,dog\n{name}.jpg,1,0\n")
    settings = DataSettings(name="folder-labels", root=str(tmp_path), memory_limit=0)
    found = [load_dataset(settings, split, "labels").describe(0) for split in ("train", "validation", "test")]
    assert [Path(path).stem for path in found] == ["Training", "valid", "TEST"]
    mixed = tmp_path / "mixed"
    for name in ("train", "val"):
        images(mixed / name, 1)
    (mixed / "labels.csv").write_text("image,labels\ntrain/0.png,cat\nval/0.png,dog\n")
    with pytest.raises(UserError, match="names images in the folders train and val, which are named as splits"):
        load_dataset(DataSettings(name="folder-labels", root=str(mixed)), "train", "labels")


@pytest.mark.parametrize("form", ["{split}/{kind}", "{kind}/{split}"])
def test_masks_lie_in_folders_of_splits_or_splits_in_theirs(tmp_path: Path, form: str) -> None:
    for split in ("Train", "valid", "test"):
        save_image(tmp_path / form.format(split=split, kind="images") / f"{split}.jpg")
        save_palette(tmp_path / form.format(split=split, kind="masks") / f"{split}.png", mask_of(0, 1, 2))
    settings = DataSettings(name="folder-masks", root=str(tmp_path))
    found = [load_dataset(settings, split, "masks").describe(0) for split in ("train", "validation", "test")]
    assert [Path(path).stem for path in found] == ["Train", "valid", "test"]
    assert dataset_info(settings, "masks").image_size <= 512


def test_lists_of_voc_and_files_of_coco_have_any_usual_name(tmp_path: Path) -> None:
    lists = tmp_path / "VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        save_image(tmp_path / f"VOC2012/JPEGImages/{name}.jpg")
        save_palette(tmp_path / f"VOC2012/SegmentationClass/{name}.png", mask_of(0, 5))
        (lists / f"{name}.txt").write_text(f"{name}\n")
    voc = DataSettings(name="voc", root=str(tmp_path))
    found = [load_dataset(voc, split, "masks").describe(0) for split in ("train", "validation", "test")]
    assert [Path(path).stem for path in found] == ["train", "valid", "test"]
    (lists / "valid.txt").unlink()
    assert Path(load_dataset(voc, "validation", "masks").describe(0)).stem == "test"

    write_coco(tmp_path / "coco")
    for old, new in (("train2017", "Train"), ("val2017", "valid")):
        (tmp_path / f"coco/{old}").rename(tmp_path / f"coco/{new}")
        (tmp_path / f"coco/annotations/instances_{old}.json").rename(
            tmp_path / f"coco/annotations/instances_{new}.json"
        )
    coco = DataSettings(name="coco", root=str(tmp_path / "coco"))
    found = [load_dataset(coco, split, "labels").describe(0) for split in ("train", "validation")]
    assert [Path(path).parent.name for path in found] == ["Train", "valid"]
    with pytest.raises(MissingSplit, match=r"instances_test.json"):
        load_dataset(coco, "test", "labels")


def test_published_sets_can_keep_their_tests_for_the_end() -> None:
    with pytest.raises(MissingSplit, match="test images of 'fashion-mini' are its validation images"):
        load_dataset(DataSettings(), "test")
    settings = DataSettings(val_split=0.1)
    train, validation, test = (load_dataset(settings, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (9000, 1000, 2000)
    assert not {train.describe(i) for i in range(9000)} & {validation.describe(i) for i in range(1000)}
    assert dataset_info(settings).train_images == 0
    with pytest.raises(UserError, match="the classes of 'fashion-mini' are fixed"):
        load_dataset(DataSettings(renamed_classes={"Bag": "Sack"}), "train")
