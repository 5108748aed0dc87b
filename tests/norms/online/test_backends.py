"""The PyTorch and C++ backends agree with the definition of Online Normalization, sample by sample in float64."""

import itertools
import os
import shutil
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from anysize.norms.online.backends.choose import choose_backend
from anysize.norms.online.function import online_norm
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.norms.online.options import Options
from anysize.registry import UserError

STATE = ("m", "var", "u", "v")
MODULES = {2: OnlineNorm1d, 3: OnlineNorm1d, 4: OnlineNorm2d, 5: OnlineNorm3d}
SHAPES = [
    *((6, 4, 5, 3), (1, 4, 3, 2), (4, 1, 3, 3), (7, 6, 1, 1), (1, 1, 1, 1), (2, 20, 9, 9)),
    *((5, 3), (1, 7), (1, 1), (270, 2)),
    *((4, 6, 5), (3, 4, 2, 3, 2)),
]


@pytest.fixture(params=["torch", "cpp"])
def backend(request: pytest.FixtureRequest) -> str:
    compilers = (os.environ.get("CXX") or "c++", "g++", "clang++")
    if request.param == "cpp" and not any(map(shutil.which, compilers)):
        pytest.skip("there is no C++ compiler")
    return str(request.param)


# ------------------------------------------------------------------------------------------------- the definition


def reference(
    x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, state: dict[str, Tensor], o: Options
) -> dict[str, Tensor]:
    """One training step (arXiv 1905.05894): equations 8a to 8c, 9 and 10, 11 and 12, one sample after the other.

    All in float64. Moves `state` on. Affine transform and error compensation are ordinary autograd.
    """
    shape, a, control = x.shape, o.alpha_fwd, 1 - o.alpha_bkw
    x, grad = (value.double().reshape(*shape[:2], -1) for value in (x, grad))
    outputs, roots = [], []
    for sample in x:  # (C, D)
        m, var = state["m"], state["var"]
        roots.append((var + o.eps).sqrt()[:, None])
        outputs.append((sample - m[:, None]) / roots[-1])
        mean = sample.mean(1)
        within = ((sample - mean[:, None]) ** 2).mean(1)
        state["var"] = a * var + (1 - a) * within + a * (1 - a) * (mean - m) ** 2
        state["m"] = m + (1 - a) * (mean - m)
    y = torch.stack(outputs).requires_grad_()
    weight, bias = (value.double().requires_grad_() for value in (weight.clone(), bias.clone()))
    out = y * weight[:, None] + bias[:, None]
    if o.ecm == "ls":
        grouped = out.unflatten(1, (o.groups(shape[1]), -1))
        out = (grouped / (grouped.square().mean((2, 3), keepdim=True) + o.ls_eps).sqrt()).flatten(1, 2)
    if o.ecm == "ac":
        out = out.clamp(-o.clamp_val, o.clamp_val)
    grad_y, grad_weight, grad_bias = torch.autograd.grad(out, (y, weight, bias), grad)
    grads_x = []
    for g, y_n, root in zip(grad_y, y.detach(), roots, strict=True):
        u, v = state["u"], state["v"]
        t = g - control * v[:, None] * y_n
        if o.alpha_min is None:
            state["v"] = v + (t * y_n).mean(1)
        else:
            state["v"] = (1 - control * y_n.square().mean(1)).clamp(min=o.alpha_min) * v + (g * y_n).mean(1)
        grads_x.append(t / root - control * u[:, None])
        state["u"] = u + grads_x[-1].mean(1)
    tensors = out.detach().reshape(shape), torch.stack(grads_x).reshape(shape), grad_weight, grad_bias
    return dict(zip(("out", "grad_x", "grad_weight", "grad_bias"), tensors, strict=True)) | state


def new_state(channels: int) -> dict[str, Tensor]:
    return {name: torch.full((channels,), float(name == "var"), dtype=torch.float64) for name in STATE}


def state_of(norm: OnlineNorm2d | OnlineNorm1d | OnlineNorm3d) -> dict[str, Tensor]:
    return {name: getattr(norm.norm, name) for name in STATE}


def batch(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, channels_last: bool = False) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x


