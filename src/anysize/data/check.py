"""Look at every image of a data set: how many a class, how large, which are damaged."""

import dataclasses
from typing import get_args

import numpy as np

from anysize.data.catalog import DATASETS, dataset_for
from anysize.data.dataset import Split, Targets
from anysize.data.decode import BadImage
from anysize.data.preload import decode_all
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource, Source, check_sizes, first_of_each_class


@dataclasses.dataclass(frozen=True)
class SplitCheck:
    """What one split holds.

    `counts` are the undamaged images of each class, or with the class where an image may have several; `images` are
    all of them. `heights` and `widths` are (smallest, median, largest) in pixels; `damaged` names each file that cannot
    be used, with the reason.
    """

    split: str
    images: int
    counts: dict[str, int]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    damaged: dict[str, str]


def check_dataset(settings: DataSettings, targets: Targets | None = None) -> list[SplitCheck]:
    """Decode every image of both splits; damaged ones are listed, whatever `settings.on_bad_image` says.

    With `targets` "masks" each mask is read, too, and compared with its image. None: the first kind of targets that the
    data set offers.

    Raises:
        UserError: the data set cannot be opened at all, or has no such targets.

    >>> check_dataset(DataSettings(limit=100))[1].counts["Sandal"]
    10
    """
    dataset = DATASETS[settings.name]()
    return [_check_split(settings, split, targets or dataset.offers[0]) for split in get_args(Split)]


def _check_split(settings: DataSettings, split: Split, targets: Targets) -> SplitCheck:
    source: Source = dataset_for(settings, targets).open(settings, split, targets)
    if settings.limit:
        source = source.subset(first_of_each_class(source.targets, settings.limit))
    damaged = dict(source.bad_files)
    shapes = np.zeros((len(source), 2), dtype=np.int64)
    good = np.ones(len(source), dtype=bool)
    present = np.zeros((len(source), len(source.classes)), dtype=bool)
    if isinstance(source, FileSource):
        for index, pixels in decode_all(source):
            if isinstance(pixels, BadImage):
                damaged[source.describe(index)] = str(pixels)
                good[index] = False
            else:
                shapes[index] = pixels.shape[:2]
    else:
        shapes[:] = source.image(0).shape[1:]
    for index in np.flatnonzero(good).tolist():
        try:
            present[index] = _classes_of(source, index, shapes[index])
        except BadImage as error:
            damaged[source.describe(index)] = str(error)
            good[index] = False
    counts = present[good].sum(axis=0)
    return SplitCheck(
        split,
        int(good.sum()),
        dict(zip(source.classes, counts.tolist(), strict=True)),
        _spread(shapes[good, 0]),
        _spread(shapes[good, 1]),
        damaged,
    )


def _classes_of(source: Source, index: int, shape: np.ndarray) -> np.ndarray:
    """Which classes an image of this height and width has (classes,). Raises `BadImage`."""
    if source.dense:
        mask = source.mask(index)
        check_sizes(source, index, tuple(shape.tolist()), tuple(mask.shape))
        numbers = np.unique(mask.numpy())
        present = np.isin(np.arange(len(source.classes)), numbers[numbers != VOID])
    elif source.targets.ndim == 1:
        present = np.arange(len(source.classes)) == source.targets[index]
    else:
        present = source.targets[index].any(axis=0)
    return np.asarray(present)


def _spread(sides: np.ndarray) -> tuple[int, int, int]:
    if not len(sides):
        return 0, 0, 0
    return int(sides.min()), int(np.median(sides)), int(sides.max())
