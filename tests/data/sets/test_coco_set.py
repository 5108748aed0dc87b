"""The data set `coco`: its layouts, labels by object size, masks, and what it says of unexpected files."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, SIZES, annotation, coco_dict, polygon, write_coco
from pycocotools.coco import COCO

from anysize.data.catalog import dataset_info, load_dataset
from anysize.data.dataset import DATASETS
from anysize.data.formats.coco import painting
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError

CLASSES = tuple(category["name"] for category in CATEGORIES)


def settings(root: Path, **more: Any) -> DataSettings:
    return DataSettings(name="coco", root=str(root), **more)


def rewrite(root: Path, content: dict[str, Any], name: str = "train2017") -> Path:
    path = root / f"annotations/instances_{name}.json"
    path.write_text(json.dumps(content))
    return path


def labels_by_pycocotools(path: Path, areas: tuple[float, float]) -> np.ndarray:
    """uint8 (N, 3, K) by COCO's own reader and its area ranges."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    ranges = ((-1, areas[0]), (areas[0], areas[1]), (areas[1], np.inf))
    labels = np.zeros((len(coco.dataset["images"]), 3, len(coco.dataset["categories"])), np.uint8)
    for i, image in enumerate(coco.dataset["images"]):
        for k, category in enumerate(coco.dataset["categories"]):
            for each in coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=category["id"])):
                labels[i, [low <= each["area"] < high for low, high in ranges].index(True), k] = 1
    return labels


