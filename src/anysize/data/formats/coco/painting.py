"""Masks painted from COCO's segmentations: polygons and run lengths, read again from the annotation file.

pycocotools (the extra `coco`) turns polygons into pixels, so that a mask has the pixels that COCO's own tools give.
It is given only polygons that it can take: others make it crash.
"""

import contextlib
import copy
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anysize.data.formats.coco.elements import is_segmentation
from anysize.data.formats.coco.index import CocoIndex, file_stamp
from anysize.data.formats.coco.run_lengths import expand_counts
from anysize.data.formats.mask_files import check_shape
from anysize.data.pictures import BadImage
from anysize.data.source import VOID
from anysize.files import open_regular
from anysize.registry import UserError, counted, shown

try:
    from pycocotools import mask as pycocomask
except ImportError:  # the extra `coco`
    pycocomask = None

# pycocotools takes memory for each pixel along a polygon, in the image or not: some 100 bytes.
_FAR = 10  # sides of the image
_LONGEST = 2_000_000  # pixels along the polygons of an object


class CocoMasks:
    """The masks of the images of a COCO file, painted when they are read: targets of a `FileSource`.

    Larger objects are painted first, so that smaller ones lie on top; crowds are void where nothing else is painted;
    empty segmentations are passed over. A mask has the height and width that the file says of its image.

    Holds arrays alone: the annotation file is opened for each mask, so that worker processes share nothing.

    Args:
        index: of the annotation file.
        numbers: uint8 (K,), the class number of each category of the file; objects of number 0 are not painted.
        images: which images (rows of the index), in this order; by default all.

    Raises a `UserError` where pycocotools is not installed.
    """

    def __init__(self, index: CocoIndex, numbers: np.ndarray, images: np.ndarray | None = None) -> None:
        if pycocomask is None:
            raise UserError(
                "masks from COCO's segmentations need pycocotools, which is not installed: pip install 'anysize[coco]'"
            )
        self._path = index.path
        self._stamp = (index.size, index.modified)
        self._heights, self._widths = index.heights, index.widths
        painted = np.flatnonzero(index.segmented & (numbers[index.category] > 0))
        crowd = index.crowd[painted]
        order = np.lexsort((-index.area[painted], ~crowd, index.image[painted]))  # by image; crowds first; then by area
        chosen = painted[order]
        self._starts = np.searchsorted(index.image[chosen], np.arange(len(index.image_ids) + 1))
        self._offsets, self._lengths = index.offset[chosen], index.length[chosen]
        self._values = np.where(index.crowd[chosen], VOID, numbers[index.category[chosen]]).astype(np.uint8)
        self._images = np.arange(len(index.image_ids)) if images is None else images

    def __len__(self) -> int:
        return len(self._images)

    def files(self) -> list[str]:
        return [self._path]

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Class numbers, uint8 `shape`.

        Raises `BadImage` where a segmentation does not fit the image, or the image has another size than the file says,
        and a `UserError` where the annotation file is gone or was changed since it was indexed.
        """
        image = self._images[index]
        height, width = int(self._heights[image]), int(self._widths[image])
        places = slice(self._starts[image], self._starts[image + 1])
        offsets, lengths, values = (each[places].tolist() for each in (self._offsets, self._lengths, self._values))
        if file_stamp(self._path) != self._stamp:
            raise UserError(f"{self._path} was changed while it was in use; start again")
        check_shape((height, width), shape, self._path)  # or a file could ask for any memory
        with open_regular(self._path) as file:

            def counts_at(offset: int, length: int) -> list[int]:
                annotation = _annotation(os.pread(file.fileno(), length, offset))
                try:
                    return segmentation_counts(annotation.get("segmentation"), height, width)
                except ValueError as error:
                    name = shown(annotation["id"], 60) if "id" in annotation else f"at byte {offset}"
                    raise BadImage(f"annotation {name} in {self._path} {error}") from error

            objects = zip(offsets, lengths, values, strict=True)
            return paint(((counts_at(offset, length), value) for offset, length, value in objects), height, width)

    def cause(self) -> str:
        """What may be wrong where the masks have nothing to learn from."""
        if not len(self._values):
            return f"{self._path} has no annotation with a segmentation for them"
        crowds = int((self._values == VOID).sum())
        return (
            f"{self._path} has {counted(len(self._values), 'segmentation')} for them, {crowds:,} of crowds, which are "
            f"void, and {len(self._values) - crowds:,} without pixels: a polygon has at least three corners"
        )

    def __getitem__(self, indices: np.ndarray) -> "CocoMasks":
        """The masks of the images `indices`, in that order; the annotations are shared."""
        subset = copy.copy(self)
        subset._images = self._images[indices]
        return subset


def paint(objects: Iterable[tuple[Sequence[int], int]], height: int, width: int) -> np.ndarray:
    """Paint objects, given as run lengths and a value, one after the other on background: uint8 (H, W).

    >>> paint([([2, 4, 2], 7)], 2, 4)
    array([[0, 7, 7, 0],
           [0, 7, 7, 0]], dtype=uint8)
    """
    pixels = np.zeros(height * width, np.uint8)
    for counts, value in objects:
        ends = np.cumsum(counts).tolist()
        for start, end in zip(ends[0::2], ends[1::2], strict=False):
            pixels[start:end] = value
    return np.ascontiguousarray(pixels.reshape(width, height).T)  # run lengths go down the columns


def segmentation_counts(segmentation: Any, height: int, width: int) -> list[int]:
    """Count the pixels that lie outside and inside of a segmentation in turn, column by column; [] if none lies inside.

    Raises a `ValueError` where it is malformed, or does not fit an image of `height` x `width` pixels.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...] in pixels, or {"size": [H, W], "counts": ...} with the lengths
            as a list or in COCO's compressed text.

    >>> segmentation_counts([[1, 0, 3, 0, 3, 2, 1, 2]], 2, 4)
    [2, 4, 2]
    """
    if not segmentation or not is_segmentation(segmentation):
        raise ValueError(f"has the segmentation {shown(segmentation, 60)}; expected polygons or run lengths")
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"has run lengths of size {shown(size, 60)}; expected [{height}, {width}], the image's")
        if isinstance(counts, str):
            counts = expand_counts(counts)
        if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("has counts that are no run lengths; expected whole numbers")
        if sum(counts) != height * width:
            raise ValueError(f"has run lengths of {shown(sum(counts), 60)} pixels in all; expected {height * width}")
        return counts
    polygons = [_polygon(polygon, height, width) for polygon in segmentation]
    closed = [polygon for polygon in polygons if len(polygon) >= 6]  # points and lines have no pixels
    if not closed:
        return []
    if (length := sum(map(_outline, closed))) > _LONGEST:
        raise ValueError(f"has an outline of {length:,.0f} pixels; expected at most {_LONGEST:,}")
    return expand_counts(pycocomask.merge(pycocomask.frPyObjects(closed, height, width))["counts"].decode())


def _annotation(written: bytes) -> dict[str, Any]:
    """An annotation as it was indexed; empty where the index, which may be another's, is wrong about its place."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(annotation := json.loads(written), dict):
            return annotation
    return {}


def _outline(polygon: Sequence[float]) -> float:
    """How many pixels lie along a polygon."""
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _polygon(polygon: Sequence[Any], height: int, width: int) -> Sequence[float]:
    if len(polygon) % 2:
        raise ValueError(f"has a polygon of {len(polygon)} numbers; expected x and y of each corner")
    far = _FAR * max(height, width)
    for value in polygon:
        if type(value) not in (int, float) or not abs(value) <= far:  # also not NaN
            raise ValueError(
                f"has {shown(value, 60)} in a polygon; expected numbers in or near its {height} x {width} pixels"
            )
    return polygon
