"""Look at every image of a data set: how many a class, how large, which are damaged."""

import dataclasses
from typing import get_args

import numpy as np

from anysize.data.dataset import DATASETS, Split
from anysize.data.memory import decode_all
from anysize.data.settings import DataSettings
from anysize.data.source import BadImage, FileSource, first_of_each_class


@dataclasses.dataclass(frozen=True)
class SplitCheck:
    """What one split holds.

    `counts` are the undamaged images of each class; `heights` and `widths` are (smallest, median, largest) in pixels;
    `damaged` names each file that cannot be decoded, with the decoder's message.
    """

    split: str
    counts: dict[str, int]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    damaged: dict[str, str]

    @property
    def images(self) -> int:
        """Undamaged images."""
        return sum(self.counts.values())


def check_dataset(settings: DataSettings) -> list[SplitCheck]:
    """Decode every image of both splits; damaged ones are listed, whatever `settings.on_bad_image` says.

    Raises:
        UserError: the data set cannot be opened at all.

    >>> check_dataset(DataSettings(limit=100))[1].counts["Sandal"]
    10
    """
    return [_check_split(settings, split) for split in get_args(Split)]


def _check_split(settings: DataSettings, split: Split) -> SplitCheck:
    source = DATASETS[settings.name]().load(settings, split)
    if settings.limit:
        source = source.subset(first_of_each_class(source.targets, settings.limit))
    damaged: dict[str, str] = {}
    good = np.ones(len(source), dtype=bool)
    if isinstance(source, FileSource):
        shapes = np.zeros((len(source), 2), dtype=np.int64)
        for index, pixels in decode_all(source):
            if isinstance(pixels, BadImage):
                damaged[source.describe(index)] = str(pixels)
                good[index] = False
            else:
                shapes[index] = pixels.shape[:2]
    else:
        shapes = np.tile(source.image(0).shape[1:], (len(source), 1))
    counts = np.bincount(source.targets[good], minlength=len(source.classes))
    return SplitCheck(
        split,
        dict(zip(source.classes, counts.tolist(), strict=True)),
        _spread(shapes[good, 0]),
        _spread(shapes[good, 1]),
        damaged,
    )


def _spread(sides: np.ndarray) -> tuple[int, int, int]:
    if not len(sides):
        return 0, 0, 0
    return int(sides.min()), int(np.median(sides)), int(sides.max())
