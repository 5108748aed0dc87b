"""The learning-rate range test (Smith, arXiv 1506.01186): a short training whose learning rate grows at each step.

    curve = range_test(step, low=1e-6, high=1.0, steps=100)      # step(rate) trains a step and returns its loss
    curve.suggestion                                             # where the loss falls fastest; None: nowhere

Rates grow by the same factor from step to step. The test ends where the loss diverges. Imports no torch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from anysize.registry import UserError

FEWEST = 10
"""Steps that a test has at least."""

_DIVERGED = 4.0  # times the smallest running mean of the loss
_MEMORY = 0.9  # of the running mean that tells divergence
_WIDTH = 1 / 40  # of a test: standard deviation of the window that the curve is smoothed with
_FALL = 0.02  # of the loss at the start: a curve that falls by less has learnt nothing


@dataclasses.dataclass(frozen=True)
class LrCurve:
    """The losses of a range test by learning rate, as measured and smoothed over the neighbouring steps.

    `ended` says why it ended: at the last rate, or because the loss diverged or was not finite. `suggestion` is the
    rate at which the smoothed loss falls fastest on the way to its lowest point; None where it does not fall.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    ended: Literal["whole", "diverged", "not finite"]
    suggestion: float | None

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smoothed))]


def sweep(low: float, high: float, steps: int) -> list[float]:
    """Learning rates from `low` to `high`, each the same factor above the one before.

    Raises:
        UserError: no range, or fewer than 10 steps.

    >>> [round(rate, 6) for rate in sweep(1e-3, 1.0, 10)][::3]
    [0.001, 0.01, 0.1, 1.0]
    """
    if not 0 < low < high < math.inf:
        raise UserError(f"the learning rates are {low:g} to {high:g}; expected two above 0, the smaller one first")
    if steps < FEWEST:
        raise UserError(f"received {steps} steps; expected at least {FEWEST}, such as 100")
    return [float(rate) for rate in np.geomspace(low, high, steps)]


def range_test(step: Callable[[float], float], low: float, high: float, steps: int) -> LrCurve:
    """Train with a learning rate that grows from `low` to `high`, until the loss diverges.

    It has diverged where its running mean is four times the smallest one so far. A loss that is not finite ends the
    test, too, and is no part of the curve.

    Args:
        step: trains a step at a learning rate; returns its loss.
        low, high, steps: as for `sweep`.

    Raises:
        UserError: as `sweep`; the loss of one of the first steps is not finite.

    >>> weight = 1.0
    >>> def step(rate):  # of gradient descent on weight ** 2, which diverges at rates above 1
    ...     global weight
    ...     weight -= rate * 2 * weight
    ...     return weight ** 2
    >>> curve = range_test(step, 1e-3, 10.0, 80)
    >>> curve.ended, 0.01 < curve.suggestion < 1
    ('diverged', True)
    """
    rates, losses = sweep(low, high, steps), list[float]()
    mean, least = 0.0, math.inf
    ended: Literal["whole", "diverged", "not finite"] = "whole"
    for number, rate in enumerate(rates, start=1):
        loss = step(rate)
        if not math.isfinite(loss):
            ended = "not finite"
            break
        losses.append(loss)
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        now = mean / (1 - _MEMORY**number)  # without what it began at
        least = min(least, now)
        if number >= FEWEST and now > _DIVERGED * least:
            ended = "diverged"
            break
    if len(losses) < FEWEST:
        raise UserError(
            f"the loss is not finite after {len(losses)} steps, at a learning rate of {rates[len(losses)]:.2g}: begin "
            "at a smaller one, or look at the data and the model"
        )
    rates = rates[: len(losses)]
    smoothed = smooth(losses, _WIDTH * steps)
    return LrCurve(rates, losses, smoothed, ended, steepest(rates, smoothed))


def smooth(losses: list[float], width: float) -> list[float]:
    """Means over the neighbouring steps, weighted by a bell of standard deviation `width` (steps).

    They lag behind nothing, as a running mean would, and so leave the steepest place where it is.

    >>> [round(loss, 2) for loss in smooth([1.0, 1.0, 4.0, 1.0, 1.0], 0.5)]
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    places = np.arange(len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places) / max(width, 0.5)) ** 2)
    return [float(loss) for loss in weights @ np.asarray(losses) / weights.sum(1)]


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """The rate at which the loss falls fastest, by the logarithm of the rate, before its lowest point.

    None where it falls by less than a fiftieth.
    """
    end = int(np.argmin(smoothed))
    if end < 2 or smoothed[end] > smoothed[0] - _FALL * abs(smoothed[0]):
        return None
    slopes = np.gradient(np.asarray(smoothed), np.log(rates))
    return rates[int(np.argmin(slopes[: end + 1]))]
