"""A list of files that are left out (`data.exclude`): every data set of files honours it, and says so."""

import json
from pathlib import Path

import pytest
from image_files import smooth_image
from mask_folders import mask_of, save_grey, save_image

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.settings import DataSettings
from anysize.experiment.identity import identity_of
from anysize.registry import UserError

SPLITS = {"train": ("a", "b", "c"), "val": ("d", "e")}


def folder(root: Path) -> str:
    for split, names in SPLITS.items():
        for name in names:
            save_image(root / split / ("dog" if name in "ad" else "cat") / f"{name}.jpg")
    return "{split}/cat/{name}.jpg"


def labels(root: Path) -> str:
    for split, names in SPLITS.items():
        for name in names:
            save_image(root / "images" / f"{name}.jpg")
        lines = "".join(f"{name}.jpg,{'dog' if name in 'ad' else 'cat'}\n" for name in names)
        (root / f"{split}.csv").write_text(f"image,labels\n{lines}")
    return "images/{name}.jpg"


def masks(root: Path) -> str:
    for split, names in SPLITS.items():
        for name in names:
            save_image(root / split / "images" / f"{name}.jpg")
            save_grey(root / split / "masks" / f"{name}.png", mask_of(0, 1))
    return "{split}/images/{name}.jpg"


def voc(root: Path) -> str:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in SPLITS.items():
        for name in names:
            save_image(root / "JPEGImages" / f"{name}.jpg")
            save_grey(root / "SegmentationClass" / f"{name}.png", mask_of(0, 1))
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
    return "JPEGImages/{name}.jpg"


