"""The part of a page that shows what the network sees: training images at each size, augmented and named."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from anysize.data.palette import legend_of, painted
from anysize.preprocessing import Preprocessing
from anysize.registry import counted
from anysize.reports.page import card, section
from anysize.reports.pictures import LEGEND, LIMIT, SEEN, STACK, STYLE, Captioned, Pictures
from anysize.sizes.shapes import Extent, extent_of, in_pixels

_LABELS = 6  # of an image that are named


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One copy of an image as the network gets it, in colours again.

    Args:
        image: uint8 (H, W, 3), with normalisation undone.
        amounts: what it shows: 1 by the name of a class, or its share where images are mixed.
        mask: the class of each pixel, uint8 (H, W), 255 for void; None: there is none.
    """

    image: np.ndarray
    amounts: dict[str, float]
    mask: np.ndarray | None = None

    def labels(self) -> str:
        """What it shows, in words; empty: nothing, or what a legend says.

        >>> View(np.zeros((1, 1, 3)), {"cat": 0.7, "dog": 0.3}).labels()
        'cat 70%, dog 30%'
        """
        if self.mask is not None:
            return ""
        order = sorted(self.amounts.items(), key=lambda item: -item[1])
        names = [name if share == 1 else f"{name} {100 * share:.0f}%" for name, share in order[:_LABELS]]
        return ", ".join(names + ["..."] * (len(order) > _LABELS)) or "no label"


@dataclasses.dataclass(frozen=True, eq=False)
class SizeSamples:
    """Samples of one size with the batch that they are from.

    Args:
        size: pixels, of images that are not square their height and width.
        copies, batch_size: of each sample in a batch, and samples in it.
        share: of the images of an epoch that have this size.
        epochs: the first and the last that have it, counted from 1.
        samples: the name of each, and its copies.
        low, high, mean, std: of the values that the network gets, over these samples.
    """

    size: Extent
    copies: int
    batch_size: int
    share: float
    epochs: tuple[int, int]
    samples: list[tuple[str, list[View]]]
    low: float
    high: float
    mean: float
    std: float


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSamples:
    """Samples of each size of a run, one image at all sizes, and how images become input.

    `sizes` is how many sizes there are, of which these are some; `mixed` says how samples are mixed, in words.
    """

    by_size: list[SizeSamples]
    one: list[tuple[Extent, View]]
    preprocessing: Preprocessing
    sizes: int
    mixed: str = ""


def samples_section(found: TrainingSamples, limit: int = LIMIT) -> Markup:
    """The samples of a run in pictures of at most `limit` bytes, of each size as many as it has room for."""
    classes = found.preprocessing.classes
    share = limit // (len(found.by_size) + 1)
    pictures = Pictures(share)
    one = _whole([[_figure(view, in_pixels(size), pictures, classes)] for size, view in found.one])
    parts = [card("one image at every size", SEEN(groups=one, large=False))] if len(one) > 1 else []
    parts += [_of_size(each, Pictures(share), classes) for each in found.by_size]
    shown = [view for each in found.by_size for _, views in each.samples for view in views]
    present = sorted({number for view in shown if view.mask is not None for number in np.unique(view.mask).tolist()})
    about = LEGEND(note=_how(found), legend=legend_of(classes, present) if present else {})
    return section("What the network sees", STYLE, about, STACK(parts=parts))


def _how(found: TrainingSamples) -> str:
    prepared = found.preprocessing
    mean, std = (", ".join(f"{value:.4g}" for value in each) for each in (prepared.mean, prepared.std))
    some = f" {len(found.by_size)} of {found.sizes} sizes are shown." if len(found.by_size) < found.sizes else ""
    return (
        "The first training images of each size, with the augmentation of their step, as they leave the loader. "
        f"Normalisation (mean {mean}, deviation {std}) is undone; pictures are drawn alike large, whatever their size. "
        f"Images are resized by {prepared.interpolation} interpolation.{f' {found.mixed}' if found.mixed else ''}{some}"
    )


def _of_size(each: SizeSamples, pictures: Pictures, classes: Sequence[str]) -> Markup:
    groups = []
    for name, views in each.samples:
        short = Path(name).name  # an image in memory is called by its data set and its number
        captions = [short, *(f"copy {number}" for number in range(2, len(views) + 1))]
        groups.append([_figure(view, text, pictures, classes) for view, text in zip(views, captions, strict=True)])
    whole = _whole(groups)
    first, last = each.epochs
    when = f"epoch {first}" if first == last else f"epochs {first:,} to {last:,}"
    copies = f", {counted(each.copies, 'copy')} of each" if each.copies > 1 else ""
    share, batch = f"{100 * each.share:.0f}% of the images", f"{each.batch_size:,} in a batch"
    title = f"{in_pixels(each.size)}: {share}, {batch}{copies}, {when}"
    note = f"Values from {each.low:.2f} to {each.high:.2f}, mean {each.mean:.2f}, deviation {each.std:.2f}."
    if left := len(groups) - len(whole):
        note += f" {counted(left, 'image')} left out: the page is full."
    return card(title, SEEN(groups=whole, large=False), note)


def _figure(view: View, caption: str, pictures: Pictures, classes: Sequence[str]) -> Captioned:
    said, size = view.labels(), in_pixels(extent_of(view.image.shape[0], view.image.shape[1]))
    drawn = [(f"{said}, {size}".removeprefix(", "), pictures.add(view.image))]
    if view.mask is not None:
        drawn.append((f"its mask over it, {size}", pictures.add(painted(view.image, view.mask, classes))))
    return Captioned(drawn, said, caption)


def _whole(groups: list[list[Captioned]]) -> list[list[Captioned]]:
    """The groups for all of whose pictures there was room."""
    return [group for group in groups if all(source for each in group for _, source in each.drawn)]
