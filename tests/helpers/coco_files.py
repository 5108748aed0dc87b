"""A small data set in COCO's format for the tests: images, polygons, crowds, and annotations that are odd but right."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from image_files import smooth_image
from pycocotools import mask as pycocomask

CATEGORIES = [
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "animal", "id": 17, "name": "cat"},  # not in the order of the ids
    {"supercategory": "furniture", "id": 67, "name": "dining table"},
]
SIZES = {42: (40, 60), 7: (50, 30), 123456789012: (24, 24), 9: (33, 47)}  # id -> height, width; none lies on 9


def polygon(left: float, top: float, width: float, height: float) -> list[float]:
    """A rectangle as COCO writes it."""
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def annotation(
    number: int, image: int, category: int, area: float, segmentation: Any, crowd: int = 0
) -> dict[str, Any]:
    return {
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
        "image_id": image,
        "bbox": [1.5, 2.0, 10.25, 9.0],
        "category_id": category,
        "id": number,
    }


def crowd_mask(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs, uint8 (H, W) in column order."""
    coarse = np.random.default_rng(seed).random((height // 6 + 1, width // 6 + 1)) < 0.4
    return np.asfortranarray(np.kron(coarse, np.ones((6, 6), np.uint8))[:height, :width])


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as a list."""
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths in COCO's compressed text, as pycocotools writes it."""
    rle = pycocomask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def coco_dict() -> dict[str, Any]:
    """The content of an annotation file, in the order of COCO's keys."""
    images = [
        {"file_name": f"{number:012}.jpg", "height": height, "width": width, "id": number}
        for number, (height, width) in SIZES.items()
    ]
    annotations = [
        annotation(1, 42, 18, 80.5, [polygon(20, 10, 9, 9)]),  # smaller than the table and before it in the file
        annotation(2, 42, 67, 1023.99, [polygon(5, 4, 40, 30)]),
        annotation(3, 7, 17, 1024, [polygon(2, 3, 12.5, 20.25), polygon(18, 30, 8, 8)]),
        annotation(4, 42, 17, 9216, compressed(crowd_mask(40, 60, 0)), crowd=1),
        annotation(5, 7, 18, 9215.5, uncompressed(crowd_mask(50, 30, 1)), crowd=1),
        annotation(6, 7, 18, 30, []),
        annotation(7, 123456789012, 17, 64, [polygon(15, 15, 30, 30), [3, 3, 9, 9]]),  # partly outside; and a line
        annotation(8, 123456789012, 17, 12, [polygon(17, 17, 4, 4)]),
        annotation(9, 123456789012, 18, 200, [polygon(16, 16, 9, 7)]),
    ]
    return {
        "info": {"description": 'a "test" }], [{', "year": 2017},
        "licenses": [{"id": 1, "url": "http://example.org"}],
        "images": images,
        "annotations": annotations,
        "categories": copy.deepcopy(CATEGORIES),
    }


def write_coco(root: Path, names: tuple[str, ...] = ("train2017", "val2017"), images: str = "") -> Path:
    """Write annotation files and images of each of `names`, the images in a folder of `images`."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(coco_dict()))
        folder = root / images / name
        folder.mkdir(parents=True)
        for number, (height, width) in SIZES.items():
            smooth_image(number % 1000, height, width).save(folder / f"{number:012}.jpg")
    return root
