"""Masks painted from COCO's segmentations have the pixels that pycocotools' own reader gives."""

import contextlib
import copy
import functools
import io
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, annotation, coco_dict, compressed, crowd_mask, polygon, uncompressed
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from anysize.data.formats.coco import painting
from anysize.data.formats.coco.index import index_coco
from anysize.data.formats.coco.painting import CocoMasks, paint, segmentation_counts
from anysize.data.pictures import BadImage
from anysize.registry import UserError

NUMBERS = np.array([1, 2, 3], np.uint8)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "instances_train2017.json"
    path.write_text(json.dumps(content))
    return path


def read(masks: CocoMasks, row: int) -> np.ndarray:
    """The mask of an image that has the size that the file says."""
    image = masks._images[row]
    return masks.read(row, (masks._heights[image], masks._widths[image]))


def expected_mask(path: Path, image: dict[str, Any], values: dict[int, int]) -> np.ndarray:
    """Objects pixel by pixel: of those that cover a pixel the smallest holds, a crowd where there is none."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    smallest = np.full(mask.shape, np.inf)
    for each in coco.imgToAnns[image["id"]]:
        if not each["segmentation"] or each["category_id"] not in values:
            continue
        inside = coco.annToMask(each).astype(bool)
        if each["iscrowd"]:
            mask[inside & np.isinf(smallest)] = 255
        else:
            taken = inside & (each["area"] <= smallest)
            mask[taken], smallest[taken] = values[each["category_id"]], each["area"]
    return mask


@pytest.mark.parametrize("numbers", [[1, 2, 3], [0, 9, 4]])
def test_they_equal_what_pycocotools_says_of_each_object(tmp_path: Path, numbers: list[int]):
    content = coco_dict()
    path = write(tmp_path, content)
    masks = CocoMasks(index_coco(path), np.array(numbers, np.uint8))
    values = {category["id"]: number for category, number in zip(CATEGORIES, numbers, strict=True) if number}
    for row, image in enumerate(content["images"]):
        mask = read(masks, row)
        assert mask.dtype == np.uint8
        assert mask.flags.c_contiguous
        assert np.array_equal(mask, expected_mask(path, image, values))


def test_small_lies_on_large_and_crowds_below_both(tmp_path: Path):
    content = coco_dict()
    masks = CocoMasks(index_coco(write(tmp_path, content)), NUMBERS)
    mask = read(masks, 0)  # a dog within a table, and a crowd of cats
    assert mask[15, 25] == 1
    assert mask[15, 10] == mask[30, 40] == 3
    crowd = crowd_mask(40, 60, 0).astype(bool)
    free = np.ones_like(crowd)
    free[4:34, 5:45] = False
    assert set(mask[crowd & free].tolist()) == {255}
    assert set(mask[~crowd & free].tolist()) == {0}
    assert read(masks, 2)[18:20, 18:20].tolist() == [[2, 2], [2, 2]]  # the smallest, of the same class as the largest
    assert not read(masks, 3).any()  # no annotation at all


def test_a_class_that_is_left_out_is_not_painted_over_others(tmp_path: Path):
    masks = CocoMasks(index_coco(write(tmp_path, coco_dict())), np.array([0, 0, 1], np.uint8))
    assert (read(masks, 0)[4:34, 5:45] == 1).all()
    assert 255 not in read(masks, 0)


def test_subsets_and_pickled_copies_read_the_same(tmp_path: Path):
    path = write(tmp_path, coco_dict())
    masks = CocoMasks(index_coco(path), NUMBERS)
    some = masks[np.array([2, 0, 2])][np.array([1, 2])]
    copied = pickle.loads(pickle.dumps(some))
    for each in (some, copied):
        assert np.array_equal(read(each, 0), read(masks, 0))
        assert np.array_equal(read(each, 1), read(masks, 2))
    chosen = CocoMasks(index_coco(path), NUMBERS, np.array([2, 0]))
    assert np.array_equal(read(chosen, 1), read(masks, 0))


def test_forked_workers_read_at_the_same_time(tmp_path: Path):
    masks = CocoMasks(index_coco(write(tmp_path, coco_dict())), NUMBERS)
    rows = [0, 1, 2, 3] * 25
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(functools.partial(read, masks), rows))
    assert all(np.array_equal(mask, read(masks, row)) for mask, row in zip(found, rows, strict=True))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "has a polygon of 7 numbers; expected x and y"),
        ([[1, 2, 3, "4", 5, 6]], "has '4' in a polygon; expected numbers"),
        ([[1, 2, 3, None, 5, 6]], "has None in a polygon; expected numbers"),
        ([[1, 2, 3, float("nan"), 5, 6]], "has nan in a polygon; expected numbers in or near its 50 x 30 pixels"),
        ([polygon(0, 0, 1e9, 5)], r"has 1000000000\.0 in a polygon; expected numbers in or near"),
        ([polygon(0, 0, -(10**300), 5)], r"has -10+\.\.\.0+ in a polygon"),
        ([[0, 0, 500, 0] * 4001], "has an outline of 4,001,000 pixels; expected at most 2,000,000"),
        ({"size": [50, 30], "counts": [10**400]}, r"has run lengths of 10+\.\.\.0+ pixels in all; expected 1500"),
        ({"size": [50, 30], "counts": [[[[[]]]]]}, "has counts that are no run lengths"),
        ({"size": [30, 50], "counts": [1500]}, r"has run lengths of size \[30, 50\]; expected \[50, 30\]"),
        ({"size": [50, 30], "counts": [1400]}, "has run lengths of 1400 pixels in all; expected 1500"),
        ({"size": [50, 30], "counts": [-5, 1505]}, "has counts that are no run lengths"),
        ({"size": [50, 30], "counts": [0.5, 1499.5]}, "has counts that are no run lengths"),
        ({"size": [50, 30], "counts": "52203"}, "has run lengths of 16 pixels in all; expected 1500"),
        ({"size": [50, 30], "counts": "52203P"}, "has counts that are no run lengths; expected COCO's compressed text"),
        ({"size": [50, 30], "counts": "52203!"}, "has counts that are no run lengths; expected COCO's compressed text"),
        ({"size": [50, 30], "counts": "PPPPPPPP0"}, "has counts that are no run lengths; expected COCO's compressed"),
        ({"size": [50, 30], "counts": "5O"}, "has counts that are no run lengths; expected whole numbers"),
    ],
)
def test_a_segmentation_that_cannot_be_painted_names_its_annotation(tmp_path: Path, segmentation: Any, message: str):
    content = coco_dict()
    content["annotations"].append(annotation(77, 7, 17, 10, segmentation))
    masks = CocoMasks(index_coco(write(tmp_path, content)), NUMBERS)
    with pytest.raises(BadImage, match=rf"annotation 77 in .*instances_train2017\.json {message}"):
        read(masks, 1)
    assert read(masks, 0).any()  # the other images can be used


@pytest.mark.parametrize("segmentation", [[], [[]], [[1, 2]], [[1, 2, 3, 4]], [[], [5, 5, 6, 6]]])
def test_what_has_no_pixels_is_passed_over(tmp_path: Path, segmentation: Any):
    content = coco_dict()
    before = read(CocoMasks(index_coco(write(tmp_path, content)), NUMBERS), 1)
    more = copy.deepcopy(content)
    more["annotations"].append(annotation(77, 7, 17, 10, segmentation))
    assert np.array_equal(read(CocoMasks(index_coco(write(tmp_path, more)), NUMBERS), 1), before)


def test_no_memory_is_taken_for_a_size_that_the_image_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = coco_dict()
    content["images"][0].update(height=10**9, width=10**9)
    masks = CocoMasks(index_coco(write(tmp_path, content)), NUMBERS)
    monkeypatch.setattr(painting, "paint", None)
    with pytest.raises(BadImage, match=r"has 1000000000 x 1000000000 pixels and the image 40 x 60"):
        masks.read(0, (40, 60))


def test_a_file_that_changes_while_it_is_in_use_is_refused(tmp_path: Path):
    content = coco_dict()
    path = write(tmp_path, content)
    masks = CocoMasks(index_coco(path), NUMBERS)
    write(tmp_path, {**content, "info": {"year": 2014}})
    with pytest.raises(UserError, match=r"instances_train2017\.json was changed while it was in use; start again"):
        read(masks, 0)
    path.unlink()
    with pytest.raises(UserError, match=r"instances_train2017\.json is not there"):
        read(masks, 0)


def test_without_pycocotools_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = index_coco(write(tmp_path, coco_dict()))
    monkeypatch.setattr(painting, "pycocomask", None)
    with pytest.raises(UserError, match=r"pip install 'anysize\[coco\]'"):
        CocoMasks(index, NUMBERS)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 400), st.integers(0, 10**6))
def test_run_lengths_are_read_as_pycocotools_writes_them(height: int, width: int, seed: int):
    random = np.random.default_rng(seed)
    mask = np.asfortranarray((random.random((height, width)) < random.choice([0, 0.01, 0.5, 0.99, 1])).astype(np.uint8))
    for written in (uncompressed(mask), compressed(mask)):
        counts = segmentation_counts(written, height, width)
        assert counts == uncompressed(mask)["counts"]
        assert np.array_equal(paint([(counts, 5)], height, width), 5 * mask)
