"""The length of a run is worked out by phases, and is the same as when it is counted epoch by epoch, step by step."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, Measurements, plan_cost
from anysize.sizes.mix import BUDGETS, SizeMix
from anysize.sizes.moving import GaussianWindow, MovingMix
from anysize.sizes.schedule import SizePhase, SizeRamp, SizeSchedule
from anysize.training.length import Repeated, run_length
from anysize.training.settings import TrainingSettings

BASE = 24


def flops(size: int) -> int:
    return size**2 + 7


@st.composite
def schedules(draw: st.DrawFn) -> SizeSchedule:
    phases = []
    epoch = 0
    for _ in range(draw(st.integers(1, 3))):
        budget = draw(st.sampled_from(BUDGETS))
        sizes: SizeMix | SizeRamp | MovingMix
        kind = draw(st.sampled_from(["ramp", "mixture", "window"]))
        if kind == "window":
            window = GaussianWindow(
                tuple(draw(st.lists(st.integers(8, 40), min_size=2, max_size=3, unique=True))),
                draw(st.floats(0.1, 2)),
                draw(st.sampled_from([0.0, 0.1])),
            )
            sizes = MovingMix(window, draw(st.integers(1, 9)), BASE, budget)
        elif kind == "ramp":
            ends = draw(st.tuples(st.integers(8, 40), st.integers(8, 40)))
            ramp = draw(st.tuples(st.integers(2, 9), st.integers(1, 8)))
            sizes = SizeRamp(*ends, epochs=ramp[0], multiple=ramp[1], base=BASE, budget=budget)
        else:
            weights = draw(st.dictionaries(st.integers(8, 40), st.floats(0.1, 1), min_size=1, max_size=3))
            sizes = SizeMix.custom(weights, BASE, budget)
        phases.append(SizePhase(epoch, sizes, draw(st.sampled_from([0, 5])), draw(st.sampled_from([0, 2]))))
        epoch += draw(st.integers(1, 6))
    return SizeSchedule(tuple(phases))


def slowly(plan: BatchPlan, adapt: int, epochs: int) -> list[list[tuple[int, int, int]]]:
    """Size, images and measured images of each step of each epoch."""
    measurements = Measurements(adapt)
    return [
        [
            (part.size, n * part.copies, measurements.passes(part) * n * part.copies)
            for part, n in plan.step_parts(epoch)
        ]
        for epoch in range(epochs)
    ]


@settings(max_examples=25, deadline=None)
@given(
    schedules(), st.integers(1, 12), st.booleans(), st.booleans(), st.sampled_from([0, 0, 1, 2, 3, 7]),
    st.integers(20, 200), st.integers(1, 3),
)  # fmt: skip
def test_a_run_is_as_long_as_when_each_step_is_counted(
    schedule: SizeSchedule, epochs: int, equal: bool, drop_last: bool, adapt: int, length: int, copies: int
) -> None:
    plan = BatchPlan(length, schedule, batch_size=8, copies=copies, drop_last=drop_last)
    told = TrainingSettings(epochs=epochs, equal_flops=equal)
    try:
        run = run_length(plan, told, BASE, flops, adapt)
    except UserError:
        with pytest.raises(UserError, match="no batch of two samples"):
            slowly(plan, adapt, 40)
        return
    spent = [
        [(images + measured) * flops(size) for size, images, measured in epoch]
        for epoch in slowly(plan, adapt, len(run.steps) + 1)
    ]
    cost = [sum(epoch[:steps]) for epoch, steps in zip(spent, run.steps, strict=False)]
    assert run.flops == sum(cost)
    assert run.total_steps == sum(run.steps)
    for epoch in {0, len(run.steps) // 2, len(run.steps) - 1}:
        within = [0, *itertools.accumulate(spent[epoch])]
        assert [run.flops_at(epoch, step) - sum(cost[:epoch]) for step in range(run.steps[epoch] + 1)] == within[
            : run.steps[epoch] + 1
        ]
    if equal:
        target = sum(
            (i + m) * flops(size) for epoch in slowly(plan.at_size(BASE), adapt, epochs) for size, i, m in epoch
        )
        ends = [0, *itertools.accumulate(itertools.chain.from_iterable(spent))]
        nearest = min(range(1, len(ends)), key=lambda step: abs(ends[step] - target))
        assert abs(run.flops - target) == abs(ends[nearest] - target)
        assert [*run.steps[:-1]] == [len(epoch) for epoch in spent[: len(run.steps) - 1]]
    else:
        assert [*run.steps] == [len(epoch) for epoch in spent[:epochs]]
    told_cost = plan_cost(
        plan, len(run.steps), lambda size: Flops(flops(size)), BASE, epochs, last_steps=run.steps[-1],
        adapt_copies=adapt,
    )  # fmt: skip
    assert told_cost.total_flops == run.flops
    assert told_cost.steps == run.total_steps
    measured = [
        step for epoch, n in zip(slowly(plan, adapt, len(run.steps)), run.steps, strict=True) for step in epoch[:n]
    ]
    assert told_cost.measured_flops == sum(flops(size) * m for size, _, m in measured)


@given(schedules(), st.integers(0, 25))
def test_spans_are_the_epochs_in_their_order_and_of_the_same_sizes(schedule: SizeSchedule, epochs: int) -> None:
    spans = schedule.spans(epochs)
    assert [epoch for span in spans for epoch in span] == [*range(epochs)]
    for span in spans:
        assert {schedule.at(epoch) for epoch in span} == {schedule.at(span.start)}
    assert schedule.sizes(epochs) == {size for epoch in range(epochs) for size in schedule.at(epoch).mix.sizes}


def test_a_hundred_million_epochs_are_counted_as_soon_as_one() -> None:
    ramp = SizeRamp(16, 32, epochs=50_000_000, base=BASE)
    plan = BatchPlan(1000, SizeSchedule((SizePhase(0, SizeMix.named("D+", BASE)), SizePhase(9, ramp))), batch_size=8)
    for equal, adapt in itertools.product((False, True), (0, 3)):
        run = run_length(plan, TrainingSettings(epochs=100_000_000, equal_flops=equal), BASE, flops, adapt)
        assert len(run.steps) > 50_000_000
        assert run.regime_epoch(len(run.steps) - 1, run.steps[-1]) == 100_000_000
        last = run.steps[-1]
        cost = plan_cost(
            plan, len(run.steps), lambda size: Flops(flops(size)), BASE, last_steps=last, adapt_copies=adapt
        )
        assert (cost.total_flops, cost.steps) == (run.flops, run.total_steps)


def test_what_would_have_to_be_counted_step_by_step_has_a_limit() -> None:
    plan = BatchPlan(1001, SizeSchedule.constant(SizeMix.named("D+", BASE)), batch_size=8, drop_last=False)
    with pytest.raises(UserError, match=r"drop_last = false .* more than the 20,000,000 .* set training\.drop_last"):
        run_length(plan, TrainingSettings(epochs=1_000_000), BASE, flops, adapt_copies=3).flops  # noqa: B018
    tiny = BatchPlan(1000, SizeSchedule.constant(SizeMix.fixed(1)), batch_size=8)
    with pytest.raises(UserError, match=r"10000 px .* lower sizes\.base"):
        run_length(tiny, TrainingSettings(epochs=1000, equal_flops=True), 10_000, lambda size: size**2)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=5))
def test_repeated_numbers_are_those_of_the_list(rows: list[tuple[int, int]]) -> None:
    plain = [value for value, times in rows for _ in range(times)]
    steps = Repeated(rows)
    assert ([*steps], len(steps), steps.total) == (plain, len(plain), sum(plain))
    assert [steps[i] for i in range(-len(plain), len(plain))] == plain * 2
    assert steps[1:3] == plain[1:3]
    with pytest.raises(IndexError):
        steps[len(plain)]
