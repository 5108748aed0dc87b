"""The optimizer's regime: a pure function of progress, written as data.

Every hyper-parameter of the optimizer, its name included, is a constant or a list of points. A point says from which
epoch on the value holds and, where a ramp is named, how it moves to the next point:

    >>> lr = parse_schedule("0:0.1 81:0.01 122:0.001")
    >>> value_at(lr, 80.9), value_at(lr, 81)
    (0.1, 0.01)
    >>> cosine = parse_schedule([{"epoch": 0, "value": 0.1, "ramp": "cosine"}, {"epoch": 200, "value": 0.0}])
    >>> round(value_at(cosine, 100), 6)
    0.05

`linear`, `cosine`, `exponential` and `poly` reach the next point's value at the next point's epoch; `step` multiplies
by `factor` every `every` epochs. `poly` is DeepLab's: what is left to go falls as (1 - t)^0.9 (Chen et al., arXiv
1706.05587, section 4.1). Nothing here is ever evaluated as code. Imports no torch.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from anysize.registry import UserError, did_you_mean, shown

RAMPS = ("constant", "linear", "cosine", "exponential", "poly", "step")
POLY_POWER = 0.9
FLOAT32_MAX = 3.4028234663852886e38
"""The largest number that float32 holds, in which optimizers compute."""
_SHORTEST = 1e-6  # epochs between two steps of a step ramp


@dataclasses.dataclass(frozen=True)
class Point:
    """From `epoch` on (a fraction is allowed) the setting has `value`, and moves on as `ramp` says."""

    value: float | str
    epoch: float = 0.0
    ramp: str = "constant"
    every: float = 1.0
    factor: float = 0.1


Schedule = tuple[Point, ...]


def is_schedule(value: Any) -> bool:
    """Whether a setting is a schedule."""
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Point)


def constant(value: float | str) -> Schedule:
    """A schedule that never changes."""
    return (Point(value),)


def parse_schedule(given: Any) -> Schedule:
    """Read a number, a name, a list of points, or the short form `EPOCH:VALUE[:RAMP] ...`.

    >>> parse_schedule(0.1)
    (Point(value=0.1, epoch=0.0, ramp='constant', every=1.0, factor=0.1),)
    >>> [point.epoch for point in parse_schedule("0:0.1:linear,5:0.8")]
    [0.0, 5.0]

    Raises:
        UserError: an unknown key or ramp, a first epoch other than 0, or epochs out of order.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float, str, Sequence)):
        raise UserError(f"received {shown(given)}; expected a number or a list of {{epoch, value, ramp}} points")
    if isinstance(given, (int, float)):
        return constant(float(given))
    if isinstance(given, str):
        given = _short_form(given)
        if isinstance(given, (str, float)):
            return constant(given)
    points = tuple(point if isinstance(point, Point) else _point(point) for point in given)
    epochs = [point.epoch for point in points]
    if not points or epochs[0] != 0 or sorted(set(epochs)) != epochs:
        raise UserError(f"points at epochs {shown(epochs)}; expected the first at 0 and each later than the one before")
    if len({isinstance(point.value, str) for point in points}) > 1:
        raise UserError(f"values {shown([point.value for point in points])}; expected all numbers or all names")
    for point, following in zip(points, (*points[1:], None), strict=True):
        for key in ("value", "epoch", "every", "factor"):
            number = getattr(point, key)
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(
                    f"the {key} of the point at epoch {point.epoch:g} is {number}; expected a finite number"
                )
        if point.ramp not in ("constant", "step") and following is None:
            raise UserError(
                f"a {point.ramp} ramp starts at epoch {point.epoch:g} and leads nowhere; add its last point"
            )
        if point.ramp != "constant" and isinstance(point.value, str):
            raise UserError(f"{point.value!r} cannot move in a {point.ramp} ramp; expected constant")
        ends = (point.value, following.value) if following else ()
        if point.ramp == "exponential" and not all(isinstance(end, float) and end > 0 for end in ends):
            raise UserError(f"an exponential ramp between {ends}; expected both above 0")
    return points


def _short_form(text: str) -> Any:
    if ":" not in text:
        try:
            return float(text)
        except ValueError:
            return text
    points = []
    for part in text.replace(",", " ").split():
        pieces = part.split(":")
        if len(pieces) not in (2, 3):
            raise UserError(f"received {shown(part)}; expected EPOCH:VALUE or EPOCH:VALUE:RAMP, such as 81:0.01")
        points.append(dict(zip(("epoch", "value", "ramp"), pieces, strict=False)))
    return points


