"""What a data set looks like in figures: images a class, image sizes, mean and deviation of the colours.

Sizes come from the headers of the files, classes from the targets; the colours alone need images that are decoded.
"""

import dataclasses
from array import array
from collections.abc import Callable

import numpy as np
import torch

from anysize.data.augment.square import resize
from anysize.data.catalog import DATASETS, dataset_info
from anysize.data.check import open_splits
from anysize.data.kinds.base import TargetKind, create_kind
from anysize.data.pictures import BadImage
from anysize.data.preload import decode_all
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.data.spread import spread
from anysize.registry import UserError

IMAGES = 10_000
"""Images whose colours are measured: their mean is then within a thousandth or so of that of all."""

_TOLD = 100  # images between two words on how far it is
_NAMED = 3  # of the smallest and of the largest images

OnImage = Callable[[str, int, int], object]
"""Is told what is done, for how many images, and for how many of all."""


@dataclasses.dataclass(frozen=True, eq=False)
class SplitStatistics:
    """The contents of one split, of which `looked_at` images were looked at: `images`, or as many spread over it.

    Args:
        heights, widths: of each image in pixels, int64 (N,).
        counts: how many images have each class, int64 (classes,).
        pixels: how many pixels each class has, int64 (classes,); None where targets are no masks.
        classes_an_image: how many classes each image has, int64 (N,).
        smallest, largest: names of a few images, by their pixels, with height and width.
        bad: the images that cannot be used, with the reason.
    """

    split: str
    images: int
    looked_at: int
    heights: np.ndarray
    widths: np.ndarray
    counts: np.ndarray
    pixels: np.ndarray | None
    classes_an_image: np.ndarray
    smallest: list[tuple[str, int, int]]
    largest: list[tuple[str, int, int]]
    bad: dict[str, str]

    @property
    def ratios(self) -> np.ndarray:
        """Width over height of each image, float64 (N,)."""
        return np.asarray(self.widths / self.heights)


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of each channel, of values in [0, 1], over the pixels of so many `images`.

    Each image counts alike; those with a shorter side above `size` pixels are scaled down to it, as fewer pixels spread
    less.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """The figures of a data set; `usual_mean` and `usual_std` are what a training takes where it is told nothing."""

    classes: tuple[str, ...]
    one_class: bool
    splits: list[SplitStatistics]
    channels: ChannelStatistics
    usual_mean: tuple[float, ...]
    usual_std: tuple[float, ...]


def dataset_statistics(
    settings: DataSettings,
    targets: str = "",
    *,
    size: int = 0,
    images: int = IMAGES,
    most: int = 0,
    on_image: OnImage = lambda doing, done, total: None,
) -> DatasetStatistics:
    """Count and measure the images of all splits, and the colours of training images.

    Args:
        settings: of the data set.
        targets: their kind, by default the first that the data set offers.
        size: pixels of the shorter side at which colours are measured; 0: the base size that is usual for the data.
        images: training images whose colours are measured, spread evenly; 0: all.
        most: images of a split that are looked at, spread evenly; 0: all.
        on_image: is told from time to time how far it is.

    Raises:
        UserError: the data set cannot be opened, has no such targets, or no training image can be decoded.

    >>> found = dataset_statistics(DataSettings(), images=1000)
    >>> found.splits[0].images, int(found.splits[0].counts[0]), [round(value, 2) for value in found.channels.mean]
    (10000, 1000, [0.29])
    """
    targets = targets or DATASETS[settings.name]().offered(settings)[0]
    sources, kind, info = open_splits(settings, targets), create_kind(targets), dataset_info(settings, targets)
    splits = [split_statistics(source, split, kind, most=most, on_image=on_image) for split, source in sources.items()]
    channels = channel_statistics(sources["train"], size or info.image_size, images=images, on_image=on_image)
    usual = (settings.mean or info.mean, settings.std or info.std)
    return DatasetStatistics(sources["train"].classes, kind.one_class, splits, channels, *usual)


def split_statistics(
    source: Source,
    split: str,
    kind: TargetKind,
    *,
    most: int = 0,
    on_image: OnImage = lambda doing, done, total: None,
) -> SplitStatistics:
    """Look at the headers and targets of a split, or of `most` of its images, spread evenly.

    Classes that are known without a file are counted in all images.
    """
    chosen = spread(len(source), most)
    classes, masks = len(source.classes), False
    shapes, indices, an_image = array("q"), array("q"), array("q")
    counts, amounts, bad = np.zeros(classes, np.int64), np.zeros(classes), dict[str, str]()

    def look(position: int) -> tuple[tuple[int, int], np.ndarray, bool]:
        index = int(chosen[position])
        shape = source.shape(index)
        target = source.target(index, shape).numpy()
        return shape, kind.amounts(target, classes), kind.mask_of(target) is not None

    for position, found in decode_all(len(chosen), look):
        if isinstance(found, BadImage):
            bad[source.describe(int(chosen[position]))] = str(found)
        else:
            shape, has, masks = found
            shapes.extend(shape)
            indices.append(int(chosen[position]))
            an_image.append(int(np.count_nonzero(has)))
            counts += has > 0
            amounts += has
        if (done := position + 1) % _TOLD == 0 or done == len(chosen):
            on_image(f"{split}: looked at", done, len(chosen))
    if len(chosen) < len(source) and isinstance(source.targets, np.ndarray) and not masks:
        counts = np.zeros(classes, np.int64)
        for target in source.targets:
            counts += kind.amounts(np.asarray(target), classes) > 0
    heights, widths = np.array(shapes, dtype=np.int64).reshape(-1, 2).T
    order = np.argsort(heights * widths, kind="stable")

    def named(positions: np.ndarray) -> list[tuple[str, int, int]]:
        return [(source.describe(indices[i]), int(heights[i]), int(widths[i])) for i in positions.tolist()]

    return SplitStatistics(
        split,
        len(source),
        len(chosen),
        heights,
        widths,
        counts,
        amounts.astype(np.int64) if masks else None,
        np.array(an_image, dtype=np.int64),
        named(order[:_NAMED]),
        named(order[::-1][:_NAMED]),
        {**source.bad_files, **bad},
    )


def channel_statistics(
    source: Source,
    size: int,
    *,
    images: int = IMAGES,
    on_image: OnImage = lambda doing, done, total: None,
) -> ChannelStatistics:
    """Mean and deviation of the colours of so many `images` of a source, spread evenly (0: all), at `size` pixels.

    Raises:
        UserError: no image can be decoded.
    """
    chosen = spread(len(source), images)

    def look(position: int) -> tuple[np.ndarray, np.ndarray]:
        image, _ = source.image_for(int(chosen[position]), lambda height, width: min(1.0, size / min(height, width)))
        if min(image.shape[1:]) > size:
            image = resize(image, size)
        values = image.to(torch.float64).flatten(1) / 255
        return values.mean(1).numpy(), values.square().mean(1).numpy()

    firsts, seconds = [], []
    for position, found in decode_all(
        len(chosen), look, lambda positions: source.ahead(chosen[positions.start : positions.stop].tolist())
    ):
        if not isinstance(found, BadImage):
            firsts.append(found[0])
            seconds.append(found[1])
        if (done := position + 1) % _TOLD == 0 or done == len(chosen):
            on_image("measured the colours of", done, len(chosen))
    if not firsts:
        raise UserError("no training image can be decoded: `anysize data check` says why")
    mean = np.mean(firsts, axis=0)
    std = np.sqrt(np.maximum(np.mean(seconds, axis=0) - mean**2, 0))
    return ChannelStatistics(tuple(mean.tolist()), tuple(std.tolist()), len(firsts), size)
