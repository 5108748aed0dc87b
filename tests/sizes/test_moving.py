"""Mixtures whose weights move: the window is the published bell, epochs have the weights of their progress."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, plan_cost
from anysize.sizes.mix import SizeMix
from anysize.sizes.moving import MOST_CHANGES, GaussianWindow, MovingMix, WeightPoints, pixels_a_sample
from anysize.sizes.schedule import SizePhase, SizeSchedule, build_schedule
from anysize.sizes.settings import PhaseSettings, SizeSettings, WeightPoint

SIZES = (14, 21, 28, 35)


@pytest.mark.parametrize("progress", [0.0, 0.2, 1 / 3, 0.5, 0.93, 1.0])
@pytest.mark.parametrize(("spread", "even"), [(0.65, 0.1), (0.3, 0.0), (2.0, 0.7)])
def test_the_window_is_a_normal_density_at_the_places_of_the_sizes(progress: float, spread: float, even: float) -> None:
    places = np.arange(len(SIZES), dtype=np.float64)
    density = np.exp(-0.5 * ((places - progress * (len(SIZES) - 1)) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
    expected = (1 - even) * density / density.sum() + even / len(SIZES)
    found = GaussianWindow(SIZES, spread, even).weights(progress)
    assert tuple(found) == SIZES
    np.testing.assert_allclose([*found.values()], expected, rtol=1e-12)
    assert sum(found.values()) == pytest.approx(1)


def test_the_window_moves_from_the_first_size_to_the_last_and_a_narrow_one_never_vanishes() -> None:
    window = GaussianWindow(SIZES, spread=0.01, even=0.0)
    assert [max(w, key=lambda size: w[size]) for w in map(window.weights, (0, 0.34, 0.66, 1))] == [*SIZES]
    for progress in np.linspace(0, 1, 50):
        assert sum(window.weights(float(progress)).values()) == pytest.approx(1)


@given(st.floats(0, 1))
def test_points_are_joined_by_straight_lines_of_their_shares(progress: float) -> None:
    points = WeightPoints.of({0.1: {14: 2.0, 28: 2.0}, 0.4: {14: 1.0}, 0.9: {21: 3.0, 28: 1.0}})
    columns = {14: (0.5, 1.0, 0.0), 28: (0.5, 0.0, 0.25), 21: (0.0, 0.0, 0.75)}
    expected = {size: np.interp(progress, (0.1, 0.4, 0.9), column) for size, column in columns.items()}
    assert points.weights(progress) == pytest.approx(expected)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 600))
def test_the_first_and_the_last_epoch_have_the_ends_and_changes_are_where_weights_change(epochs: int) -> None:
    window = GaussianWindow((16, 32), even=0.0)
    mix = MovingMix(window, epochs, 32)
    if epochs > 1:
        assert dict(mix.mix(0).weights) == window.weights(0)
        assert dict(mix.mix(epochs - 1).weights) == dict(mix.mix(epochs + 50).weights) == window.weights(1)
    every = [mix.mix(epoch) for epoch in range(epochs + 3)]
    slowly = [0, *(n for n, (a, b) in enumerate(itertools.pairwise(every), start=1) if a != b)]
    assert mix.changes() == slowly
    assert len(slowly) <= MOST_CHANGES


def test_a_size_without_weight_is_left_out() -> None:
    mix = MovingMix(WeightPoints.of({0.0: {14: 1.0}, 1.0: {28: 1.0}}), epochs=3, base=28)
    assert [mix.mix(epoch).sizes for epoch in range(3)] == [(14,), (14, 28), (28,)]


def test_a_million_epochs_are_planned_by_few_spans() -> None:
    schedule = SizeSchedule.moving(MovingMix(GaussianWindow((16, 24, 32)), epochs=10**6, base=32, budget="B+"))
    plan = BatchPlan(50_000, schedule, batch_size=64)
    spans = plan.spans(10**6)
    assert len(spans) == MOST_CHANGES
    assert sum(map(len, spans)) == 10**6
    cost = plan_cost(plan, 10**6, lambda size: Flops(size**2))
    assert cost.samples == pytest.approx(50_000 * 10**6, rel=0.03)  # but for what fills no batch


@pytest.mark.parametrize("budget", ["", "B+", "D+"])
def test_a_mixture_moves_to_the_end_of_a_run_of_equal_flops(budget: str) -> None:
    first = PhaseSettings(epoch=0, size=16, budget="B+")
    phases = (first, PhaseSettings(epoch=3, mix="window"))
    for given_phases in ((), phases):
        mix = "fixed" if given_phases else "window"
        asked = SizeSettings(mix=mix, sizes=(16, 24, 32), budget=budget, phases=given_phases)
        schedule = build_schedule(asked, base=32, epochs=20, equal_flops=True)
        last = schedule.phases[-1]
        assert isinstance(last.sizes, MovingMix)
        passes = last.epoch + last.sizes.epochs
        spent = sum(pixels_a_sample(schedule.at(epoch).mix) for epoch in range(passes))
        assert 20 <= spent < 21  # epochs at the base size
        assert build_schedule(asked, 32, 20).phases[-1].sizes.epochs == 20 - last.epoch  # type: ignore[union-attr]


def test_phases_take_moving_mixtures_for_as_long_as_they_say() -> None:
    asked = SizeSettings(
        mix="points",
        points=(WeightPoint(0.0, {"16": 1.0}), WeightPoint(1.0, {"32": 1.0})),
        sizes=(16, 32),
        phases=(PhaseSettings(epoch=4, mix="window", epochs=2), PhaseSettings(epoch=9, size=32)),
    )
    schedule = build_schedule(asked, base=32, epochs=12, equal_flops=True)
    assert [phase.epoch for phase in schedule.phases] == [0, 4, 9]
    assert [phase.sizes.epochs for phase in schedule.phases[:2]] == [4, 2]  # type: ignore[union-attr]
    assert schedule.at(3).mix == SizeMix(((32, 1.0),), 32)
    assert schedule.at(5).mix == schedule.at(8).mix != schedule.at(4).mix


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"mix": "window"}, 'sizes.mix is "window" but sizes.sizes is empty'),
        ({"mix": "window", "sizes": (16,)}, "expected at least two"),
        ({"mix": "fixed", "spread": 1.0}, "sizes.spread is given, but sizes.mix is 'fixed'"),
        ({"mix": "uniform", "sizes": (16, 32), "even": 0.2}, "sizes.even is given"),
        ({"mix": "points"}, "expected at least two, from 0 to 1"),
        ({"mix": "B+", "points": (WeightPoint(0.0, {"16": 1.0}),)}, "sizes.points is given"),
        ({"mix": "points", "points": (WeightPoint(0.0, {"16": 0.0}), WeightPoint(1.0, {"16": 1.0}))}, "one above 0"),
        ({"mix": "points", "points": (WeightPoint(0.5, {"a": 1.0}), WeightPoint(1.0, {"16": 1.0}))}, "whole pixels"),
    ],
)
def test_what_does_not_fit_together_is_said(given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_schedule(SizeSettings(**given_settings), base=32, epochs=4)


def test_a_moving_mixture_needs_an_epoch() -> None:
    with pytest.raises(UserError, match="over 0 epochs"):
        SizePhase(0, MovingMix(GaussianWindow((16, 32)), epochs=0, base=32))