def coco(root: Path) -> str:
    (root / "annotations").mkdir(parents=True)
    for split, names in SPLITS.items():
        for name in names:
            save_image(root / f"{split}2017" / f"{name}.jpg")
        images = [{"id": i, "file_name": f"{name}.jpg", "height": 30, "width": 40} for i, name in enumerate(names)]
        notes = [
            {"id": i, "image_id": i, "category_id": 1 + (name in "ad"), "area": 16, "bbox": [0, 0, 4, 4], "iscrowd": 0}
            | {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
            for i, name in enumerate(names)
        ]
        content = {
            "images": images,
            "annotations": notes,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return "{split}2017/{name}.jpg"


WRITERS = {"folder": folder, "folder-labels": labels, "folder-masks": masks, "voc": voc, "coco": coco}
TARGETS = {"folder": "class", "folder-labels": "labels", "folder-masks": "masks", "voc": "masks", "coco": "labels"}
CASES = [*TARGETS.items(), ("coco", "masks")]


def names_in(settings: DataSettings, split: str, targets: str) -> list[str]:
    source = load_dataset(settings, split, targets, preload=False)
    return sorted(Path(source.describe(i)).stem for i in range(len(source)))


@pytest.mark.parametrize(("name", "targets"), CASES, ids=str)
def test_listed_files_are_left_out_and_counted(tmp_path: Path, name: str, targets: str) -> None:
    path = WRITERS[name](tmp_path)
    listed = [path.format(split="train", name="b"), path.format(split="val", name="e")]
    (tmp_path / "list.txt").write_text("# damaged\n\n" + "\r\n".join([*listed, "none/z.jpg"]) + "\n")
    plain = DataSettings(name=name, root=str(tmp_path))
    settings = DataSettings(name=name, root=str(tmp_path), exclude=str(tmp_path / "list.txt"))
    assert (names_in(plain, "train", targets), names_in(plain, "validation", targets)) == (["a", "b", "c"], ["d", "e"])
    for missing in (False, True):  # a file that is listed need not be there
        assert names_in(settings, "train", targets) == ["a", "c"]
        assert names_in(settings, "validation", targets) == ["d"]
        train, validation = (load_dataset(settings, s, targets, preload=False) for s in ("train", "validation"))
        there = {"listed in data.exclude": [str(tmp_path / listed[0])]}
        assert train.left_out.names == {**there, "listed in data.exclude, but not there": ["none/z.jpg"]}
        assert validation.left_out.names == {"listed in data.exclude": [str(tmp_path / listed[1])]}
        assert not train.bad_files
        if missing:
            return
        before = identity_of({"train": train}, settings)["train"]
        assert before != identity_of({"train": load_dataset(plain, "train", targets, preload=False)}, plain)["train"]
        if name.startswith("folder") and name != "folder-labels":
            return  # there the files are the list
        (tmp_path / listed[0]).unlink()


@pytest.mark.parametrize(
    ("present", "absent"), [("images/b.jpg", "masks/b.png"), ("masks/b.png", "images/b.jpg")], ids=["image", "mask"]
)
def test_an_image_without_its_mask_or_a_mask_without_its_image_is_listed_or_skipped(
    tmp_path: Path, present: str, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    masks(tmp_path)
    (tmp_path / "train" / absent).unlink()
    (tmp_path / "list.txt").write_text(f"train/{present}\n")
    plain = {"name": "folder-masks", "root": str(tmp_path)}
    with pytest.raises(UserError, match=rf"{present} has no .*: add it, or remove the .* --data\.on_bad_image skip"):
        names_in(DataSettings(**plain), "train", "masks")
    assert names_in(DataSettings(**plain, exclude=str(tmp_path / "list.txt")), "train", "masks") == ["a", "c"]
    assert not caplog.records
    assert names_in(DataSettings(**plain, on_bad_image="skip"), "train", "masks") == ["a", "c"]
    assert "left out 1 file: " in caplog.text


def test_a_mask_in_the_list_leaves_its_image_out(tmp_path: Path) -> None:
    masks(tmp_path)
    save_grey(tmp_path / "train/masks/b.png", mask_of(0, 77))  # else the numbering goes up to it
    (tmp_path / "list.txt").write_text("train/masks/b.png\n")
    settings = DataSettings(name="folder-masks", root=str(tmp_path), exclude=str(tmp_path / "list.txt"))
    assert names_in(settings, "train", "masks") == ["a", "c"]
    assert load_dataset(settings, "train", "masks").classes == ("background", "1")


@pytest.mark.parametrize("name", ["folder", "folder-masks"])
def test_the_first_image_that_tells_the_base_size_is_none_that_is_left_out(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    first = "train/cat/0.png" if name == "folder" else "train/images/0.png"
    smooth_image(0, 8, 8).save(tmp_path / first)
    save_grey(tmp_path / "train/masks/0.png", mask_of(0, 1, height=8, width=8))
    if name == "folder":
        (tmp_path / "train/masks/0.png").unlink()
        (tmp_path / "train/masks").rmdir()
    (tmp_path / "list.txt").write_text(f"./{first}\n")
    plain = DataSettings(name=name, root=str(tmp_path))
    settings = DataSettings(name=name, root=str(tmp_path), exclude=str(tmp_path / "list.txt"))
    expected = {"folder": (8, 224), "folder-masks": (8, 40)}[name]
    assert tuple(dataset_info(each, TARGETS[name]).image_size for each in (plain, settings)) == expected


def test_what_cannot_be_meant_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder(tmp_path)
    for content, fault in {
        None: "which cannot be read",
        "\n".join(f"train/{c}/{n}.jpg" for c, n in (("dog", "a"), ("cat", "b"), ("cat", "c"))): "leaves out all 3 im",
    }.items():
        if content:
            (tmp_path / "list.txt").write_text(content)
        with pytest.raises(UserError, match=fault):
            load_dataset(DataSettings(name="folder", root=str(tmp_path), exclude=str(tmp_path / "list.txt")), "train")
    with pytest.raises(UserError, match="images of data set 'fashion-mini' are no files with names of their own"):
        load_dataset(DataSettings(exclude=str(tmp_path / "list.txt")), "train")
