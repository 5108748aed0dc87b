"""Activation checkpointing runs forward passes twice and changes nothing: gradients and state are those without it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d
from anysize.norms.online.recomputation import Passes

Run = Callable[[nn.Module, list[Tensor]], None]
REENTRANT = pytest.mark.parametrize("reentrant", [False, True])


def block(channels: int = 3, backend: str = "auto") -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        OnlineNorm2d(4, 0.9, 0.8, backend=backend),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        OnlineNorm2d(4, 0.95, 0.7, ecm="ac", backend=backend),
    )


def inputs(count: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(5, 3, 6, 6, requires_grad=True) for _ in range(count)]


def train(model: nn.Module, run: Run, passes: int) -> dict[str, Tensor]:
    """Two steps of SGD; everything that they leave behind."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    xs = inputs(2 * passes)
    for step in range(2):
        optimizer.zero_grad()
        run(model, xs[step * passes : (step + 1) * passes])
        optimizer.step()
    gradients = {f"x{index}.grad": x.grad for index, x in enumerate(xs)}
    gradients |= {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return dict(model.state_dict()) | gradients


def check_same(model: nn.Module, plain: Run, checkpointed: Run, passes: int = 1) -> None:
    expected = train(copy.deepcopy(model), plain, passes)
    for name, value in train(model, checkpointed, passes).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)
    moved = [value for name, value in expected.items() if name.endswith(("norm.m", "norm.u", "norm.v"))]
    assert all(value.abs().max() > 0 for value in moved)


def loss(out: Tensor) -> Tensor:
    return (out * torch.arange(out.numel()).view_as(out).cos()).sum()


@REENTRANT
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_one_block(backend: str, reentrant: bool) -> None:
    check_same(
        block(backend=backend),
        lambda model, xs: loss(model(xs[0])).backward(),
        lambda model, xs: loss(checkpoint(model, xs[0], use_reentrant=reentrant)).backward(),
    )


@REENTRANT
def test_two_blocks_in_a_row(reentrant: bool) -> None:
    check_same(
        nn.Sequential(*block(3), *block(4)),
        lambda model, xs: loss(model(xs[0])).backward(),
        lambda model, xs: loss(checkpoint_sequential(model, 2, xs[0], use_reentrant=reentrant)).backward(),
    )


