"""The index of a COCO file holds what the file says; it is kept beside the file; wrong files are refused by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, SIZES, coco_dict, polygon

from anysize.data.formats.coco import cache as coco_cache
from anysize.data.formats.coco.cache import read_coco_index
from anysize.data.formats.coco.index import CocoIndex, index_coco
from anysize.registry import UserError


def write(folder: Path, content: Any, **how: Any) -> Path:
    path = folder / "instances_train2017.json"
    path.write_text(json.dumps(content, **how), encoding="utf-8")
    return path


def same(left: CocoIndex, right: CocoIndex) -> bool:
    return all(np.array_equal(value, getattr(right, name)) for name, value in vars(left).items())


@pytest.mark.parametrize("how", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("reverse", [False, True])
def test_it_holds_what_the_file_says_whatever_the_order_of_its_keys(tmp_path: Path, how, reverse: bool):
    content = coco_dict()
    path = write(tmp_path, dict(reversed(content.items())) if reverse else content, **how)
    index = index_coco(path)
    assert index.image_ids.tolist() == [image["id"] for image in content["images"]]
    assert [name.decode() for name in index.file_names] == [image["file_name"] for image in content["images"]]
    assert list(zip(index.heights.tolist(), index.widths.tolist(), strict=True)) == list(SIZES.values())
    assert index.category_names == tuple(category["name"] for category in CATEGORIES)
    assert index.category_ids.tolist() == [18, 17, 67]
    annotations = content["annotations"]
    assert index.image_ids[index.image].tolist() == [each["image_id"] for each in annotations]
    assert index.category_ids[index.category].tolist() == [each["category_id"] for each in annotations]
    assert index.area.tolist() == [each["area"] for each in annotations]
    assert index.crowd.tolist() == [bool(each["iscrowd"]) for each in annotations]
    assert index.segmented.tolist() == [bool(each["segmentation"]) for each in annotations]
    written = path.read_bytes()
    places = zip(index.offset.tolist(), index.length.tolist(), strict=True)
    assert [json.loads(written[start : start + length]) for start, length in places] == annotations


def test_names_may_have_any_letters(tmp_path: Path):
    content = coco_dict()
    content["images"][0]["file_name"] = "straße/日本 é.jpg"
    content["categories"][0] = {"id": 18, "name": "Hündchen"}
    for ascii_only in (True, False):
        index = index_coco(write(tmp_path, content, ensure_ascii=ascii_only))
        assert index.file_names[0].decode() == "straße/日本 é.jpg"
        assert index.category_names[0] == "Hündchen"


def test_crowds_may_be_left_out_and_there_may_be_no_annotations(tmp_path: Path):
    content = coco_dict()
    for each in content["annotations"]:
        del each["iscrowd"], each["segmentation"]
    index = index_coco(write(tmp_path, content))
    assert not index.crowd.any()
    assert not index.segmented.any()
    index = index_coco(write(tmp_path, {**content, "annotations": []}))
    assert (len(index.area), len(index.image_ids)) == (0, 4)


def test_the_second_time_the_file_itself_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, coco_dict())
    first = read_coco_index(path)
    monkeypatch.setattr(coco_cache, "index_coco", None)
    assert same(first, read_coco_index(path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, path.name + ".anysize.npz"]


def _touch(path: Path, cache: Path) -> None:
    os.utime(path, ns=(0, 5))


def _cut(path: Path, cache: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:-100])


def _flip(path: Path, cache: Path) -> None:
    written = bytearray(cache.read_bytes())
    place = written.find(np.array([80.5]).tobytes())  # an area: only the checksum tells
    written[place + 7] ^= 1
    cache.write_bytes(written)


def _other(path: Path, cache: Path) -> None:
    cache.write_text("no arrays")


def _version(path: Path, cache: Path) -> None:
    with np.load(cache) as stored:
        arrays = dict(stored)
    np.savez(cache, **{**arrays, "key": arrays["key"] + [1, 0, 0], "area": arrays["area"] + 1})


@pytest.mark.parametrize("spoil", [_touch, _cut, _flip, _other, _version])
def test_a_stale_or_damaged_cache_is_made_again(tmp_path: Path, spoil: Callable[[Path, Path], None]):
    path = write(tmp_path, coco_dict())
    first, cache = read_coco_index(path), path.with_name(path.name + ".anysize.npz")
    whole = cache.read_bytes()
    spoil(path, cache)
    assert np.array_equal(read_coco_index(path).area, first.area)
    assert len(cache.read_bytes()) == len(whole)
    with np.load(cache) as stored:
        assert stored["key"].tolist() == [coco_cache.VERSION, path.stat().st_size, path.stat().st_mtime_ns]


def test_a_changed_file_is_read_again(tmp_path: Path):
    content = coco_dict()
    path = write(tmp_path, content)
    read_coco_index(path)
    content["annotations"][0]["area"] = 12345.0
    write(tmp_path, content)
    assert read_coco_index(path).area[0] == 12345.0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, coco_dict())

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco_cache.np, "savez", full)
    assert len(read_coco_index(path).area) == 9
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def without(content: dict[str, Any], part: str, key: str) -> dict[str, Any]:
    del content[part][1][key]
    return content


def changed(content: dict[str, Any], part: str, key: str, value: Any) -> dict[str, Any]:
    content[part][1][key] = value
    return content


LISTS = [
    (
        lambda c: {k: v for k, v in c.items() if k != "annotations"},
        "has no 'annotations', but images, categories, info",
    ),
    (lambda c: {k: v for k, v in c.items() if k != "categories"}, "has no 'categories'"),
    (lambda c: {}, "has no 'images', but nothing"),
    (lambda c: {**c, "images": {}}, "its 'images' are no list"),
    (lambda c: {**c, "images": []}, "has no image ids: its list is empty"),
    (lambda c: {**c, "images": [*c["images"], c["images"][1]]}, "1 image ids are there more than once, the first 7"),
    (lambda c: {**c, "categories": [*CATEGORIES, {"id": 17, "name": "rat"}]}, "1 category ids .* the first 17"),
    (lambda c: {**c, "categories": [*CATEGORIES, {"id": 5, "name": "cat"}]}, "1 category names .* the first 'cat'"),
    (lambda c: {**c, "annotations": [5]}, "annotation number 0 is 5; expected an object"),
    (
        lambda c: {**c, "images": c["images"][:1]},
        r"6 of 9 annotations are of an unknown image, .* number 2 with image_id 7",
    ),
    (
        lambda c: {**c, "categories": CATEGORIES[:2]},
        r"1 of 9 annotations are of an unknown category, .* category_id 67",
    ),
    (lambda c: c["annotations"], "holds a list, as files of results do"),
]
KEYS = [
    *(
        (lambda c, key=key: without(c, "annotations", key), rf"annotation number 1 \(id 2\) has no '{key}'")
        for key in ("image_id", "category_id")
    ),
    *(
        (lambda c, key=key: without(c, "images", key), f"image number 1 has no '{key}'")
        for key in ("id", "file_name", "width")
    ),
    (lambda c: without(c, "categories", "name"), "category number 1 has no 'name'"),
]
VALUES = [
    ("annotations", "area", "80", "has area '80'; expected a number"),
    ("annotations", "area", None, "has area None"),
    ("annotations", "area", True, "has area True"),
    ("annotations", "area", float("nan"), "has area nan"),
    ("annotations", "area", -3, "has area -3"),
    ("annotations", "area", 1e308, r"has area 1e\+308; expected a number of pixels"),
    ("annotations", "area", 10**400, r"has area 10+\.\.\.0+; expected a number of pixels"),
    ("annotations", "image_id", "7", "has image_id '7'; expected a whole number"),
    ("annotations", "category_id", 1.5, "has category_id 1.5; expected a whole number"),
    ("annotations", "category_id", 10**30, "has category_id 10+; expected a whole number"),
    ("annotations", "iscrowd", "no", "has iscrowd 'no'; expected 0 or 1"),
    ("annotations", "iscrowd", [], r"has iscrowd \[\]; expected 0 or 1"),
    ("annotations", "segmentation", "text", "has segmentation 'text'; expected a list of polygons"),
    ("annotations", "segmentation", polygon(1, 2, 3, 4), r"has segmentation \[1, 2, .*; expected a list of polygons"),
    ("annotations", "segmentation", {"size": [2, 2]}, r"has segmentation \{'size': \[2, 2\]\}; expected"),
    ("images", "height", "40", "image number 1 has height '40'; expected a whole number"),
    ("images", "height", 0, "image number 1 has height 0; expected a whole number of pixels"),
    (
        "images",
        "file_name",
        "a\0.jpg",
        r"image number 1 has file_name 'a\\x00\.jpg'; expected a text that names",
    ),
    ("images", "file_name", "a" * 5000, r"image number 1 has file_name 'a{27}\.\.\.a{28}'; expected a text that names"),
    (
        "categories",
        "name",
        "z" * 9999,
        r"has a class whose name is 9,999 characters long, 'z+\.\.\.z+'; expected at most",
    ),
    ("images", "file_name", 7, "image number 1 has file_name 7; expected a text"),
    ("images", "file_name", "\ud800", "image number 1 has file_name .*; expected a text"),
    ("categories", "name", "", "category number 1 has name ''; expected a text"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *LISTS,
        *KEYS,
        *((lambda c, p=part, k=key, v=value: changed(c, p, k, v), message) for part, key, value, message in VALUES),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_the_file(tmp_path: Path, change: Callable, message: str):
    path = write(tmp_path, change(coco_dict()))
    with pytest.raises(UserError, match=message) as caught:
        read_coco_index(path)
    assert str(caught.value).startswith(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # nothing is kept of a wrong file


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ({"image_id": 7, "id": 3, "caption": "A dog."}, "captions"),
        ({"image_id": 7, "segments_info": [], "file_name": "7.png"}, "panoptic segments"),
        ({"image_id": 7, "category_id": 17, "bbox": [1, 2, 3, 4], "score": 0.5}, "results"),
    ],
)
def test_cocos_other_files_are_recognised(tmp_path: Path, annotation: dict[str, Any], kind: str):
    path = write(tmp_path, {**coco_dict(), "annotations": [annotation]})
    with pytest.raises(UserError, match=f"has no '(category_id|area)' and looks like one of COCO's {kind}"):
        read_coco_index(path)


def test_keys_that_are_there_twice_are_refused(tmp_path: Path):
    path = tmp_path / "instances.json"
    whole = json.dumps(coco_dict())
    path.write_text(whole[:-1] + ', "annotations": []}')
    with pytest.raises(UserError, match=r"instances\.json: its 'annotations' are there twice"):
        index_coco(path)


def test_a_missing_file_is_answered_with_those_that_are_there(tmp_path: Path):
    path = write(tmp_path, coco_dict())
    with pytest.raises(
        UserError, match=r"val2017\.json is not there; .* are instances_train2017\.json: add it, rename"
    ):
        read_coco_index(path.with_name("instances_val2017.json"))
    path.unlink()
    with pytest.raises(UserError, match=r"instances_train2017\.json is not there, nor any other JSON file"):
        read_coco_index(path)
