"""Compiled training gives the outputs, gradients and state of eager training; evaluation can be exported."""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anysize.norms.online.compiled import _backward, _forward
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.registry import UserError


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Network(nn.Module):
    """Norms with all kinds of error compensation, affine and not, (N, C) and (N, C, H, W), and one that is shared."""

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(
            nn.Conv2d(3, 4, 3), OnlineNorm2d(4, 0.9, 0.8, backend=backend), nn.ReLU(inplace=True)
        )
        self.second = nn.Conv2d(4, 6, 3)
        self.shared = OnlineNorm2d(6, 0.95, 0.7, ecm="ac", clamp_val=1.0, backend=backend)
        self.head = nn.Linear(6, 5)
        self.last = OnlineNorm1d(5, 0.9, 0.8, affine=False, ecm="none", backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.second(self.first(x)))
        x = self.shared(x).mean((2, 3))
        out: Tensor = self.last(self.head(x))
        return out


def check_training(
    model: nn.Module, compiled: nn.Module, shape: tuple[int, ...] = (6, 3, 8, 8), tolerance: float = 0.0
) -> None:
    """Three steps of a model, and of what was compiled from a copy of it."""
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True) if tolerance == 0 else torch.compile(compiled)
    optimizers = [torch.optim.SGD(module.parameters(), 0.05) for module in (model, compiled)]
    for step in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        xs, outs = [], []
        for module in (model, run):
            xs.append(x.clone().requires_grad_())
            outs.append(module(xs[-1]))

        def check(pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

        check(iter([(outs[1], outs[0])]))
        check(zip(compiled.buffers(), model.buffers(), strict=True))  # m and var after the forward pass
        for optimizer, out in zip(optimizers, outs, strict=True):
            optimizer.zero_grad()
            out.square().sum().backward()
        check(iter([(xs[1].grad, xs[0].grad)]))  # type: ignore[list-item]
        check((a.grad, b.grad) for a, b in zip(compiled.parameters(), model.parameters(), strict=True))  # type: ignore[misc]
        check(zip(compiled.buffers(), model.buffers(), strict=True))  # u and v after the backward pass
        for optimizer in optimizers:
            optimizer.step()
    start = copy.deepcopy(model)
    for module in start.modules():
        if isinstance(module, OnlineNorm1d | OnlineNorm2d | OnlineNorm3d):
            module.reset_running_stats()
    assert all(not torch.equal(value, old) for value, old in zip(compiled.buffers(), start.buffers(), strict=True))


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "auto"])
def test_compiled_training_is_eager_training_without_a_graph_break(backend: str) -> None:
    check_training(Network(backend), Network(backend))


@pytest.mark.slow
def test_training_compiled_by_inductor() -> None:
    check_training(Network(), Network(), tolerance=2e-5)


@pytest.mark.slow
def test_other_sizes_go_on_with_the_same_state() -> None:
    # as training on a mixture of image sizes and a last batch that is not full do
    model, compiled = Network().first, Network().first
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for shape in ((4, 3, 8, 8), (3, 3, 10, 10), (1, 3, 9, 9)):
        x = torch.randn(shape)
        for module in (model, run):
            module(x).square().sum().backward()
    for ours, theirs in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_compiled_under_autocast_in_channels_last() -> None:
    model, compiled = Network(), Network()
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    for module in (model, run):
        with torch.autocast("cpu", torch.bfloat16):
            out = module(x)
        out.float().square().sum().backward()
    for ours, theirs in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compiled_evaluation_and_forward_passes_without_gradients() -> None:
    model, compiled = Network(), Network()
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3, 8, 8)
    for training in (True, False):
        with torch.no_grad():
            torch.testing.assert_close(run.train(training)(x), model.train(training)(x))
    for ours, theirs in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize(("shape", "ecm"), [((3, 4, 2, 2), "ls"), ((3, 4), "none"), ((1, 4, 1, 1), "ls")], ids=str)
def test_what_the_compiler_is_told_about_the_operators_is_true(backend: str, ecm: str, shape: tuple[int, ...]) -> None:
    settings = (0.9, 0.8, 1e-5, ecm, 1e-5, 5.0, 2, None, backend)
    x = torch.randn(shape)
    m, var, u, v, weight, bias = torch.rand(6, 4).unbind()  # type: ignore[no-untyped-call]
    m, var, u, v = (value.clone() for value in (m, var, u, v))
    for affine in ((None, None), (weight.clone(), bias.clone())):
        forward = (x, m, var, u, v, *affine, *settings)
        torch.library.opcheck(_forward, forward, test_utils=("test_schema", "test_faketensor"))
        saved = _forward(*forward)[3:]
        backward = (torch.randn(shape), x, *affine, saved, u, v, *settings)
        torch.library.opcheck(_backward, backward, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_checkpointing_of_compiled_training_is_refused() -> None:
    compiled = torch.compile(Network(), backend="aot_eager")
    for reentrant in (False, True):
        x = torch.randn(4, 3, 8, 8, requires_grad=True)
        with pytest.raises(UserError, match=r"run again by activation checkpointing.*torch.compiler.disable"):
            checkpoint(compiled, x, use_reentrant=reentrant).sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
@pytest.mark.parametrize("inside", [True, False])
def test_norms_kept_out_of_the_graph_can_be_checkpointed(monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    model, compiled = Network(), Network()
    for kind in (OnlineNorm1d, OnlineNorm2d):
        monkeypatch.setattr(kind, "forward", torch.compiler.disable(kind.forward))
    if inside:
        run = torch.compile(lambda x: checkpoint(compiled, x, use_reentrant=False), backend="aot_eager")
    else:
        inner = torch.compile(compiled, backend="aot_eager")

        def run(x: Tensor) -> Tensor:
            return checkpoint(inner, x, use_reentrant=False)  # type: ignore[no-any-return]

    for _, module in itertools.product(range(2), (model, run)):
        module(torch.ones(4, 3, 8, 8).cumsum(2).sin()).square().sum().backward()
    for ours, theirs in zip(compiled.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_an_exported_model_evaluates_as_the_module_at_any_size() -> None:
    model = Network()
    model(torch.randn(8, 3, 8, 8)).square().sum().backward()
    model.eval()
    before = [value.clone() for value in model.buffers()]
    auto = torch.export.Dim.AUTO  # type: ignore[attr-defined]
    program = torch.export.export(
        model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    ).module()
    for shape in ((2, 3, 8, 8), (1, 3, 11, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(program(x), model(x))
    for value, old in zip(model.buffers(), before, strict=True):
        assert torch.equal(value, old)


def test_each_kind_of_module_can_be_exported() -> None:
    for norm, shape in ((OnlineNorm1d(4), (2, 4)), (OnlineNorm1d(4), (2, 4, 5)), (OnlineNorm3d(4), (2, 4, 2, 3, 2))):
        norm(torch.randn(shape))
        norm.eval()
        x = torch.randn(shape)
        torch.testing.assert_close(torch.export.export(norm, (x,)).module()(x), norm(x))
