"""Looking at every image of a data set that has labels or masks."""

import csv
from pathlib import Path

import numpy as np
import pytest
from image_files import damage, smooth_image
from mask_folders import mask_of, save_grey, save_image, save_palette

from anysize.cli import build_app
from anysize.data.catalog import load_dataset
from anysize.data.check import check_dataset
from anysize.data.settings import DataSettings
from anysize.registry import UserError


def write_masks(root: Path) -> Path:
    """Three pairs to train, of two shapes, with classes 0 and 1, 0 and 2, and none but void; one to validate."""
    (root / "train").mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    for name, numbers, height in (("a", (0, 1, 255), 30), ("b", (2, 0), 36), ("c", (255,), 30)):
        save_image(root / f"train/images/{name}.jpg", height=height)
        save_palette(root / f"train/masks/{name}.png", mask_of(*numbers, height=height))
    save_image(root / "validation/images/d.jpg")
    save_palette(root / "validation/masks/d.png", mask_of(1))
    return root


def masks(root: Path, **changes: object) -> DataSettings:
    return DataSettings(name="folder-masks", root=str(root), **changes)


def test_images_with_masks_are_counted_by_the_classes_in_them(tmp_path: Path) -> None:
    train, validation = check_dataset(masks(write_masks(tmp_path)))
    assert (train.split, train.images, train.damaged) == ("train", 3, {})
    assert train.counts == {"background": 2, "cat": 1, "dog": 1}  # void is no class
    assert (train.heights, train.widths) == ((30, 30, 36), (40, 40, 40))
    assert validation.counts == {"background": 0, "cat": 1, "dog": 0}


def test_each_pair_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    save_grey(root / "train/masks/a.png", mask_of(0, 1, height=29))
    damage(root / "train/images/b.jpg")
    save_grey(root / "train/masks/c.png", mask_of(0, 7))
    for policy in ("error", "skip"):
        train, _ = check_dataset(masks(root, on_bad_image=policy))
        assert train.images == 0
        assert train.counts == {"background": 0, "cat": 0, "dog": 0}
        assert train.heights == (0, 0, 0)
        wrong = {Path(path).name: reason for path, reason in train.damaged.items()}
        assert sorted(wrong) == ["a.jpg", "b.jpg", "c.jpg"]
        assert "masks/a.png has 29 x 40 pixels and the image 30 x 40" in wrong["a.jpg"]
        assert "cannot be decoded" in wrong["b.jpg"]
        assert "masks/c.png has the class number 7; expected 0 to 2" in wrong["c.jpg"]


def test_limit_looks_at_the_first_pairs_alone(tmp_path: Path) -> None:
    train, _ = check_dataset(masks(write_masks(tmp_path), limit=2))
    assert (train.images, train.counts["background"]) == (2, 2)


def write_labels(root: Path) -> Path:
    rows = {"train": (("0.jpg", "cat;dog"), ("1.jpg", ""), ("2.jpg", "dog")), "validation": (("3.jpg", "cat"),)}
    for split, images in rows.items():
        for name, _ in images:
            (root / "images").mkdir(parents=True, exist_ok=True)
            smooth_image(int(name[0]), 20, 24).save(root / "images" / name)
        with open(root / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("image", "labels"), *images])
    return root


def test_images_with_labels_are_counted_with_each_of_their_labels(tmp_path: Path) -> None:
    root = write_labels(tmp_path)
    train, validation = check_dataset(DataSettings(name="folder-labels", root=str(root)))
    assert (train.images, train.counts) == (3, {"cat": 1, "dog": 2})
    assert (validation.images, validation.counts) == (1, {"cat": 1, "dog": 0})
    damage(root / "images/0.jpg")
    train, _ = check_dataset(DataSettings(name="folder-labels", root=str(root)))
    assert (train.images, train.counts) == (2, {"cat": 0, "dog": 1})
    assert [Path(path).name for path in train.damaged] == ["0.jpg"]


def test_scenes_are_checked_by_labels_unless_masks_are_asked_for() -> None:
    settings = DataSettings(name="scenes", limit=20)
    by_label, by_mask = check_dataset(settings)[1], check_dataset(settings, "masks")[1]
    labels = load_dataset(settings, "validation", "labels").targets.any(axis=1)
    assert list(by_label.counts.values()) == labels.sum(axis=0).tolist()
    assert by_mask.counts.pop("background") == 20
    assert by_mask.counts == by_label.counts
    assert (by_mask.images, by_mask.heights, by_mask.damaged) == (20, (128, 128, 128), {})


@pytest.mark.parametrize(
    ("name", "targets"), [("fashion-mini", "masks"), ("folder-labels", "masks"), ("scenes", "class")]
)
def test_targets_that_a_data_set_has_not_are_refused(tmp_path: Path, name: str, targets: str) -> None:
    root = str(write_labels(tmp_path)) if name == "folder-labels" else ""
    with pytest.raises(UserError, match=rf"data set '{name}' has .*, and the task wants"):
        check_dataset(DataSettings(name=name, root=root), targets)


def test_the_command_line_checks_masks_and_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_masks(tmp_path)
    save_grey(root / "train/masks/a.png", mask_of(0, 1, height=29))
    arguments = ["data", "check", "folder-masks", "--data.root", str(root), "--task.name", "segmentation"]
    with pytest.raises(SystemExit) as ended:
        build_app()(arguments)
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "train: 2 images of 3 classes" in said
    assert f"damaged: {root}/train/images/a.jpg: its mask {root}/train/masks/a.png has 29 x 40 pixels" in said


def test_reading_masks_says_what_training_would_meet(tmp_path: Path) -> None:
    """What check finds good, and only that, can be read."""
    root = write_masks(tmp_path)
    save_grey(root / "train/masks/a.png", mask_of(0, 1, height=29))
    train, _ = check_dataset(masks(root))
    source = load_dataset(masks(root), "train", "masks")
    good = [i for i in range(len(source)) if source.describe(i) not in train.damaged]
    assert [np.asarray(source.read(i)[1]).shape for i in good] == [tuple(source.image(i).shape[1:]) for i in good]
    assert len(good) == train.images == 2
