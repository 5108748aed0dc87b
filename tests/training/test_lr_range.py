"""The range test finds the rates of a problem whose rates are known, and ends where they are too large."""

import math
from collections.abc import Callable

import pytest

from anysize.registry import UserError
from anysize.training.lr_range import range_test, smooth, steepest, sweep


def descent(curvature: float) -> Callable[[float], float]:
    """Gradient descent on curvature / 2 * weight ** 2, which diverges at rates above 2 / curvature."""
    weight = 1.0

    def step(rate: float) -> float:
        nonlocal weight
        loss = curvature / 2 * weight**2
        weight -= rate * curvature * weight
        return loss

    return step


@pytest.mark.parametrize("curvature", [0.1, 10.0, 1000.0])
def test_suggestion_follows_the_curvature_and_divergence_ends_the_test(curvature: float) -> None:
    curve = range_test(descent(curvature), 1e-6 / curvature, 1e4 / curvature, 200)
    assert curve.ended == "diverged"
    assert curve.suggestion is not None
    assert 0.01 < curve.suggestion * curvature < 2
    assert curve.suggestion <= curve.lowest < 2.5 / curvature
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 200


def test_loss_that_is_not_finite_is_no_part_of_the_curve() -> None:
    losses = iter([1.0 - 0.04 * i for i in range(20)] + [math.nan])
    curve = range_test(lambda rate: next(losses), 1e-3, 1.0, 40)
    assert (curve.ended, len(curve.losses)) == ("not finite", 20)
    early = iter([1.0, 1.0, 1.0, math.inf])
    with pytest.raises(UserError, match="not finite after 3 steps"):
        range_test(lambda rate: next(early), 1e-3, 1.0, 40)


def test_loss_that_does_not_fall_suggests_nothing() -> None:
    assert range_test(lambda rate: 2.3, 1e-3, 1.0, 20).suggestion is None
    assert range_test(lambda rate: 2.3 + rate, 1e-3, 1.0, 20).suggestion is None


def test_smoothing_does_not_move_the_steepest_place() -> None:
    rates = sweep(1e-4, 1.0, 101)
    losses = [2 - math.tanh((math.log10(rate) + 2) * 3) + 0.001 * (-1) ** i for i, rate in enumerate(rates)]
    found = steepest(rates, smooth(losses, 2.5))
    assert found is not None
    assert abs(math.log10(found) + 2) < 0.1


@pytest.mark.parametrize(
    ("low", "high", "steps", "words"), [(0, 1, 20, "above 0"), (1, 0.1, 20, "above 0"), (0.1, 1, 9, "at least 10")]
)
def test_ranges_that_are_none_are_refused(low: float, high: float, steps: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sweep(low, high, steps)
