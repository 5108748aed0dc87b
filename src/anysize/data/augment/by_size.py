"""Augmentation whose strength follows the image size and the epoch, as progressive learning has it.

EfficientNetV2 (Tan, Le, arXiv 2104.00298, section 4) trains small images with weak augmentation and large ones with
strong augmentation. Here `augment.by_size` is a table of points (size, value) for any of the settings `SCHEDULED`, with
straight lines between the points, and the nearest one beyond them; `augment.by_epoch` is one of points (epoch,
multiple). What holds for a batch follows from its size and its epoch alone, so that pixels stay a function of (seed,
epoch, sample, copy, size).

>>> augment = AugmentSettings(autoaugment="randaugment", by_size={"magnitude": ((14, 3), (28, 9))})
>>> [augment_at(augment, size).magnitude for size in (10, 14, 21, 28, 42)]
[3, 3, 6, 9, 9]
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anysize.data.settings import AugmentSettings
from anysize.registry import UserError, did_you_mean, shown

SCHEDULED = (
    "scale", "rescale", "magnitude", "severity", "color_jitter", "lighting", "cutout", "random_erasing", "mixup",
    "cutmix",
)  # fmt: skip
"""The settings that can follow the size and the epoch."""
MIXING = ("mixup", "cutmix")
"""Those of them that mix the samples of a batch, which is the task's affair and not the transform's."""
_PAIRS = ("scale", "rescale")  # settings of two numbers
_NEEDS = {
    "scale": ("crop", "random-resized"),
    "rescale": ("crop", "rescale"),
    "magnitude": ("autoaugment", "randaugment"),
    "severity": ("autoaugment", "augmix"),
}
"""The setting and its value without which another one has no effect."""
_FIELDS = {field.name: field for field in dataclasses.fields(AugmentSettings)}


def is_scheduled(augment: AugmentSettings) -> bool:
    """Whether anything of the augmentation follows the size or the epoch."""
    return bool(augment.by_size or augment.by_epoch)


def augment_at(augment: AugmentSettings, size: int, epoch: int = 0) -> AugmentSettings:
    """The settings that hold at `size` pixels in `epoch` (a pass over the images, from 0), without tables.

    >>> augment = AugmentSettings(cutout=8, by_epoch={"cutout": ((0, 0.0), (10, 1.0))})
    >>> [augment_at(augment, 28, epoch).cutout for epoch in (0, 5, 10, 99)]
    [0, 4, 8, 8]
    """
    values = {name: _value(augment, name, size, epoch) for name in scheduled_names(augment)}
    return dataclasses.replace(augment, by_size={}, by_epoch={}, **values)


def scheduled_names(augment: AugmentSettings) -> list[str]:
    """The settings that the tables name."""
    return sorted({*augment.by_size, *augment.by_epoch})


def last_epoch(augment: AugmentSettings) -> int:
    """The epoch from which on augmentation does not change any more: that of images to calibrate with.

    >>> last_epoch(AugmentSettings(cutout=8, by_epoch={"cutout": ((0, 0.0), (10, 1.0))}))
    10
    """
    return max((int(np.ceil(points[-1][0])) for points in augment.by_epoch.values()), default=0)


def check_tables(augment: AugmentSettings) -> None:
    """Raise a `UserError` for tables that are malformed, out of range, or without effect.

    >>> check_tables(AugmentSettings(by_size={"magnitude": ((14, 3),)}))
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: augment.by_size has magnitude, but augment.autoaugment is '': it has an effect with ...
    """
    for table, rows in (("by_size", augment.by_size), ("by_epoch", augment.by_epoch)):
        for name, points in rows.items():
            _check_points(f"augment.{table}", name, points, size=table == "by_size")
            needed, value = _NEEDS.get(name, ("", ""))
            if needed and getattr(augment, needed) != value:
                raise UserError(
                    f"augment.{table} has {name}, but augment.{needed} is {getattr(augment, needed)!r}: it has an "
                    f"effect with {value} alone; set that, or remove {name}"
                )
    for name in augment.by_epoch:
        if name not in augment.by_size and not getattr(augment, name):
            raise UserError(
                f"augment.by_epoch multiplies {name}, and augment.{name} is 0; give it its full value, or points in "
                "augment.by_size"
            )
    for name in scheduled_names(augment):
        sizes, epochs = (table.get(name, ((0,),)) for table in (augment.by_size, augment.by_epoch))
        for (size, *_), (epoch, *_) in itertools.product(sizes, epochs):  # where what is piecewise linear is largest
            for number in np.atleast_1d(_value(augment, name, int(size), int(epoch))).tolist():
                low, high, besides = (_FIELDS[name].metadata.get(key) for key in ("low", "high", "besides"))
                if not (low <= number <= high or number == besides):
                    raise UserError(
                        f"augment.by_size and augment.by_epoch make {name} {number:g} at {size:g} px in epoch "
                        f"{epoch:g}; expected from {low:g} to {high:g}"
                    )


def _check_points(table: str, name: str, points: Sequence[Sequence[float]], *, size: bool) -> None:
    if name not in SCHEDULED:
        raise UserError(f"{table} has no setting {shown(name)}: {did_you_mean(name, SCHEDULED)}")
    if not size and name in _PAIRS:
        raise UserError(f"{table} has {name}, which is two numbers and has no multiple; give it by size")
    form = "[size, smallest, largest]" if name in _PAIRS else "[size, value]" if size else "[epoch, multiple]"
    places = [point[0] for point in points if point]
    if (
        not points
        or any(len(point) != form.count(",") + 1 for point in points)
        or sorted(set(places)) != places
        or places[0] < (1 if size else 0)
        or min(min(point) for point in points) < 0
    ):
        raise UserError(
            f"{table}.{name} is {shown(points)}; expected a list of {form}, no number below 0, each point at a larger "
            f"{'size' if size else 'epoch'} than the one before"
        )


def _value(augment: AugmentSettings, name: str, size: int, epoch: int) -> Any:
    """The value of a setting at a size in an epoch, of the setting's own type."""
    own = getattr(augment, name)
    value = _between(augment.by_size[name], size) if name in augment.by_size else np.atleast_1d(own).astype(float)
    if name in augment.by_epoch:
        value = value * _between(augment.by_epoch[name], epoch)
    if name in MIXING and value[0] < _FIELDS[name].metadata["low"]:
        return 0.0  # so small an alpha mixes nothing
    numbers = value.tolist()
    return tuple(numbers) if name in _PAIRS else round(numbers[0]) if isinstance(own, int) else numbers[0]


def _between(points: Sequence[Sequence[float]], place: float) -> np.ndarray:
    """The values of the points at `place`, on straight lines between them; those of the ends beyond."""
    places, *columns = zip(*points, strict=True)
    return np.array([np.interp(place, places, column) for column in columns])


def mixing_at(
    mixup: float, cutmix: float, tables: tuple[Mapping[str, Any], Mapping[str, Any]], size: int, epoch: int
) -> tuple[float, float]:
    """The alphas of mixup and cutmix at a size in an epoch; `tables` are those by size and by epoch.

    >>> mixing_at(0.0, 0.0, ({"mixup": ((14, 0.0), (28, 0.2))}, {}), size=21, epoch=0)
    (0.1, 0.0)
    """
    by_size, by_epoch = ({name: table[name] for name in MIXING if name in table} for table in tables)
    now = augment_at(AugmentSettings(mixup=mixup, cutmix=cutmix, by_size=by_size, by_epoch=by_epoch), size, epoch)
    return now.mixup, now.cutmix


def mixes(augment: AugmentSettings) -> list[str]:
    """The ways in which the samples of a batch are mixed at some size."""
    return [name for name in MIXING if getattr(augment, name) or name in augment.by_size]
