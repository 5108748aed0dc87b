"""PASCAL VOC's layout for segmentation: `VOCdevkit/VOC2012` with images, masks of classes and objects, and lists.

Format: VOC 2012 development kit, section 5 (segmentation); http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anysize.data.dataset import Split
from anysize.data.palette import palette_image
from anysize.data.scenes.compose import Scene

_LISTS: dict[Split, str] = {"train": "train", "validation": "val"}
_QUALITY = 95  # of the JPEGs


def write_voc(folder: Path, split: Split, scenes: Iterable[Scene], classes: Sequence[str]) -> None:
    """Write one split: JPEG images, and masks as PNGs with VOC's palette; no pixel is void (255).

    `classes.txt` has the names of the classes, a line each in the order of their numbers, `background` first: VOC
    itself has no such file, its names are fixed.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for path in (lists, root / "JPEGImages", root / "SegmentationClass", root / "SegmentationObject"):
        path.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", encoding="utf-8")
    names = []
    for number, (pixels, objects) in enumerate(scenes, start=1):
        names.append(f"{split}_{number:06}")
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{names[-1]}.jpg", quality=_QUALITY, subsampling=0)
        of_class, of_object = np.zeros((2, *pixels.shape[:2]), np.uint8)
        for place, each in enumerate(objects, start=1):
            of_class[each.mask], of_object[each.mask] = 1 + each.label, place
        for mask, kind in ((of_class, "SegmentationClass"), (of_object, "SegmentationObject")):
            palette_image(mask).save(root / kind / f"{names[-1]}.png")
    lines = "".join(f"{name}\n" for name in names)
    (lists / f"{_LISTS[split]}.txt").write_text(lines, encoding="utf-8")
    with (lists / "trainval.txt").open("a", encoding="utf-8") as file:
        file.write(lines)
