"""Shapes come as near to their ratio and their area as their multiple allows, and images are grouped by the nearest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, plan_cost
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.sizes.shapes import SQUARE, Aspect, Shapes, extent_of, parse_shape, pixels_of, sides_of


@given(st.integers(1, 2000), st.floats(1 / 16, 16), st.integers(1, 32))
def test_a_shape_is_one_of_the_nearest_multiples(size: int, ratio: float, multiple: int) -> None:
    height, width = Aspect(ratio, multiple).sides(size)
    assert min(height, width) >= 1
    if ratio == 1:
        assert (height, width) == (size, size)
        return
    assert height % multiple == 0 == width % multiple
    if size < 5 * multiple:
        return  # of which the shorter side may be too short
    for side, exact in ((height, size / math.sqrt(ratio)), (width, size * math.sqrt(ratio))):
        assert abs(side - exact) <= 2 * multiple
    if multiple == 1 and size >= 64:
        assert abs(height * width / size**2 - 1) < 0.1
        assert abs(width / height / ratio - 1) < 0.1


@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 16))
def test_a_shape_that_is_asked_for_is_the_one_of_the_base(high: int, wide: int, multiple: int) -> None:
    if max(high, wide) > 16 * min(high, wide):
        return
    aspect, size = Aspect.from_shape(high * multiple, wide * multiple, multiple)
    assert aspect.sides(size) == (high * multiple, wide * multiple)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=1),
    st.sets(st.floats(0.2, 5), min_size=1, max_size=5),
)
def test_each_image_is_in_the_group_of_the_nearest_ratio(shapes: list[tuple[int, int]], ratios: set[float]) -> None:
    grouped = Shapes.grouped(shapes, sorted(ratios))
    for (height, width), group in zip(shapes, grouped.groups, strict=True):
        apart = [abs(math.log(width / height / ratio)) for ratio in sorted(ratios)]
        assert apart[group] == pytest.approx(min(apart))


def test_an_extent_is_a_side_or_two() -> None:
    assert [extent_of(8, 8), extent_of(8, 9)] == [8, (8, 9)]
    assert [sides_of(8), sides_of((8, 9)), pixels_of(8), pixels_of((8, 9))] == [(8, 8), (8, 9), 64, 72]
    assert Aspect.of(480, 640, 8).extent(224) == (192, 256)
    assert SQUARE.extent(225) == 225


@pytest.mark.parametrize("text", ["", "192", "192x", "x256", "0x256", "192x256x3", "-1x4", "1.5x4"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(UserError, match="expected HEIGHTxWIDTH in pixels, such as 192x256"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shapes(()), "received 0 aspect ratios"),
        (lambda: Shapes((1.0, 1.0), groups=b"\0"), "each another one"),
        (lambda: Shapes((0.01,)), "an aspect ratio is 0.01; expected width over height, from 1/16 to 16"),
        (lambda: Shapes((1.0,), multiple=0), "multiples of 0 px; expected at least 1"),
        (lambda: Shapes((1.0, 2.0)), "nothing tells which image has which"),
        (lambda: Aspect.from_shape(100, 128, 8), "100x128 has a side that is no multiple of 8 px .* such as 96x128"),
        (lambda: Aspect.from_shape(8, 256, 8), "longer than 16 times its other side"),
    ],
)  # fmt: skip
def test_shapes_that_cannot_be(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        make()


def test_the_cost_is_that_of_each_shape() -> None:
    """The FLOPs of a run count the pixels of each shape, row by row, whatever the square of equal area has."""
    shapes = Shapes.grouped([(3, 4)] * 40 + [(4, 3)] * 20 + [(5, 5)] * 40, (0.75, 1.0, 4 / 3))
    plan = BatchPlan(100, SizeSchedule.constant(SizeMix.custom({64: 0.5, 96: 0.5}, 64)), 10, shapes=shapes)
    cost = plan_cost(plan, 3, lambda extent: Flops(pixels_of(extent)))
    assert {(part.extent, part.samples) for part in cost.sizes} == {
        ((72, 56), 30), (64, 60), ((56, 72), 60), ((112, 80), 30), (96, 60), ((80, 112), 60)
    }  # fmt: skip
    assert cost.total_flops == sum(pixels_of(part.extent) * part.samples for part in cost.sizes)
    assert cost.base.extent == 64


def test_few_images_of_a_shape_join_the_nearest() -> None:
    shapes = Shapes.grouped([(1, 2)] * 3 + [(1, 1)] * 50 + [(2, 3)] * 30, (1.0, 1.5, 2.0))
    plan = BatchPlan(83, SizeSchedule.constant(SizeMix.fixed(32)), 4, world_size=2, shapes=shapes, drop_last=False)
    assert [(part.aspect.ratio, samples) for part, _, samples in plan.counts(0)] == [(1.0, 50), (1.5, 33)]
    assert np.isclose(sum(part.share for part in plan.sizes(0)), 1)