def check_batches(
    backend: str,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
    channels_last: bool = False,
    batches: int = 3,
    mean: float = 0.25,
    scale: float = 1.5,
    start: float = 0.0,
    tolerance: float = 1e-10,
    state_tolerance: float | None = None,
    **options: Any,
) -> None:
    """Batches in a row, from m = `start`, the state carried over: all that a training step yields is the reference's.

    Tolerances are relative to the largest value, at least 1.
    """
    options = {"alpha_fwd": 0.9, "alpha_bkw": 0.8, "backend": backend} | options
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    norm = MODULES[len(shape)](shape[1], dtype=wide, **options)
    expected_state = new_state(shape[1])
    for state in (expected_state, state_of(norm)):
        state["m"].fill_(start)
    weight, bias = torch.ones(shape[1]), torch.zeros(shape[1])
    if norm.affine:
        weight, bias = 1 + batch(1, (shape[1],), wide) / 2, batch(2, (shape[1],), wide)
        norm.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    for index in range(batches):
        x = (mean + scale * batch(2 * index + 10, shape, channels_last=channels_last)).to(dtype).requires_grad_()
        grad = (0.125 + batch(2 * index + 11, shape, channels_last=channels_last)).to(dtype)
        norm.zero_grad()
        out = norm(x)
        out.backward(grad)
        assert x.grad is not None
        assert (out.dtype, x.grad.dtype, norm.norm.m.dtype) == (dtype, dtype, wide)
        assert out.stride() == x.grad.stride() == x.stride()
        ours = {"out": out.detach(), "grad_x": x.grad} | state_of(norm)
        if norm.affine:
            ours |= {"grad_weight": norm.weight.grad, "grad_bias": norm.bias.grad}
        expected = reference(x.detach(), grad, weight, bias, expected_state, norm.options)
        for name, value in ours.items():
            error = float((value.double() - expected[name]).abs().max())
            allowed = tolerance if name in ("out", "grad_x") else state_tolerance or tolerance
            assert error <= allowed * max(1.0, float(expected[name].abs().max())), (name, index, error)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64(backend: str, shape: tuple[int, ...], ecm: str) -> None:
    check_batches(backend, shape, ecm=ecm, clamp_val=0.75)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (4, 1, 3, 3), (4, 6, 5), (3, 18, 2, 3, 2)], ids=str)
def test_channels_last(backend: str, shape: tuple[int, ...], ecm: str) -> None:
    check_batches(backend, shape, ecm=ecm, clamp_val=0.75, channels_last=True)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
def test_without_affine(backend: str, ecm: str) -> None:
    check_batches(backend, (5, 4, 3, 2), ecm=ecm, affine=False)
    check_batches(backend, (5, 4), ecm=ecm, affine=False)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_group_size(backend: str, size: int, channels_last: bool) -> None:
    check_batches(backend, (4, 6, 3, 2), group_size=size, channels_last=channels_last)
    check_batches(backend, (4, 6), group_size=size)


@pytest.mark.parametrize("decays", [(1.0, 1.0), (0.999, 0.99), (0.5, 0.01), (0.9, 1.0), (1.0, 0.9)], ids=str)
def test_decay_factors(backend: str, decays: tuple[float, float]) -> None:
    check_batches(backend, (9, 3, 2, 2), alpha_fwd=decays[0], alpha_bkw=decays[1])
    check_batches(backend, (9, 3), alpha_fwd=decays[0], alpha_bkw=decays[1])


@pytest.mark.parametrize("shape", [(8, 3, 2, 2), (8, 3)], ids=str)
def test_alpha_min(backend: str, shape: tuple[int, ...]) -> None:
    # |y| exceeds sqrt(1 / (1 - b)), so that the bound holds v's decay
    for bound in (None, 1e-5, 0.5):
        check_batches(backend, shape, alpha_min=bound, scale=8.0)
    states = []
    for bound in (None, 1e-5):
        norm = MODULES[len(shape)](3, 0.9, 0.8, alpha_min=bound, backend=backend)
        norm(8 * batch(0, shape).float().requires_grad_()).sum().backward()
        states.append(norm.norm.v)
    assert not torch.allclose(*states)


