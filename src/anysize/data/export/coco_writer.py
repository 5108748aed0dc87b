"""COCO's layout: `annotations/instances_{train,val}2017.json`, `train2017` and `val2017` with images.

Format: https://cocodataset.org/#format-data, "Object Detection".
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anysize.data.dataset import Split
from anysize.data.scenes.compose import Scene, SceneObject

_NAMES: dict[Split, str] = {"train": "train2017", "validation": "val2017"}
_LICENCE = {"id": 1, "name": "MIT", "url": "https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE"}

Mask = npt.NDArray[np.bool_]


def write_coco(
    folder: Path, split: Split, scenes: Iterable[Scene], classes: Sequence[str], *, polygons: bool = False
) -> None:
    """Write one split: images as PNG, so that they are read back as they are, and their annotations.

    Ids count from 1: images and annotations in their order, categories in that of `classes`.
    """
    name = _NAMES[split]
    (folder / name).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, objects) in enumerate(scenes, start=1):
        file = f"{number:012}.png"
        Image.fromarray(pixels).save(folder / name / file)
        height, width = pixels.shape[:2]
        images.append({"id": number, "file_name": file, "height": height, "width": width, "license": 1})
        for each in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(each, polygons)})
    content = {
        "info": {"description": f"Scenes composed of Fashion-MNIST's garments by anysize, {split}", "version": "1.0"},
        "licenses": [_LICENCE],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": each, "supercategory": "garment"} for number, each in enumerate(classes, start=1)
        ],
    }
    path = folder / "annotations" / f"instances_{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _annotation(each: SceneObject, polygons: bool) -> dict[str, Any]:
    outlines = outline(each.mask) if polygons else None
    return {
        "category_id": each.label + 1,
        "segmentation": run_lengths(each.mask) if outlines is None else outlines,
        "area": each.area,
        "bbox": list(each.bbox),
        "iscrowd": 0,
    }


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: of 0 and of 1 in turn, column by column, the first of 0.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    {'counts': [1, 3], 'size': [2, 2]}
    """
    values = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(values[1:] != values[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def outline(mask: Mask) -> list[list[int]] | None:
    """Polygons along the edges of the pixels, [x, y, x, y, ...], one for each piece; None where there is a hole.

    Pixels that touch at a corner alone are pieces of their own.

    >>> outline(np.array([[True, True, False], [True, False, False]]))
    [[0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 0, 2]]
    """
    # Edges of the pixels, (y, x, direction) from one corner to the next: right along the top of a pixel, down its right
    # side, left along its bottom, up its left side, so that the object lies at the right hand.
    padded = np.pad(mask, 1)
    beyond = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    edges = {
        (y + (direction in (2, 3)), x + (direction in (1, 2)), direction)
        for direction in range(4)
        for y, x in np.argwhere(mask & ~beyond[direction]).tolist()
    }
    polygons = []
    while edges:
        first = y, x, direction = min(edges)  # at the topmost corner that is left, the leftmost of these
        if direction != 0:
            return None  # an outline begins to the right; what begins downwards goes round a hole
        corners: list[int] = []
        walked: set[tuple[int, int, int]] = set()
        while not walked or (y, x, direction) != first:
            walked.add((y, x, direction))
            y, x = y + (0, 1, 0, -1)[direction], x + (1, 0, -1, 0)[direction]
            # Where two pixels touch at a corner, turning right stays with the same one.
            turned = next(turn for turn in (1, 0, 3) if (y, x, (direction + turn) % 4) in edges)
            direction = (direction + turned) % 4
            if turned:
                corners += [x, y]
        edges -= walked
        polygons.append(corners[-2:] + corners[:-2])
    return polygons
