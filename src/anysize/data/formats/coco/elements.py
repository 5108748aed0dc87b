"""The elements of a COCO annotation file: images, categories and annotations, checked and put into arrays.

Format: https://cocodataset.org/#format-data, "Object Detection".
"""

import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from anysize.data.formats.coco.json_stream import Element
from anysize.data.formats.coco.run_lengths import estimated_area
from anysize.data.formats.names import LONGEST_CLASS, LONGEST_FILE, check_class_names, is_file_name
from anysize.registry import UserError, shown

EXPECTED = "expected object instances, as in COCO's instances_*.json"
_OTHERS = {"caption": "captions", "segments_info": "panoptic segments", "score": "results"}  # other COCO files' keys
_COLUMNS = ("image_id", "category_id", "area", "sized", "crowd", "segmented", "offset", "length")
_CODES = "qqdbbbqq"  # of their values, for `array.array`


class _Valid(NamedTuple):
    """A condition on a value: a test, and what it expects in words."""

    test: Callable[[Any], bool]
    expected: str


def is_segmentation(value: Any) -> bool:
    """Whether a value is polygons or run lengths by its kind, or None."""
    if isinstance(value, dict):
        return isinstance(value.get("counts"), (list, str))
    return value is None or (isinstance(value, list) and all(isinstance(polygon, list) for polygon in value))


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        return False


_WHOLE = _Valid(lambda value: type(value) is int and abs(value) < 2**63, "a whole number")
_SIDE = _Valid(lambda value: type(value) is int and 0 < value < 2**31, "a whole number of pixels")
_TEXT = _Valid(_is_text, "a text")
_FILE = _Valid(
    lambda value: _is_text(value) and is_file_name(value),
    f"a text that names a file, of at most {LONGEST_FILE:,} bytes, none of them zero",
)
_AREA = _Valid(lambda value: type(value) in (int, float) and 0 <= value < 2**63, "a number of pixels")  # nor NaN
_CROWD = _Valid(lambda value: value in (0, 1), "0 or 1")
_SEGMENTATION = _Valid(is_segmentation, "a list of polygons [x, y, ...], or {'size', 'counts'}")
_IMAGE = {"id": _WHOLE, "file_name": _FILE, "height": _SIDE, "width": _SIDE}


def _read_images(elements: Iterator[Element], path: str) -> dict[str, Any]:
    take = _Taker(path, "image")
    rows = [[take(image, key, valid) for key, valid in _IMAGE.items()] for image, _, _ in map(take.next, elements)]
    ids, names, heights, widths = zip(*rows, strict=True) if rows else ((),) * 4
    return {
        "image_ids": unique(path, "image ids", np.array(ids, np.int64)),
        "file_names": unique(path, "file names", np.array([name.encode() for name in names], np.bytes_)),
        "heights": np.array(heights, np.int32),
        "widths": np.array(widths, np.int32),
    }


def _read_categories(elements: Iterator[Element], path: str) -> dict[str, Any]:
    take = _Taker(path, "category")
    rows = [
        (take(each, "id", _WHOLE), take(each, "name", _TEXT), each.get("supercategory"))
        for each, _, _ in map(take.next, elements)
    ]
    ids, names, parents = zip(*rows, strict=True) if rows else ((),) * 3
    check_class_names(names, path)
    return {
        "category_ids": unique(path, "category ids", np.array(ids, np.int64)),
        "category_names": tuple(names),
        "category_parents": tuple(
            parent if _is_text(parent) and len(parent) <= LONGEST_CLASS else "" for parent in parents
        ),
    }


def _read_annotations(elements: Iterator[Element], path: str) -> dict[str, Any]:
    take = _Taker(path, "annotation")
    # Arrays of the standard library grow in place and hold numbers, not Python objects.
    columns = {name: array.array(code) for name, code in zip(_COLUMNS, _CODES, strict=True)}
    image, category, area, sized, crowd, segmented, offset, length = (column.append for column in columns.values())
    for annotation, start, size in map(take.next, elements):
        image(take(annotation, "image_id", _WHOLE))
        category(take(annotation, "category_id", _WHOLE))
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("segmentation", None)
        crowd(int(take(annotation, "iscrowd", _CROWD)))
        shape = take(annotation, "segmentation", _SEGMENTATION)
        given = "area" in annotation or any(key in annotation for key in _OTHERS)  # of another kind of file: refused
        pixels: Any = take(annotation, "area", _AREA) if given else estimated_area(shape, annotation.get("bbox"))
        area(pixels)
        sized(given)
        segmented(bool(shape["counts"]) if isinstance(shape, dict) else any(shape or ()))
        offset(start)
        length(size)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    return {**arrays, **{name: arrays[name].astype(bool) for name in ("sized", "crowd", "segmented")}}


READERS = {"images": _read_images, "categories": _read_categories, "annotations": _read_annotations}
"""The readers of the arrays of a file, by name: each takes the elements and the file's path, and raises `UserError`."""


class _Taker:
    """Takes the values of one kind of element, each as it has to be or a `UserError` that names the element."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.number = -1

    def next(self, element: Element) -> Element:
        self.number += 1
        if not isinstance(element.value, dict):
            raise self._wrong({}, f"is {shown(element.value, 60)}", "an object")
        return element

    def __call__(self, element: dict[str, Any], key: str, valid: _Valid) -> Any:
        if key not in element:
            other = next((what for other, what in _OTHERS.items() if other in element), "")
            received = f"has no {key!r}" + (f" and looks like one of COCO's {other}" if other else "")
            wanted = "the annotations of objects, as in instances_train2017.json" if other else "one"
            raise self._wrong(element, received, wanted)
        value = element[key]
        if not valid.test(value):
            raise self._wrong(element, f"has {key} {shown(value, 60)}", valid.expected)
        return value

    def _wrong(self, element: dict[str, Any], fault: str, expected: str) -> UserError:
        name = f" (id {shown(element['id'], 60)})" if self.kind == "annotation" and "id" in element else ""
        return UserError(f"{self.path}: {self.kind} number {self.number}{name} {fault}; expected {expected}")


def unique(path: str, what: str, values: np.ndarray) -> np.ndarray:
    """The values, or a `UserError` where there are none, or one twice."""
    if not len(values):
        raise UserError(f"{path} has no {what}: its list is empty; {EXPECTED}")
    different, counts = np.unique(values, return_counts=True)
    if len(different) < len(values):
        doubles = different[counts > 1].tolist()
        raise UserError(
            f"{path}: {len(doubles):,} {what} are there more than once, the first {shown(doubles[0], 60)}; expected "
            "each once"
        )
    return values
