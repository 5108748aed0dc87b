"""The index of a COCO annotation file: what is in it, as arrays, and where each annotation's JSON lies.

`instances_train2017.json` has 860,001 annotations in 450 MB. As Python objects they take gigabytes, which every worker
process would copy page by page. The index takes some 36 bytes an annotation; its polygons are read again from the file
when a mask is painted. `cache` keeps the index beside the file.

Format: https://cocodataset.org/#format-data, "Object Detection".
"""

import contextlib
import dataclasses
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.dataset import MissingSplit
from anysize.data.formats.coco.elements import EXPECTED, READERS, unique
from anysize.data.formats.coco.json_stream import read_members
from anysize.registry import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CocoIndex:
    """N images, K categories and A annotations of the file `path`, each in the file's order.

    `size` (bytes) and `modified` (nanoseconds) are the file's when it was read. `file_names` are bytes in UTF-8.
    `image` (A,) and `category` (A,) are numbers of rows among the images and categories. `segmented` tells which
    annotations have a segmentation that is not empty. Their JSON is `length` bytes from byte `offset`.
    """

    path: str
    size: int
    modified: int
    image_ids: np.ndarray  # int64 (N,)
    file_names: np.ndarray  # bytes (N,)
    heights: np.ndarray  # int32 (N,), pixels
    widths: np.ndarray
    category_ids: np.ndarray  # int64 (K,)
    category_names: tuple[str, ...]
    category_parents: tuple[str, ...]  # the supercategory of each; empty where none is named
    image: np.ndarray  # int32 (A,)
    category: np.ndarray  # int32 (A,)
    area: np.ndarray  # float64 (A,), pixels; estimated where the file does not state it
    sized: np.ndarray  # bool (A,), whether it does
    crowd: np.ndarray  # bool (A,)
    segmented: np.ndarray  # bool (A,)
    offset: np.ndarray  # int64 (A,)
    length: np.ndarray  # int64 (A,)

    def roots(self) -> np.ndarray:
        """The categories that own no annotation and are the supercategory of others, such as Roboflow's: bool (K,)."""
        children = Counter(self.category_parents)
        for name, parent in zip(self.category_names, self.category_parents, strict=True):
            children[name] -= name == parent
        owns_none = ~np.isin(np.arange(len(self.category_names)), self.category)
        roots: np.ndarray = owns_none & np.array([children[name] > 0 for name in self.category_names])
        return roots


def index_coco(path: str | os.PathLike[str]) -> CocoIndex:
    """Read an annotation file through, an annotation at a time.

    Raises a `UserError` for a file that cannot be read, is cut off, is not JSON or of another format, names an unknown
    image or category, or has values of wrong kinds.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     box = {"id": 5, "image_id": 9, "category_id": 18, "area": 80.5, "bbox": [1, 2, 10, 9], "segmentation": []}
    ...     images = [{"id": 9, "file_name": "9.jpg", "height": 20, "width": 30}]
    ...     json.dump({"images": images, "annotations": [box], "categories": [{"id": 18, "name": "dog"}]}, file)
    ...     file.flush()
    ...     index = index_coco(file.name)
    >>> index.category_names, index.image.tolist(), index.area.tolist(), index.segmented.tolist()
    (('dog',), [0], [80.5], [False])
    """
    path = os.path.abspath(path)
    size, modified = file_stamp(path)
    logger.info("reading %s (%d MB)", path, size / 1e6)
    found: dict[str, dict[str, Any]] = {}
    others = []
    with contextlib.closing(read_members(path)) as members:
        for name, elements in members:
            if name not in READERS:
                others.append(name[:40])
                continue
            if elements is None or name in found:
                fault = "no list" if elements is None else "there twice"
                raise UserError(f"{path}: its {name!r} are {fault}; {EXPECTED}")
            found[name] = READERS[name](elements, path)
    for name in READERS:
        if name not in found:
            there = ", ".join([*found, *others][:8]) or "nothing"
            raise UserError(f"{path} has no {name!r}, but {there}; {EXPECTED}")
    images, categories, annotations = (found[name] for name in READERS)
    index = CocoIndex(
        path=path,
        size=size,
        modified=modified,
        **images,
        **categories,
        image=_rows(path, "image", annotations.pop("image_id"), images["image_ids"]),
        category=_rows(path, "category", annotations.pop("category_id"), categories["category_ids"]),
        **annotations,
    )
    names = np.array(index.category_names, np.str_)
    unique(path, "category names", names[~index.roots()] if index.roots().any() else names)
    return index


def file_stamp(path: str) -> tuple[int, int]:
    """Size (bytes) and time of modification (nanoseconds) of a file; the error names those that are there."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _missing(Path(path)) from error
    return status.st_size, status.st_mtime_ns


def _missing(path: Path) -> MissingSplit:
    there = sorted(entry.name for entry in path.parent.glob("*.json")) if path.parent.is_dir() else []
    if not there:
        return MissingSplit(
            f"{path} is not there, nor any other JSON file in its folder; put COCO's annotation files there"
        )
    shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
    return MissingSplit(
        f"{path} is not there; the JSON files in its folder are {shown}: add it, rename the one that is meant, or "
        "choose another year with data.image_set"
    )


def _rows(path: str, kind: str, wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The row of each wanted id among the known ids: int32 (A,)."""
    order = np.argsort(known)
    rows = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    unknown = np.flatnonzero(known[rows] != wanted)
    if len(unknown):
        first = int(unknown[0])
        raise UserError(
            f"{path}: {len(unknown):,} of {len(wanted):,} annotations are of an unknown {kind}, the first of them "
            f"number {first} with {kind}_id {wanted[first]}, which is not among the {len(known):,} in the file; "
            "add what is missing, or remove these annotations"
        )
    return rows.astype(np.int32)