@pytest.mark.parametrize("images", ["", "images"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_pycocotools_and_all_images_count_in_the_files_order(tmp_path: Path, images: str, split):
    write_coco(tmp_path, images=images)
    source = load_dataset(settings(tmp_path), split, "labels")
    name = {"train": "train2017", "validation": "val2017"}[split]
    path = tmp_path / f"annotations/instances_{name}.json"
    assert source.targets.dtype == np.uint8
    assert np.array_equal(source.targets, labels_by_pycocotools(path, (1024, 9216)))
    assert source.targets.sum((0, 2)).tolist() == [5, 2, 1]
    assert not source.targets[3].any()  # an image without annotations
    assert source.classes == CLASSES
    for row, (number, (height, width)) in enumerate(SIZES.items()):
        assert source.describe(row) == str(tmp_path / images / name / f"{number:012}.jpg")
        assert source.image(row).shape == (3, height, width)


def test_the_limits_of_small_and_medium_can_be_set(tmp_path: Path):
    write_coco(tmp_path)
    source = load_dataset(settings(tmp_path, areas=(50.0, 1024.0)), "train", "labels")
    expected = labels_by_pycocotools(tmp_path / "annotations/instances_train2017.json", (50, 1024))
    assert np.array_equal(source.targets, expected)
    assert source.targets.sum((0, 2)).tolist() == [2, 4, 3]


def test_some_classes_in_an_order_of_ones_own(tmp_path: Path):
    write_coco(tmp_path)
    everything = load_dataset(settings(tmp_path), "train", "labels")
    some = load_dataset(settings(tmp_path, categories=("dining table", "dog")), "train", "labels")
    assert some.classes == ("dining table", "dog")
    assert np.array_equal(some.targets, everything.targets[:, :, [2, 0]])
    masks = load_dataset(settings(tmp_path, categories=("dining table", "dog")), "train", "masks")
    assert masks.classes == ("background", "dining table", "dog")
    values = masks.read(0)[1].numpy()
    assert (values[15, 25], values[30, 40]) == (2, 1)
    assert 255 not in values  # the crowd is of cats
    with pytest.raises(
        UserError, match=r"data\.categories names 'dogs', which .*train2017\.json .*: did you mean 'dog'\?"
    ):
        load_dataset(settings(tmp_path, categories=("dogs",)), "train", "labels")
    with pytest.raises(UserError, match="names 'dog' more than once"):
        load_dataset(settings(tmp_path, categories=("dog", "dog")), "train", "labels")


def test_masks_are_as_large_as_their_images(tmp_path: Path):
    write_coco(tmp_path)
    source = load_dataset(settings(tmp_path), "validation", "masks")
    assert source.classes == ("background", *CLASSES)
    assert [tuple(source.read(row)[1].shape) for row in range(4)] == list(SIZES.values())
    assert (source.read(0)[1][15, 25], source.read(0)[1][30, 40]) == (1, 3)
    some = source.subset(np.array([2, 0]))
    assert (some.read(1)[1] == source.read(0)[1]).all()


@pytest.mark.parametrize(
    ("there", "image_set", "taken"),
    [
        (("train2014", "val2014"), "", "2014"),
        (("train2014", "val2014", "train2017", "val2017"), "", "2017"),
        (("train2014", "val2014", "train2017", "val2017"), "2014", "2014"),
        (("train2014", "val2014", "val2017"), "", "2014"),  # never the two splits of different years: they overlap
        (("val2014",), "", "2014"),
    ],
)
def test_the_year_is_the_one_that_is_there(tmp_path: Path, there: tuple[str, ...], image_set: str, taken: str):
    write_coco(tmp_path, there)
    source = load_dataset(settings(tmp_path, image_set=image_set), "validation", "labels")
    assert Path(source.describe(0)).parent.name == f"val{taken}"


def test_a_year_that_there_is_not(tmp_path: Path):
    write_coco(tmp_path, ("val2017",))
    with pytest.raises(UserError, match=r"instances_train2017\.json is not there; .* are instances_val2017\.json: "):
        load_dataset(settings(tmp_path), "train", "labels")
    with pytest.raises(UserError, match=r"instances_val2014\.json is not there; .* are instances_val2017\.json: "):
        load_dataset(settings(tmp_path, image_set="2014"), "validation", "labels")
    with pytest.raises(UserError, match=r"data\.image_set is '2015'"):
        load_dataset(settings(tmp_path, image_set="2015"), "validation", "labels")


def test_folders_that_are_missing_are_named(tmp_path: Path):
    with pytest.raises(
        UserError, match=rf"{tmp_path} has no folder 'annotations'; expected annotations/instances_train2017"
    ):
        load_dataset(settings(tmp_path), "train", "labels")
    write_coco(tmp_path)
    os.rename(tmp_path / "train2017", tmp_path / "pictures")
    with pytest.raises(
        UserError, match=rf"{tmp_path} has no folder of images 'train2017'; expected train2017/IMAGE or"
    ):
        load_dataset(settings(tmp_path), "train", "labels")


@pytest.mark.parametrize("targets", ["labels", "masks"])
def test_images_that_the_folder_lacks(tmp_path: Path, targets, caplog: pytest.LogCaptureFixture):
    write_coco(tmp_path)
    whole = load_dataset(settings(tmp_path), "train", targets)
    gone = [Path(whole.describe(row)) for row in (0, 2)]
    for path in gone:
        path.unlink()
    with pytest.raises(UserError, match=rf"2 of 4 images in .*train2017\.json are not in {gone[0].parent}") as caught:
        load_dataset(settings(tmp_path), "train", targets)
    assert str(gone[0]) in str(caught.value)
    source = load_dataset(settings(tmp_path, on_bad_image="skip"), "train", targets)
    assert "left out 2 of 4 images" in caplog.text
    assert [source.describe(row) for row in range(2)] == [whole.describe(row) for row in (1, 3)]
    assert set(source.bad_files) == {str(path) for path in gone}
    if targets == "labels":
        assert np.array_equal(source.targets, whole.targets[[1, 3]])
    else:
        assert (source.read(0)[1] == whole.read(1)[1]).all()
    for row in (1, 3):
        Path(whole.describe(row)).unlink()
    with pytest.raises(UserError, match="4 of 4 images"):
        load_dataset(settings(tmp_path, on_bad_image="skip"), "train", targets)


def test_images_may_lie_in_folders_below(tmp_path: Path):
    write_coco(tmp_path)
    content = coco_dict()
    (tmp_path / "train2017/deep").mkdir()
    for image in content["images"][:2]:
        os.rename(tmp_path / "train2017" / image["file_name"], tmp_path / "train2017/deep" / image["file_name"])
        image["file_name"] = "deep/" + image["file_name"]
    rewrite(tmp_path, content)
    source = load_dataset(settings(tmp_path), "train", "labels")
    assert source.describe(0) == str(tmp_path / "train2017/deep/000000000042.jpg")
    assert source.image(0).shape == (3, 40, 60)


def test_annotation_files_that_are_wrong_are_named(tmp_path: Path):
    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{path} is cut off in 'annotations'"):
        load_dataset(settings(tmp_path), "train", "labels")
    content = coco_dict()
    content["annotations"][3]["image_id"] = 5
    rewrite(tmp_path, content)
    with pytest.raises(UserError, match=rf"{path}: 1 of 9 annotations are of an unknown image"):
        load_dataset(settings(tmp_path), "train", "labels")


def test_masks_need_segmentations_and_room_for_the_classes(tmp_path: Path):
    write_coco(tmp_path)
    content = coco_dict()
    boxes = [{**each, "segmentation": []} for each in content["annotations"]]
    rewrite(tmp_path, {**content, "annotations": boxes})
    with pytest.raises(UserError, match=r"train2017\.json has no segmentation in any annotation"):
        load_dataset(settings(tmp_path), "train", "masks")
    assert load_dataset(settings(tmp_path), "train", "labels").targets.any()
    many = [*CATEGORIES, *({"id": 1000 + i, "name": f"thing {i}"} for i in range(252))]
    rewrite(tmp_path, {**content, "categories": many})
    with pytest.raises(UserError, match=r"has 255 categories, but a mask has room for 254: .* data\.categories"):
        load_dataset(settings(tmp_path), "train", "masks")
    rewrite(tmp_path, {**content, "categories": many[:-1]})
    assert len(load_dataset(settings(tmp_path), "train", "masks").classes) == 255


def test_a_segmentation_that_does_not_fit_is_bad_image_of_its_image(tmp_path: Path):
    write_coco(tmp_path)
    content = coco_dict()
    content["annotations"].append(annotation(77, 7, 17, 10, [polygon(1, 2, 3, 4)[:-1]]))
    rewrite(tmp_path, content)
    source = load_dataset(settings(tmp_path), "train", "masks")
    assert isinstance(source, FileSource)
    with pytest.raises(BadImage) as caught:
        source.read(1)
    with pytest.raises(
        UserError, match=r"000000000007\.jpg cannot be used: annotation 77 in .*has a polygon of 7 numbers"
    ):
        source.report_bad(1, str(caught.value))


def test_masks_without_pycocotools_name_the_extra_and_labels_do_without(tmp_path: Path, monkeypatch):
    write_coco(tmp_path)
    monkeypatch.setattr(painting, "pycocomask", None)
    with pytest.raises(UserError, match=r"pip install 'anysize\[coco\]'"):
        load_dataset(settings(tmp_path), "train", "masks")
    assert len(load_dataset(settings(tmp_path), "train", "labels")) == 4


def test_its_use_is_known_without_its_files():
    info = dataset_info(DataSettings(name="coco"), "labels")
    assert (info.image_size, info.resize, info.crop, info.areas) == (224, "stretch", "random-resized", (1024, 9216))
    masks = dataset_info(DataSettings(name="coco"), "masks")
    assert (masks.image_size, masks.resize, masks.crop) == (513, "pad", "rescale")
    assert (info.num_classes, masks.num_classes) == (80, 81)  # with the background
    alike = {"image_size": 0, "resize": "", "crop": "", "num_classes": 0}
    assert dataclasses.replace(masks, **alike) == dataclasses.replace(info, **alike)
    code = "import anysize.data.formats.coco.index, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The file without some keys of its annotations."""
    return {**content, "annotations": [{k: v for k, v in a.items() if k not in keys} for a in content["annotations"]]}


def test_labels_and_masks_need_neither_areas_nor_boxes(tmp_path: Path):
    write_coco(tmp_path)
    whole, masks = (load_dataset(settings(tmp_path), "validation", kind) for kind in ("labels", "masks"))
    content = without(coco_dict(), "area", "bbox")
    rewrite(tmp_path, content)
    for _ in range(2):  # from the file, and from its index
        source = load_dataset(settings(tmp_path), "train", "labels")
        assert source.targets.shape == (4, 1, 3)
        assert (source.targets[:, 0] == whole.targets.max(1)).all()
    plain = load_dataset(settings(tmp_path), "train", "masks")  # larger objects are painted first all the same
    assert (plain.read(0)[1] == masks.read(0)[1]).all()
    assert (int(plain.read(2)[1][20, 23]), int(masks.read(2)[1][20, 23])) == (1, 2)  # the file states odd areas
    with pytest.raises(UserError, match=r"data.areas is set, but 9 of the 9 annotations .* have no 'area'; add it"):
        load_dataset(settings(tmp_path, areas=(4.0, 9.0)), "train", "labels")
    boxes = without(coco_dict(), "area", "segmentation")
    rewrite(tmp_path, boxes)
    assert load_dataset(settings(tmp_path), "train", "labels").targets.shape == (4, 1, 3)


@pytest.mark.parametrize("root_name", ["animals", "cat"])  # Roboflow's root, also of the name of a class
def test_a_category_that_only_stands_for_others_is_no_class(tmp_path: Path, root_name: str):
    write_coco(tmp_path)
    content = coco_dict()
    children = [{**category, "supercategory": root_name} for category in content["categories"]]
    rewrite(tmp_path, {**content, "categories": [{"id": 0, "name": root_name, "supercategory": "none"}, *children]})
    plain = load_dataset(settings(tmp_path), "validation", "masks")
    for _ in range(2):
        source = load_dataset(settings(tmp_path), "train", "masks")
        assert source.classes == ("background", *CLASSES)
        assert (source.read(0)[1] == plain.read(0)[1]).all()
        assert root_name in str(source.left_out)
    assert load_dataset(settings(tmp_path), "train", "labels").classes == CLASSES
    lone = [*content["categories"], {"id": 5, "name": "emu", "supercategory": "animal"}]
    rewrite(tmp_path, {**content, "categories": lone})  # a class of which there is none stays
    assert load_dataset(settings(tmp_path), "train", "labels").classes == (*CLASSES, "emu")


def test_an_image_that_the_file_names_twice_is_refused(tmp_path: Path):
    write_coco(tmp_path)
    content = coco_dict()
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    path = rewrite(tmp_path, content)
    with pytest.raises(UserError, match=rf"{path}: 1 file names are there more than once"):
        load_dataset(settings(tmp_path), "train", "labels")


def test_annotations_may_lie_beside_the_images(tmp_path: Path):
    """As Roboflow writes them."""
    source = write_coco(tmp_path / "coco", ("train2017", "val2017"))
    for split, name in (("train", "train2017"), ("valid", "val2017")):
        (tmp_path / split).mkdir()
        for path in (source / name).iterdir():
            path.rename(tmp_path / split / path.name)
        (source / f"annotations/instances_{name}.json").rename(tmp_path / split / "_annotations.coco.json")
    for split, folder in (("train", "train"), ("validation", "valid")):
        loaded = load_dataset(settings(tmp_path), split, "labels")
        assert [os.path.dirname(loaded.describe(i)) for i in range(len(loaded))] == [str(tmp_path / folder)] * 4
        assert loaded.targets.sum() == 8
    assert DATASETS["coco"]().splits(settings(tmp_path)) == (
        f"splits of {tmp_path}: training is train/_annotations.coco.json, validation is valid/_annotations.coco.json"
    )
    with pytest.raises(UserError, match=r"has no test/_annotations\.coco\.json"):
        load_dataset(settings(tmp_path), "test", "labels")
    (tmp_path / "test").mkdir()
    (tmp_path / "train/_annotations.coco.json").rename(tmp_path / "test/_annotations.coco.json")
    with pytest.raises(UserError, match=r"has no train/_annotations\.coco\.json .*; expected train/_annotations"):
        load_dataset(settings(tmp_path), "train", "labels")
    (tmp_path / "test/_annotations.coco.json").unlink()
    (tmp_path / "valid/_annotations.coco.json").unlink()
    with pytest.raises(UserError, match=r"no folder 'annotations'; .* or train/_annotations\.coco\.json with the"):
        load_dataset(settings(tmp_path), "train", "labels")