def test_eps_and_ls_eps(backend: str) -> None:
    check_batches(backend, (6, 4, 3, 2), eps=0.1, ls_eps=0.3)
    check_batches(backend, (6, 4), eps=0.0, ls_eps=0.0)


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("shape", [(12, 6, 7, 5), (33, 3), (1, 20, 4, 4), (2, 4, 3)], ids=str)
def test_float32(backend: str, shape: tuple[int, ...], ecm: str) -> None:
    check_batches(backend, shape, dtype=torch.float32, ecm=ecm, tolerance=5e-6)
    check_batches(backend, shape, dtype=torch.float32, ecm=ecm, tolerance=5e-6, channels_last=len(shape) > 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
def test_half_precision(backend: str, dtype: torch.dtype, ecm: str) -> None:
    # the results are rounded once; the state is as exact as float32
    for shape, channels_last in (((12, 6, 7, 5), False), ((12, 6, 7, 5), True), ((33, 3), False)):
        check_batches(
            *(backend, shape),
            dtype=dtype,
            channels_last=channels_last,
            ecm=ecm,
            tolerance=torch.finfo(dtype).eps / 2 + 1e-5,
            state_tolerance=1e-5,
        )


@pytest.mark.parametrize("shape", [(6, 4, 8, 8), (30, 4)], ids=str)
@pytest.mark.parametrize("ecm", ["none", "ls"])
def test_a_large_mean_costs_no_more_than_its_own_rounding(backend: str, shape: tuple[int, ...], ecm: str) -> None:
    # float32 numbers near 1000 lie 6e-5 apart, m among them; E[x^2] - E[x]^2 would be off by 0.1
    far: Any = {"dtype": torch.float32, "mean": 1000.0, "start": 1000.0, "tolerance": 1e-4}
    for channels_last in (False, len(shape) > 2):
        check_batches(backend, shape, ecm=ecm, batches=6, channels_last=channels_last, **far)


@pytest.mark.parametrize("seed", range(5))
def test_the_tolerance_of_the_authors_own_test(backend: str, seed: int) -> None:
    norm = OnlineNorm1d(256, 0.99, 0.9, affine=False, ecm="none", backend=backend)
    state = new_state(256)
    x = (batch(seed, (32, 256)) + 0.25).float().requires_grad_()
    grad = (batch(seed + 100, (32, 256)) + 0.125).float()
    for _ in range(8):
        x.grad = None
        out = norm(x)
        out.backward(grad)
        expected = reference(x.detach(), grad, torch.ones(256), torch.zeros(256), state, norm.options)
        torch.testing.assert_close(out.double(), expected["out"], rtol=1e-5, atol=1e-6)
        assert x.grad is not None
        torch.testing.assert_close(x.grad.double(), expected["grad_x"], rtol=1e-5, atol=1e-6)


def test_two_samples_by_hand(backend: str) -> None:
    # x = 2, 0 from m = 0, var = 1 with a = b = 1/2 and no eps:
    #   y = 2, -1 / sqrt(1.5)     var = 1.5, 1     m = 1, 0.5
    # g = 1, 1 from u = v = 0, with r = sqrt(2 / 3):
    #   t = 1, 1 + r     v = 2, 2 - r - 2 / 3     x' = 1, (1 + r) r - 1 / 2     u = 1, (1 + r) r + 1 / 2
    r = (2 / 3) ** 0.5
    m, var, u, v = (torch.tensor([value], dtype=torch.float64) for value in (0.0, 1.0, 0.0, 0.0))
    x = torch.tensor([[2.0], [0.0]], dtype=torch.float64, requires_grad=True)
    out = online_norm(x, m, var, u, v, options=Options(0.5, 0.5, eps=0.0, ecm="none"), backend=backend)
    out.sum().backward()
    assert x.grad is not None
    assert out.flatten().tolist() == pytest.approx([2.0, -r])
    assert x.grad.flatten().tolist() == pytest.approx([1.0, (1 + r) * r - 0.5])
    assert torch.cat((m, var, u, v)).tolist() == pytest.approx([0.5, 1.0, (1 + r) * r + 0.5, 2 - r - 2 / 3])


# -------------------------------------------------------------------------------------- one sequence of samples


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 11), unique=True).map(sorted),
    ecm=st.sampled_from(["none", "ls", "ac"]),
    shape=st.sampled_from([(12, 4, 3, 2), (12, 4)]),
    decays=st.tuples(*[st.floats(0.3, 1.0)] * 2),
    alpha_min=st.sampled_from([None, 1e-5]),
)
def test_cutting_a_batch_anywhere_changes_nothing(
    backend: str,
    cuts: list[int],
    ecm: str,
    shape: tuple[int, ...],
    decays: tuple[float, float],
    alpha_min: float | None,
) -> None:
    x, grad = batch(0, shape) + 0.5, batch(1, shape) + 0.25
    results = []
    for borders in ([0, 12], [0, *cuts, 12]):
        norm = MODULES[len(shape)](
            4, *decays, ecm=ecm, clamp_val=0.7, alpha_min=alpha_min, backend=backend, dtype=torch.float64
        )
        outs, grads = [], []
        for begin, end in itertools.pairwise(borders):
            part = x[begin:end].clone().requires_grad_()
            outs.append(norm(part))
            outs[-1].backward(grad[begin:end])
            grads.append(part.grad)
        results.append([torch.cat(outs), torch.cat(grads), norm.weight.grad, norm.bias.grad, *state_of(norm).values()])
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------------------- differentiation


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (3, 4)], ids=str)
def test_without_decay_it_is_the_derivative(backend: str, ecm: str, shape: tuple[int, ...]) -> None:
    # with both factors 1 the state of the forward pass stays and u and v have no effect
    options = Options(1.0, 1.0, ecm=ecm, clamp_val=0.8, group_size=2)
    m, var = batch(3, (4,)) / 4, 1 + batch(4, (4,)) ** 2
    x, weight, bias = (batch(seed, size).requires_grad_() for seed, size in ((0, shape), (1, (4,)), (2, (4,))))

    def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        u, v = torch.ones(2, 4, dtype=torch.float64)
        return online_norm(x, m.clone(), var.clone(), u, v, weight, bias, options, backend)

    if ecm == "ac":  # clamping has a kink
        far = normalize(x, weight, bias).detach().abs()
        assert 0 < int((far == 0.8).sum()) < far.numel()
        assert far[far < 0.8].max() < 0.799
    assert torch.autograd.gradcheck(normalize, (x, weight, bias))


