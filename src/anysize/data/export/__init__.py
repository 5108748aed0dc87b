"""Data sets written in the formats of others: `anysize data export NAME --format coco|voc DIR`.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     written = export_dataset("scenes", "voc", f"{folder}/scenes", images=2)
...     (written / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").read_text().split()
['validation_000001', 'validation_000002']
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from anysize.data.catalog import DATASETS
from anysize.data.dataset import Split
from anysize.data.export.coco_writer import write_coco
from anysize.data.export.voc_writer import write_voc
from anysize.data.new_folder import new_folder
from anysize.data.scenes.compose import Scene, compose
from anysize.data.sets.fashion_mnist import CLASSES
from anysize.data.sets.scenes import COUNTS
from anysize.registry import UserError

Format = Literal["coco", "voc"]


def export_dataset(
    name: str,
    format: Format,
    folder: str | os.PathLike[str],
    *,
    images: int = 0,
    polygons: bool = False,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write both splits of a data set into a new folder; it appears when all is written.

    Args:
        name: data set; `scenes` is the one that can be exported.
        format: coco: `annotations/instances_{train,val}2017.json` and PNG images, lossless. voc:
            `VOCdevkit/VOC2012` with JPEG images of quality 95, whose pixels differ a little, and palette PNG masks.
        folder: it must not be there yet.
        images: write the first so many of each split; 0: all.
        polygons: coco: outline objects without holes by polygons; otherwise all have run lengths, which are exact.
        on_image: called with the number of images that were written, and of all.

    Raises:
        UserError: a data set that cannot be exported, a folder that is there already or cannot be written, or a
            setting that does not apply.
    """
    folder = Path(folder).expanduser().absolute()
    _check(name, format, images, polygons)
    counts = {split: min(images, count) if images else count for split, count in COUNTS.items()}
    total, done = sum(counts.values()), itertools.count(1)

    def scenes(split: Split) -> Iterator[Scene]:
        for index in range(counts[split]):
            yield compose(split, index)
            on_image(next(done), total)

    with new_folder(folder) as beside:
        for split in counts:
            if format == "coco":
                write_coco(beside, split, scenes(split), CLASSES, polygons=polygons)
            else:
                write_voc(beside, split, scenes(split), CLASSES)
    return folder


def _check(name: str, format: Format, images: int, polygons: bool) -> None:
    DATASETS[name]  # an unknown name is answered with the nearest
    if name != "scenes":
        raise UserError(f"data set {name!r} cannot be exported; `scenes` is the one that can")
    if format not in get_args(Format):
        raise UserError(f"the format is {format!r}; expected {' or '.join(get_args(Format))}")
    if images < 0:
        raise UserError(f"--images is {images}; expected how many images of each split to write, or 0 for all")
    if polygons and format != "coco":
        raise UserError(f"--polygons is for the format coco; {format} has masks: leave it out")
