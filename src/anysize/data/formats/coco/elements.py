"""The elements of a COCO annotation file: images, categories and annotations, checked and put into arrays.

Format: https://cocodataset.org/#format-data, "Object Detection".
"""

import array
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anysize.data.formats.coco.json_stream import Element
from anysize.registry import UserError

EXPECTED = "expected object instances, as in COCO's instances_*.json"
_OTHERS = {"caption": "captions", "segments_info": "panoptic segments", "score": "results"}  # other COCO files' keys
_COLUMNS = {
    "image_id": "q",
    "category_id": "q",
    "area": "d",
    "crowd": "b",
    "segmented": "b",
    "offset": "q",
    "length": "q",
}


def _read_images(elements: Iterator[Element], path: str) -> dict[str, Any]:
    check = _Check(path, "image")
    rows = [
        (
            check.whole(image, "id"),
            check.text(image, "file_name").encode(),
            check.side(image, "height"),
            check.side(image, "width"),
        )
        for image, _, _ in map(check.next, elements)
    ]
    ids, names, heights, widths = zip(*rows, strict=True) if rows else ((),) * 4
    return {
        "image_ids": _unique(path, "image ids", np.array(ids, np.int64)),
        "file_names": np.array(names, np.bytes_),
        "heights": np.array(heights, np.int32),
        "widths": np.array(widths, np.int32),
    }


def _read_categories(elements: Iterator[Element], path: str) -> dict[str, Any]:
    check = _Check(path, "category")
    rows = [(check.whole(category, "id"), check.text(category, "name")) for category, _, _ in map(check.next, elements)]
    ids, names = zip(*rows, strict=True) if rows else ((),) * 2
    _unique(path, "category names", np.array(names, np.str_))
    return {"category_ids": _unique(path, "category ids", np.array(ids, np.int64)), "category_names": tuple(names)}


def _read_annotations(elements: Iterator[Element], path: str) -> dict[str, Any]:
    check = _Check(path, "annotation")
    # Arrays of the standard library grow in place and hold numbers, not Python objects.
    columns: dict[str, array.array[Any]] = {name: array.array(code) for name, code in _COLUMNS.items()}
    image, category, area, crowd, segmented, offset, length = (column.append for column in columns.values())
    for annotation, start, size in map(check.next, elements):
        image(check.whole(annotation, "image_id"))
        category(check.whole(annotation, "category_id"))
        area(check.area(annotation))
        crowd(check.crowd(annotation))
        segmented(check.segmented(annotation))
        check.value(annotation, "bbox")
        offset(start)
        length(size)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    return {**arrays, "crowd": arrays["crowd"].astype(bool), "segmented": arrays["segmented"].astype(bool)}


READERS: dict[str, Callable[[Iterator[Element], str], dict[str, Any]]] = {
    "images": _read_images,
    "categories": _read_categories,
    "annotations": _read_annotations,
}
"""The readers of the arrays of a file, by name: each takes the elements and the file's path, and raises `UserError`."""


class _Check:
    """The values of one kind of element, each as it has to be or a `UserError` that names the element."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.number = -1

    def next(self, element: Element) -> Element:
        self.number += 1
        if not isinstance(element.value, dict):
            raise self._wrong({}, f"is {_short(element.value)}", "an object")
        return element

    def value(self, element: dict[str, Any], key: str) -> Any:
        try:
            return element[key]
        except KeyError:
            other = next((what for other, what in _OTHERS.items() if other in element), "")
            received = f"has no {key!r}" + (f" and looks like one of COCO's {other}" if other else "")
            wanted = "the annotations of objects, as in instances_train2017.json" if other else "one"
            raise self._wrong(element, received, wanted) from None

    def whole(self, element: dict[str, Any], key: str) -> int:
        value = self.value(element, key)
        if type(value) is not int or abs(value) >= 2**63:
            raise self._wrong(element, f"has {key} {_short(value)}", "a whole number")
        return value

    def side(self, element: dict[str, Any], key: str) -> int:
        value = self.whole(element, key)
        if not 0 < value < 2**31:
            raise self._wrong(element, f"has {key} {value}", "pixels")
        return value

    def text(self, element: dict[str, Any], key: str) -> str:
        value = self.value(element, key)
        if not isinstance(value, str) or not value or not _encodable(value):
            raise self._wrong(element, f"has {key} {_short(value)}", "a text")
        return value

    def area(self, element: dict[str, Any]) -> float:
        value = self.value(element, "area")
        if type(value) not in (int, float) or not 0 <= value < math.inf:  # also not NaN
            raise self._wrong(element, f"has area {_short(value)}", "a number of pixels")
        return float(value)

    def crowd(self, element: dict[str, Any]) -> int:
        value = element.get("iscrowd", 0)
        if value not in (0, 1):
            raise self._wrong(element, f"has iscrowd {_short(value)}", "0 or 1")
        return int(value)

    def segmented(self, element: dict[str, Any]) -> bool:
        """Whether there is a segmentation that is not empty."""
        value = element.get("segmentation")
        if isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
            return any(value)
        if isinstance(value, dict) and isinstance(value.get("counts"), (list, str)):
            return bool(value["counts"])
        if value is None:
            return False
        raise self._wrong(
            element, f"has segmentation {_short(value)}", "a list of polygons [x, y, ...], or {'size', 'counts'}"
        )

    def _wrong(self, element: dict[str, Any], fault: str, expected: str) -> UserError:
        name = f" (id {element['id']})" if self.kind == "annotation" and "id" in element else ""
        return UserError(f"{self.path}: {self.kind} number {self.number}{name} {fault}; expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _encodable(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def _unique(path: str, what: str, values: np.ndarray) -> np.ndarray:
    if not len(values):
        raise UserError(f"{path} has no {what}: its list is empty; {EXPECTED}")
    different, counts = np.unique(values, return_counts=True)
    if len(different) < len(values):
        doubles = different[counts > 1].tolist()
        raise UserError(
            f"{path}: {len(doubles):,} {what} are there more than once, the first {doubles[0]!r}; expected each once"
        )
    return values