def _point(given: Any) -> Point:
    fields = [field.name for field in dataclasses.fields(Point)]
    if not isinstance(given, Mapping) or "value" not in given:
        raise UserError(f"received the point {shown(given)}; expected a table such as {{ epoch = 81, value = 0.01 }}")
    for key in given:
        if key not in fields:
            raise UserError(f"unknown key {shown(key)} in the point {shown(dict(given))}: {did_you_mean(key, fields)}")
    values = dict(given)
    for key in ("value", "epoch", "every", "factor"):
        if key in values:
            try:
                number = math.nan if isinstance(values[key], bool) else float(values[key])
            except (TypeError, ValueError, OverflowError):
                number = math.nan
                if key == "value" and isinstance(values[key], str):
                    continue
            if not math.isfinite(number):
                raise UserError(f"{key} is {shown(values[key])} in the point {shown(dict(given))}; expected a number")
            values[key] = number
    if not isinstance(values.get("ramp", ""), str):
        raise UserError(f"ramp is {shown(values['ramp'])} in the point {shown(dict(given))}; expected a name")
    point = Point(**values)
    if point.ramp not in RAMPS:
        raise UserError(f"unknown ramp {shown(point.ramp)}: {did_you_mean(point.ramp, RAMPS)}")
    if point.every < _SHORTEST:
        raise UserError(
            f"every is {point.every:g} in the point {shown(dict(given))}; expected a number of epochs above 0"
        )
    if point.factor < 0:
        raise UserError(f"factor is {point.factor:g} in the point {shown(dict(given))}; expected a number from 0 on")
    return point


def value_at(schedule: Schedule, epoch: float) -> float | str:
    """The value at `epoch` epochs of progress; what grows beyond it is `FLOAT32_MAX`.

    >>> value_at(parse_schedule([{"value": 0.045, "ramp": "step", "every": 1, "factor": 0.98}]), 2.5)
    0.04321799999999999
    >>> round(value_at(parse_schedule("0:0.007:poly 50:0"), 25), 8)
    0.00375121
    """
    i = len(schedule) - 1
    while schedule[i].epoch > epoch:
        i -= 1
    point = schedule[i]
    if point.ramp == "constant" or isinstance(point.value, str):
        return point.value
    if point.ramp == "step":
        return min(point.value * _power(point.factor, (epoch - point.epoch) / point.every), FLOAT32_MAX)
    following = schedule[i + 1]
    assert isinstance(following.value, float)  # parse_schedule lets no ramp lead to a name
    done = (epoch - point.epoch) / (following.epoch - point.epoch)
    if point.ramp == "exponential":
        return min(float(point.value * (following.value / point.value) ** done), FLOAT32_MAX)
    if point.ramp == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    if point.ramp == "poly":
        return following.value + (point.value - following.value) * (1 - done) ** POLY_POWER  # type: ignore[no-any-return]
    return point.value + done * (following.value - point.value)


def _power(factor: float, times: float) -> float:
    """`factor` multiplied with itself so many whole times, or the largest number: such a training diverges."""
    try:
        return float(factor ** math.floor(times))
    except OverflowError:
        return sys.float_info.max


def to_data(schedule: Schedule) -> Any:
    """The shortest TOML-ready form: a bare value, or a list of tables without their defaults."""
    if schedule == constant(schedule[0].value):
        return schedule[0].value
    defaults = {field.name: field.default for field in dataclasses.fields(Point) if field.name != "epoch"}
    return [
        {key: value for key, value in dataclasses.asdict(point).items() if defaults.get(key) != value}
        for point in schedule
    ]


def shorten(schedule: Schedule, ratio: float) -> Schedule:
    """The same schedule with all its epochs multiplied by `ratio`, for a shorter or longer run of the same shape.

    >>> [point.epoch for point in shorten(parse_schedule("0:0.1 80:0.01"), 0.25)]
    [0.0, 20.0]
    """
    return tuple(
        dataclasses.replace(p, epoch=p.epoch * ratio, every=p.every * ratio if p.ramp == "step" else p.every)
        for p in schedule
    )
