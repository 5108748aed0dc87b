"""The recurrences agree with a plain loop, whatever the decays and the number of samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anysize.norms.online.recurrence import constant_decay, varying_decay


def loop(start: Tensor, decays: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """x[n + 1] = decays[n] x[n] + inputs[n]."""
    values = [start]
    for decay, value in zip(decays, inputs, strict=True):
        values.append(decay * values[-1] + value)
    return torch.stack(values[:-1]), values[-1]


def check(result: tuple[Tensor, Tensor], start: Tensor, decays: Tensor, inputs: Tensor) -> None:
    expected = loop(start, decays, inputs)
    # Sums of both signs cancel: rounding is of the size of the terms, which the absolute values add up.
    size = loop(start.abs(), decays.abs(), inputs.abs())
    for ours, theirs, terms in zip(result, expected, size, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().le(1e-12 * (terms + 1e-30)).all()


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    channels=st.integers(1, 3),
    decay=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_constant_decay(length: int, channels: int, decay: float, seed: int) -> None:
    start, *inputs = draw(seed, length + 1, channels)
    decays = torch.full((length, 1), decay, dtype=torch.float64)
    check(constant_decay(start, torch.stack(inputs), decay), start, decays, torch.stack(inputs))


@pytest.mark.parametrize("length", [255, 256, 257, 600])
@pytest.mark.parametrize("decay", [1e-200, 0.5, 0.999, 1.0])
def test_constant_decay_over_blocks(length: int, decay: float) -> None:
    start, inputs = draw(0, 2), draw(1, length, 2)
    check(constant_decay(start, inputs, decay), start, torch.full((length, 1), decay, dtype=torch.float64), inputs)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 70),
    channels=st.integers(1, 3),
    scale=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_varying_decay_of_any_sign(length: int, channels: int, scale: float, seed: int) -> None:
    start, inputs, decays = draw(seed, channels), draw(seed + 1, length, channels), draw(seed + 2, length, channels)
    before = inputs.clone(), decays.clone(), start.clone()
    check(varying_decay(start, scale * decays, inputs), start, scale * decays, inputs)
    assert all(map(torch.equal, (inputs, decays, start), before))  # arguments are left alone


def test_the_arguments_of_constant_decay_are_left_alone() -> None:
    for length in (1, 5):
        start, inputs = draw(0, 2), draw(1, length, 2)
        kept = start.clone(), inputs.clone()
        before, after = constant_decay(start, inputs, 0.5)
        before.zero_()
        after.zero_()
        assert torch.equal(start, kept[0])
        assert torch.equal(inputs, kept[1])