@REENTRANT
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_several_forward_passes_before_their_backward_passes(order: tuple[int, ...], reentrant: bool) -> None:
    def run(call: Callable[[nn.Module, Tensor], Tensor]) -> Run:
        def every(model: nn.Module, xs: list[Tensor]) -> None:
            losses = [loss(call(model, x)) for x in xs]
            for index in order:
                losses[index].backward()

        return every

    def checkpointed(model: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(model, x, use_reentrant=reentrant)  # type: ignore[no-any-return]

    check_same(block(), run(lambda model, x: model(x)), run(checkpointed), passes=3)


@REENTRANT
def test_equal_inputs_in_several_passes(reentrant: bool) -> None:
    def run(call: Callable[..., Tensor]) -> Run:
        return lambda model, xs: sum(loss((k + 1) * call(model, xs[0])) for k in range(3)).backward()  # type: ignore[union-attr]

    check_same(
        block(),
        run(lambda model, x: model(x)),
        run(lambda model, x: checkpoint(model, x, use_reentrant=reentrant)),
    )


@REENTRANT
def test_a_norm_that_is_called_twice_in_a_block(reentrant: bool) -> None:
    def twice(model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x)
        for layer in (model[3], model[4], model[4]):  # type: ignore[index]
            out = layer(out)
        return out

    check_same(
        block(),
        lambda model, xs: loss(twice(model, xs[0])).backward(),
        lambda model, xs: loss(checkpoint(twice, model, xs[0], use_reentrant=reentrant)).backward(),
    )


def test_checkpoints_within_a_checkpoint() -> None:
    def nested(model: nn.Module, x: Tensor) -> Tensor:
        first, second = model.children()
        inner = checkpoint(first, x, use_reentrant=False)
        return checkpoint(second, inner, use_reentrant=False)  # type: ignore[no-any-return]

    check_same(
        nn.Sequential(block(3), block(4)),
        lambda model, xs: loss(model(xs[0])).backward(),
        lambda model, xs: loss(checkpoint(nested, model, xs[0], use_reentrant=False)).backward(),
    )


def test_some_passes_checkpointed_and_some_not() -> None:
    def mixed(model: nn.Module, xs: list[Tensor]) -> None:
        with torch.no_grad():
            model(xs[1])
        total = loss(checkpoint(model, xs[0], use_reentrant=False)) + loss(model(xs[1]))
        with torch.no_grad():
            model(xs[2])
        (total + loss(checkpoint(model, xs[2], use_reentrant=False))).backward()

    def plain(model: nn.Module, xs: list[Tensor]) -> None:
        with torch.no_grad():
            model(xs[1])
        total = loss(model(xs[0])) + loss(model(xs[1]))
        with torch.no_grad():
            model(xs[2])
        (total + loss(model(xs[2]))).backward()

    check_same(block(), plain, mixed, passes=3)


def test_two_backward_passes_through_one_graph() -> None:
    def run(call: Callable[..., Tensor]) -> Run:
        def both(model: nn.Module, xs: list[Tensor]) -> None:
            value = loss(call(model, xs[0]))
            value.backward(retain_graph=True)
            value.backward()

        return both

    check_same(
        block(),
        run(lambda model, x: model(x)),
        run(lambda model, x: checkpoint(model, x, use_reentrant=False)),
    )


def test_after_a_forward_pass_without_its_backward_pass() -> None:
    # a validation in training mode, an exception, a skipped step: what is remembered must not be taken for another
    def run(call: Callable[..., Tensor]) -> Run:
        def skip(model: nn.Module, xs: list[Tensor]) -> None:
            call(model, xs[1])
            loss(call(model, xs[0]) + call(model, xs[1])).backward()

        return skip

    check_same(
        block(),
        run(lambda model, x: model(x)),
        run(lambda model, x: checkpoint(model, x, use_reentrant=False)),
        passes=2,
    )


def test_under_autocast() -> None:
    def run(call: Callable[..., Tensor]) -> Run:
        def cast(model: nn.Module, xs: list[Tensor]) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                out = call(model, xs[0])
            loss(out.float()).backward()

        return cast

    check_same(
        block(),
        run(lambda model, x: model(x)),
        run(lambda model, x: checkpoint(model, x, use_reentrant=False)),
    )


def test_ordinary_training_remembers_nothing() -> None:
    norm = OnlineNorm1d(3)
    norm(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert not norm._passes
    checkpoint(norm, torch.randn(4, 3, requires_grad=True), use_reentrant=False)
    assert norm._passes
    assert not copy.deepcopy(norm)._passes


def test_an_input_that_is_not_equal_to_the_bit_is_recognised() -> None:
    passes = Passes()
    xs = [torch.randn(4, 3) for _ in range(5)]
    for index, x in enumerate(xs):
        passes.remember(x, torch.full((3,), float(index)), torch.ones(3))
    for index in (3, 0, 4, 1):
        m, _ = passes.recall(xs[index] + 1e-4)
        assert m.tolist() == [index] * 3


def test_what_is_recalled_can_be_written_to() -> None:
    passes: Any = Passes()
    start = torch.zeros(2), torch.ones(2)
    passes.remember(torch.ones(1, 2), *start)
    start[0].fill_(9)
    for _ in range(2):
        m, _ = passes.recall(torch.ones(1, 2))
        assert m.tolist() == [0, 0]
        m.fill_(7)


def test_an_input_that_was_never_seen_is_a_new_pass() -> None:
    passes, (m, var) = Passes(), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    passes.remember(torch.randn(4, 2), m, var)
    assert passes.recall(torch.randn(4, 2) + 100) is None
    assert passes.recall(torch.full((4, 2), math.nan)) is None


def test_hundreds_of_passes_may_precede_their_backward_passes() -> None:
    passes = Passes()
    inputs = [torch.randn(3, 2) for _ in range(300)]
    for n, x in enumerate(inputs):
        passes.remember(x, torch.full((2,), float(n)), torch.ones(2))
    for n in reversed(range(300)):
        found = passes.recall(inputs[n])
        assert found is not None
        assert found[0][0] == n