def test_gradients_of_gradients_are_refused(backend: str) -> None:
    norm = OnlineNorm1d(2, backend=backend)
    x = torch.randn(3, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# ------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("ecm", ["none", "ls", "ac"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_of_the_size_of_the_input_is_kept_beyond_the_input(backend: str, channels_last: bool, ecm: str) -> None:
    x = batch(0, (4, 6, 16, 16), torch.float32, channels_last).requires_grad_()
    out = OnlineNorm2d(6, ecm=ecm, backend=backend)(x)
    assert out.grad_fn is not None
    kept = [value for value in out.grad_fn.saved_tensors if value is not None]  # type: ignore[attr-defined]
    assert kept[0].data_ptr() == x.data_ptr()  # not a copy
    assert sum(value.numel() for value in kept[1:]) <= 8 * 4 * 6


def test_other_memory_orders_are_normalised_too(backend: str) -> None:
    x = batch(0, (4, 6, 8, 8))[:, ::2, :, ::2].detach().requires_grad_()
    same = x.detach().contiguous().requires_grad_()
    results = []
    for value in (x, same):
        norm = OnlineNorm2d(3, 0.9, 0.8, backend=backend, dtype=torch.float64)
        out = norm(value)
        out.sum().backward()  # a gradient of one value, expanded
        results.append((out, value.grad, norm.weight.grad, *state_of(norm).values()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_gradient_in_another_memory_order(backend: str) -> None:
    results = []
    for grad in (batch(1, (4, 3, 5, 2)), batch(1, (4, 3, 5, 2), channels_last=True)):
        for channels_last in (False, True):
            x = batch(0, (4, 3, 5, 2), channels_last=channels_last).requires_grad_()
            norm = OnlineNorm2d(3, 0.9, 0.8, backend=backend, dtype=torch.float64)
            norm(x).backward(grad)
            results.append(x.grad)
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)


# ------------------------------------------------------------------------------------------------- the choice


def test_auto_takes_what_there_is() -> None:
    assert choose_backend(torch.ones(1, 1, device="meta")).__name__.endswith("backends.pytorch")  # type: ignore[attr-defined]
    assert choose_backend(torch.ones(1, 1), "torch").__name__.endswith("backends.pytorch")  # type: ignore[attr-defined]


def test_auto_takes_cpp_on_a_cpu(backend: str) -> None:
    if backend == "cpp" and os.environ.get("ANYSIZE_CPP", "1") != "0":
        assert choose_backend(torch.ones(1, 1)) is choose_backend(torch.ones(1, 1), "cpp")


def test_a_backend_that_cannot_take_the_input_says_why() -> None:
    with pytest.raises(UserError, match=r"triton backend .* cannot take torch.float32 on cpu .*backend='auto'"):
        choose_backend(torch.ones(1, 1), "triton")
    with pytest.raises(UserError, match="unknown backend 'tritn' of online norm: did you mean 'triton'"):
        choose_backend(torch.ones(1, 1), "tritn")
