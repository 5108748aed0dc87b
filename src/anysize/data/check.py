"""Look at every image of a data set: how many a class, how large, which are damaged."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import get_args

import numpy as np

from anysize.data.catalog import DATASETS, load_dataset
from anysize.data.dataset import MissingSplit, Split
from anysize.data.decode import decode_with_orientation
from anysize.data.doubts import Doubts
from anysize.data.kinds.base import create_kind
from anysize.data.left_out import LeftOut
from anysize.data.pictures import BadImage, TooLarge
from anysize.data.preload import decode_all
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource, Source
from anysize.registry import UserError


@dataclasses.dataclass(frozen=True)
class SplitCheck:
    """The contents of one split.

    `images` is the number of undamaged images, `counts` says how many of them have each class. `heights` and `widths`
    are (smallest, median, largest) in pixels; `damaged` names each file that cannot be used, with the reason, and
    `too_large` each of more pixels than `data.max_pixels`, which was not decoded. `turned` images carry an EXIF
    rotation or reflection; `left_out` is what lies beside the images; `doubts` says from what nothing can be learnt.
    """

    split: str
    images: int
    counts: dict[str, int]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    damaged: dict[str, str]
    too_large: dict[str, str]
    turned: int
    left_out: LeftOut
    doubts: Doubts


def check_dataset(settings: DataSettings, targets: str = "") -> list[SplitCheck]:
    """Decode every image of all splits; damaged ones are listed, whatever `settings.on_bad_image` says.

    Targets that lie in files, such as masks, are read, too, and compared with their images. `targets` is their kind, by
    default the first that the data set offers. Raises a `UserError` where the data set cannot be opened at all, or has
    no such targets.

    >>> check_dataset(DataSettings(limit=100))[1].counts["Sandal"]
    10
    """
    dataset = DATASETS[settings.name]()
    targets = targets or dataset.offered(settings)[0]
    changed = dataset.checksums(settings)
    if changed:  # what else is wrong is listed, too
        settings = dataclasses.replace(settings, on_bad_image="skip")
    sources = [load_dataset(settings, split, targets, preload=False) for split in ("train", "validation")]
    with contextlib.suppress(MissingSplit):
        test = load_dataset(settings, "test", targets, preload=False)
        sources += [test] if not len(test) or test.describe(0) != sources[1].describe(0) else []
    checked = [_check_split(source, split, targets) for split, source in zip(get_args(Split), sources, strict=False)]
    checked[0] = dataclasses.replace(checked[0], damaged={**changed, **checked[0].damaged})
    return checked


def other_doubts(settings: DataSettings, targets: str = "") -> dict[str, Doubts]:
    """Doubts about the training targets of the kinds that `check_dataset` does not look at, by kind.

    A data set may offer labels and masks, and its labels tell nothing of its masks. Kinds that this data lacks are left
    out: it may be meant for the others alone.

    >>> other_doubts(DataSettings())
    {}
    """
    found = {}
    for kind in () if targets else DATASETS[settings.name]().offered(settings)[1:]:
        with contextlib.suppress(UserError):
            source = load_dataset(settings, "train", kind, preload=False)
            found[kind] = create_kind(kind).first_doubts(source)
    return found


def _check_split(source: Source, split: Split, targets: str) -> SplitCheck:
    kind = create_kind(targets)
    damaged, too_large = dict(source.bad_files), dict[str, str]()
    shapes: list[tuple[int, ...]] = []  # of the undamaged images
    counts = np.zeros(len(source.classes), dtype=np.int64)
    turned = 0
    for index, shape, orientation in _image_shapes(source):
        turned += orientation != 1
        try:
            if isinstance(shape, BadImage):
                raise shape
            counts += kind.classes_in(source.target(index, shape).numpy(), len(source.classes))
            shapes.append(shape)
        except BadImage as error:
            (too_large if isinstance(error, TooLarge) else damaged)[source.describe(index)] = str(error)
    heights, widths = np.array(shapes, dtype=np.int64).reshape(-1, 2).T
    by_class = dict(zip(source.classes, counts.tolist(), strict=True))
    doubts = kind.doubts(source, counts, len(shapes)) if shapes else Doubts()
    spreads, left_out = (_spread(heights), _spread(widths)), source.left_out
    return SplitCheck(split, len(shapes), by_class, *spreads, damaged, too_large, turned, left_out, doubts)


def _image_shapes(source: Source) -> Iterator[tuple[int, tuple[int, ...] | BadImage, int]]:
    """Height and width of each image, or why it cannot be decoded; and its EXIF orientation."""
    if not isinstance(source, FileSource):
        yield from ((index, source.image(index).shape[1:], 1) for index in range(len(source)))
        return
    files = source

    def look(index: int) -> tuple[tuple[int, ...], int]:
        pixels, orientation = decode_with_orientation(files.data(index), files.max_pixels)
        height, width = pixels.shape[:2]
        return ((width, height) if files.exif and orientation >= 5 else (height, width)), orientation

    for index, found in decode_all(len(source), look, files.ahead):
        yield (index, found, 1) if isinstance(found, BadImage) else (index, *found)


def _spread(sides: np.ndarray) -> tuple[int, int, int]:
    if not len(sides):
        return 0, 0, 0
    return int(sides.min()), int(np.median(sides)), int(sides.max())
