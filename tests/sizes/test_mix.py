"""The published tables: batch size, copies and steps of every named mixture, and the pixels that it processes."""

import pytest

from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, plan_cost
from anysize.sizes.mix import SizeBatch, SizeMix
from anysize.sizes.schedule import SizeSchedule

# Each row: mixture, then {size: (share, batch size, copies, steps an epoch)}, as the authors' code gives them for
# 50,000 images with batches of 64.
CIFAR = {
    "D+": {32: (0.3, 64, 1, 234), 48: (0.2, 28, 1, 357), 24: (0.3, 64, 2, 234), 16: (0.2, 64, 4, 156)},
    "B+": {32: (0.3, 64, 1, 234), 48: (0.2, 28, 1, 357), 24: (0.3, 114, 1, 131), 16: (0.2, 256, 1, 39)},
    "B+D+": {32: (0.3, 64, 1, 234), 48: (0.2, 43, 1, 232), 24: (0.3, 85, 1, 176), 16: (0.2, 128, 2, 78)},
}
IMAGENET = {
    ("B+", 144): {256: (0.1, 49, 1), 224: (0.1, 64, 1), 128: (0.6, 196, 1), 96: (0.2, 348, 1)},
    ("D+", 144): {256: (0.1, 64, 1), 224: (0.1, 64, 1), 128: (0.6, 64, 3), 96: (0.2, 64, 5)},
    ("B+", 224): {
        128: (0.8 / 6, 196, 1), 160: (0.8 / 6, 125, 1), 192: (0.8 / 6, 87, 1), 224: (0.2, 64, 1),
        256: (0.8 / 6, 49, 1), 288: (0.8 / 6, 39, 1), 320: (0.8 / 6, 31, 1),
    },
    ("D+", 224): {
        128: (0.8 / 6, 64, 3), 160: (0.8 / 6, 64, 2), 192: (0.8 / 6, 64, 1), 224: (0.2, 64, 1),
        256: (0.8 / 6, 64, 1), 288: (0.8 / 6, 64, 1), 320: (0.8 / 6, 31, 1),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CIFAR))
def test_cifar_table(name: str) -> None:
    plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named(name, base=32)), batch_size=64)
    table = {part.size: (part.share, part.batch_size, part.copies, steps) for part, steps, _ in plan.counts(0)}
    assert table == CIFAR[name]


@pytest.mark.parametrize(("name", "base"), sorted(IMAGENET))
def test_imagenet_table(name: str, base: int) -> None:
    parts = SizeMix.named(name, base).batches(batch_size=64)
    expected = IMAGENET[name, base]
    assert {part.size: (part.batch_size, part.copies) for part in parts} == {
        size: (batch_size, copies) for size, (_, batch_size, copies) in expected.items()
    }
    assert {part.size: part.share for part in parts} == pytest.approx({size: row[0] for size, row in expected.items()})
    assert sum(part.size * part.share for part in parts) == pytest.approx(base, abs=0.5)  # the mean size


@pytest.mark.parametrize(
    ("name", "base", "length", "devices", "steps", "fixed_steps", "pixels"),
    [
        ("D+", 32, 50_000, 1, 981, 781, 1.286),
        ("B+", 32, 50_000, 1, 761, 781, 0.968),
        ("B+D+", 32, 50_000, 1, 720, 781, 1.017),
        ("B+", 144, 1_281_167, 4, 2317, 5004, 0.463),
        ("D+", 144, 1_281_167, 4, 5002, 5004, 1.002),
        ("B+", 224, 1_281_167, 4, 5391, 5004, 1.075),
        ("D+", 224, 1_281_167, 4, 5712, 5004, 1.231),
    ],
)
def test_steps_and_pixels_of_an_epoch(
    name: str, base: int, length: int, devices: int, steps: int, fixed_steps: int, pixels: float
) -> None:
    schedule = SizeSchedule.constant(SizeMix.named(name, base))
    plan = BatchPlan(length, schedule, batch_size=64, world_size=devices)
    cost = plan_cost(plan, 1, lambda size: Flops(size**2))
    assert (plan.steps(0), cost.steps, cost.base.steps) == (steps, steps, fixed_steps)
    assert cost.ratio == pytest.approx(pixels, abs=5e-4)


def test_shares_of_steps_differ_from_shares_of_images() -> None:
    plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("B+", base=32)), batch_size=64)
    sizes = [batch.size for batch in plan.batches(0)]
    shares = {size: sizes.count(size) / len(sizes) for size in (32, 48, 24, 16)}
    assert shares == pytest.approx({32: 0.31, 48: 0.47, 24: 0.17, 16: 0.05}, abs=0.005)


def test_other_bases_keep_the_ratios() -> None:
    assert SizeMix.named("B+", base=64).sizes == (64, 96, 48, 32)
    assert SizeMix.named("D+", base=112).sizes == (64, 80, 96, 112, 128, 144, 160)


def test_copies_asked_for_at_the_base_size_are_scaled() -> None:
    parts = {part.size: part.copies for part in SizeMix.named("D+", base=32).batches(batch_size=64, copies=4)}
    assert parts == {32: 4, 48: 2, 24: 7, 16: 16}


def test_shares_are_scaled_to_one_and_no_budget_changes_nothing() -> None:
    mix = SizeMix.custom({16: 1, 32: 3}, base=32)
    assert mix.batches(10, copies=2) == (SizeBatch(16, 0.25, 10, 2), SizeBatch(32, 0.75, 10, 2))
    assert [part.share for part in SizeMix.uniform([8, 16], base=16).batches(1)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("weights", "base", "budget", "message"),
    [
        ((), 32, "", "needs at least one size"),
        (((32, 0.5), (32, 0.5)), 32, "", "a size is given twice"),
        (((32, 0.0),), 32, "", "size 32 has share 0.0"),
        (((0, 1.0),), 32, "", "size 0 has share 1.0"),
        (((32, 1.0),), 0, "", "the base size is 0"),
        (((32, 1.0),), 32, "B", r"unknown budget 'B': did you mean 'B\+'"),
    ],
)
def test_mixtures_that_make_no_sense(
    weights: tuple[tuple[int, float], ...], base: int, budget: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SizeMix(weights, base, budget)


def test_unknown_name_and_impossible_batch() -> None:
    with pytest.raises(UserError, match=r"unknown size mixture 'D'"):
        SizeMix.named("D")
    with pytest.raises(UserError, match="batch size 0 with 1 copies"):
        SizeMix.fixed(32).batches(0)
