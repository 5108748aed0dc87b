"""What a step computes beside its own pass costs what its passes cost, counted step by step."""

import pytest

from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, plan_cost
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.sizes.second_size import SecondSize
from anysize.training.length import run_length
from anysize.training.settings import TrainingSettings

BASE = 32
PLAN = BatchPlan(1000, SizeSchedule.constant(SizeMix.named("B+D+", base=BASE)), batch_size=16)


def flops(size: int) -> Flops:
    return Flops(forward=size**2 + 3, backward=2 * size**2 + 1)


def passes(teacher: str, size: int, *, trains: bool) -> int:
    """FLOPs beside its own pass, written out."""
    smaller, total = size < BASE, 0
    if trains and smaller:
        total += flops(BASE).forward + flops(BASE).backward
    if teacher == "larger" and smaller and not trains:
        total += flops(BASE).forward
    if teacher == "averaged":
        total += flops(size).forward
    if teacher == "averaged-larger":
        total += flops(BASE if smaller else size).forward
    return total


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("teacher", ["", "larger", "averaged", "averaged-larger"])
def test_a_run_costs_the_sum_of_its_steps(teacher: str, trains: bool) -> None:
    second = SecondSize(BASE, trains, teacher)
    cost = plan_cost(PLAN, 3, flops, beside=lambda part: second.flops(part.size, flops))
    images = [step for epoch in range(3) for step in PLAN.step_images(epoch)]
    beside = sum(n * passes(teacher, size, trains=trains) for size, n in images)
    own = sum(n * flops(size).total for size, n in images)
    assert cost.beside_flops == beside
    assert cost.total_flops == own + beside
    assert cost.base.total_flops == 3 * 62 * 16 * flops(BASE).total  # without a teacher
    run = run_length(
        PLAN, TrainingSettings(epochs=3), BASE, lambda size: flops(size).total,
        beside=lambda part: second.flops(part.size, flops),
    )  # fmt: skip
    assert run.flops == own + beside
    assert run.flops_at(2, 0) < run.flops_at(2, 1) < run.flops


@pytest.mark.parametrize("teacher", ["larger", "averaged", "averaged-larger"])
def test_at_equal_flops_a_run_with_a_teacher_makes_fewer_steps_of_the_same_plan(teacher: str) -> None:
    settings, second = TrainingSettings(epochs=20, equal_flops=True), SecondSize(BASE, teacher=teacher)
    alone = run_length(PLAN, settings, BASE, lambda size: flops(size).total)
    taught = run_length(
        PLAN, settings, BASE, lambda size: flops(size).total, beside=lambda part: second.flops(part.size, flops)
    )
    target = 20 * 62 * 16 * flops(BASE).total
    assert alone.flops == pytest.approx(target, rel=0.01)
    assert taught.flops == pytest.approx(target, rel=0.01)
    assert taught.total_steps < 0.9 * alone.total_steps


def test_images_are_loaded_at_the_larger_size_where_something_is_computed_there() -> None:
    assert [SecondSize(BASE, teacher="averaged").loaded(size) for size in (16, 32, 48)] == [16, 32, 48]
    for second in (SecondSize(BASE, trains=True), SecondSize(BASE, teacher="averaged-larger")):
        assert [second.loaded(size) for size in (16, 32, 48)] == [32, 32, 48]
