"""The Triton backend agrees with the definition, sample by sample in float64, and its kernels compile for a GPU.

The kernels run in Triton's interpreter, on the CPU. It has to be switched on before anything imports triton, and has to
stay off for other tests. So what runs kernels does so in a process of its own.
"""

import concurrent.futures
import importlib.util
import itertools
import multiprocessing
import os
import re
import runpy
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anysize.norms.online.backends import triton as online_triton
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.online.options import Options

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton here")

Run = Callable[..., None]
LS = Options(0.9, 0.8)
AC = Options(0.9, 0.8, ecm="ac", clamp_val=0.7)
NONE = Options(0.99, 0.95, ecm="none", eps=0.1)
KERNELS = (
    *("sample_moments", "forward_recurrence", "normalize"),
    *("gradient_moments", "backward_recurrence", "input_gradient"),
)


def slow(*values: Any) -> Any:
    """A case that shows the same in another guise."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Run]:
    """Runs a function of this module, with its arguments, where Triton's interpreter is on."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(check_available).result()  # the process has started, and keeps the variable
        yield lambda check, *args, **options: pool.submit(check, *args, **options).result()


def check_available() -> None:
    torch.set_num_threads(1)
    assert online_triton.available(torch.ones(1, 1))
    assert "bfloat16" in online_triton.why_not(torch.ones(1, 1, dtype=torch.int64))


# ------------------------------------------------------------------------------------------------- the definition


def reference(
    x: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None, state: dict[str, Tensor], o: Options
) -> list[Tensor | None]:
    """One training step of Online Normalization (arXiv 1905.05894, equations 8 to 12), one sample at a time.

    Affine transform and error compensation are left to autograd. Moves `state` on; returns the output and the
    gradients of x, weight and bias.
    """
    x, grad = x.flatten(2) if x.dim() > 2 else x[:, :, None], grad.reshape(*grad.shape[:2], -1)
    ys, roots = [], []
    for sample in x:  # (C, D)
        m, var, a = state["m"], state["var"], o.alpha_fwd
        root = (var + o.eps).sqrt()
        ys.append((sample - m[:, None]) / root[:, None])
        roots.append(root)
        mean, variance = sample.mean(1), sample.var(1, correction=0)
        state["var"] = a * var + (1 - a) * variance + a * (1 - a) * (mean - m) ** 2
        state["m"] = m + (1 - a) * (mean - m)
    y = torch.stack(ys).requires_grad_()
    leaves = [y, *(value.clone().requires_grad_() for value in (weight, bias) if value is not None)]
    z = y if weight is None else y * leaves[1][:, None] + leaves[2][:, None]
    if o.ecm == "ls":
        groups = z.unflatten(1, (o.groups(z.shape[1]), -1))
        z = (groups / (groups.square().mean((2, 3), keepdim=True) + o.ls_eps).sqrt()).flatten(1, 2)
    elif o.ecm == "ac":
        z = z.clamp(-o.clamp_val, o.clamp_val)
    dy, *affine = torch.autograd.grad(z, leaves, grad)
    dx = []
    for g, y_n, root in zip(dy, y.detach(), roots, strict=True):
        c, u, v = 1 - o.alpha_bkw, state["u"], state["v"]
        t = g - c * v[:, None] * y_n
        keep = 1 - c * y_n.square().mean(1)
        if o.alpha_min is not None:
            keep = keep.clamp(min=o.alpha_min)
        state["v"] = keep * v + (g * y_n).mean(1)
        dx.append(t / root[:, None] - c * u[:, None])
        state["u"] = u + dx[-1].mean(1)
    return [z.detach(), torch.stack(dx), *(affine or (None, None))]


def arrange(values: Tensor, channels_last: bool) -> Tensor:
    return values.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else values.contiguous()


def step(
    x: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None, state: dict[str, Tensor], options: Options
) -> list[Tensor | None]:
    """The same as `reference`, by the backend."""
    affine = None if weight is None or bias is None else (weight, bias)
    out, saved = online_triton.forward(x, affine, state["m"], state["var"], options)
    of_x, of_affine = online_triton.backward(grad, x, affine, saved, state["u"], state["v"], options)
    return [out, of_x, *(of_affine or (None, None))]


def new_state(channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.full((channels,), float(name == "var"), dtype=dtype) for name in ("m", "var", "u", "v")}


def check_batches(
    shape: tuple[int, ...],
    options: Options,
    affine: bool = True,
    dtype: torch.dtype = torch.float64,
    channels_last: bool = False,
    batches: int = 3,
    mean: float = 0.0,
    tile: tuple[int, int] = (2048, 4),
    weights: float | None = None,
    **tolerance: Any,
) -> None:
    """Some batches in a row: output, gradients and state are the reference's."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = tolerance or ({"rtol": 1e-10, "atol": 1e-10} if wide == torch.float64 else {"rtol": 2e-5, "atol": 5e-6})
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, shape[1], generator=draw).to(wide) if affine else (None, None)
    if weight is not None and weights is not None:
        weight = torch.full_like(weight, weights)
    state, expected_state = new_state(shape[1], wide), new_state(shape[1], torch.float64)
    exact_weight, exact_bias = (None if value is None else value.double() for value in (weight, bias))
    for _ in range(batches):
        x = 1.5 * torch.randn(shape, generator=draw, dtype=torch.float64) + 0.5 + mean
        x, grad = (
            arrange(values.to(dtype), channels_last)
            for values in (x, torch.randn(shape, generator=draw, dtype=torch.float64) + 0.25)
        )
        with mock.patch.multiple(online_triton, _TILE=tile[0], _MIN_TILES=tile[1]):
            results = step(x, grad, weight, bias, state, options)
        expected = reference(x.double(), grad.double(), exact_weight, exact_bias, expected_state, options)
        names = ("out", "grad_x", "grad_weight", "grad_bias")
        for name, ours, theirs in zip(names, results, expected, strict=True):
            if theirs is None:
                assert ours is None
                continue
            assert ours is not None
            assert ours.dtype == (dtype if name in names[:2] else wide)
            if name in names[:2]:
                assert ours.stride() == x.stride()
            near(name, ours.double(), theirs.reshape(ours.shape), **tolerance)
        for name, value in state.items():
            near(name, value.double(), expected_state[name], **tolerance)


def near(name: str, ours: Tensor, theirs: Tensor, **tolerance: Any) -> None:
    torch.testing.assert_close(ours, theirs, msg=lambda text: f"{name}: {text}", **tolerance)


# ------------------------------------------------------------------------------------------------- against it


@pytest.mark.parametrize(
    ("options", "affine"),
    [(LS, True), (AC, False), slow(LS, False), slow(AC, True), slow(NONE, False), slow(NONE, True)],
)
def test_float64_is_the_definition(interpreter: Run, options: Options, affine: bool) -> None:
    interpreter(check_batches, (3, 3, 2, 5), options, affine)


@pytest.mark.parametrize(
    "shape", [(2, 40), slow((7, 5)), slow((3, 6, 1, 1)), slow((1, 4, 3, 3)), slow((2, 1, 6)), slow((1, 1))]
)
def test_any_shape(interpreter: Run, shape: tuple[int, ...]) -> None:
    """Vectors, sizes of one, and more channels than a program of the recurrences takes."""
    interpreter(check_batches, shape, LS, batches=2)


@pytest.mark.parametrize(
    ("shape", "options"), [((2, 3, 2, 3, 2), AC), slow((2, 3, 2, 3, 2), LS), slow((5, 3, 4, 5), LS), ((2, 5, 3), NONE)]
)
def test_channels_last(interpreter: Run, shape: tuple[int, ...], options: Options) -> None:
    """Volumes among them."""
    interpreter(check_batches, shape, options, channels_last=True, batches=2)


@pytest.mark.parametrize(("options", "channels_last"), [(LS, True), slow(LS, False), slow(AC, True), (AC, False)])
def test_positions_and_channels_in_several_tiles(interpreter: Run, options: Options, channels_last: bool) -> None:
    """Tiles of 4 values, sums in parts of at least 2 tiles."""
    interpreter(check_batches, (2, 3, 3, 5), options, channels_last=channels_last, tile=(4, 2), batches=1)


@pytest.mark.parametrize(("group_size", "affine"), [(2, True), slow(1, True), slow(2, False), slow(6, True)])
def test_layer_scaling_in_groups_of_channels(interpreter: Run, group_size: int, affine: bool) -> None:
    interpreter(check_batches, (2, 6, 2, 3), Options(0.9, 0.8, group_size=group_size), affine, batches=2)


@pytest.mark.parametrize("alpha_min", [0.5, slow(None), slow(1e-5)])
def test_decay_of_v_is_bounded_where_asked(interpreter: Run, alpha_min: float | None) -> None:
    """With a decay of 0.2 the unbounded one goes below 0."""
    interpreter(check_batches, (6, 3, 2, 2), Options(0.9, 0.2, ecm="none", alpha_min=alpha_min), batches=2)


@pytest.mark.slow
def test_decays_of_one_keep_the_state(interpreter: Run) -> None:
    interpreter(check_batches, (3, 2, 4), Options(1.0, 1.0, ecm="none"))


@pytest.mark.parametrize("options", [LS, slow(AC), slow(NONE)])
def test_float32_is_exact_to_rounding(interpreter: Run, options: Options) -> None:
    interpreter(check_batches, (4, 4, 3, 3), options, dtype=torch.float32, batches=2)


@pytest.mark.parametrize("options", [LS, slow(AC)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)], ids=str)
def test_half_precision_is_rounded_once_at_the_end(
    interpreter: Run, dtype: torch.dtype, rtol: float, options: Options
) -> None:
    """The interpreter cuts bfloat16 off where a GPU rounds it: a whole unit in the last place."""
    how: dict[str, Any] = {"dtype": dtype, "channels_last": options is AC, "batches": 2, "rtol": rtol, "atol": 1e-5}
    interpreter(check_batches, (3, 3, 2, 3), options, **how)


def test_variance_does_not_cancel_at_a_mean_of_1000(interpreter: Run) -> None:
    """A decay of 0.5 forgets the jump from the mean of 0, so that the variance is soon the samples' own."""
    options = Options(0.5, 1.0, ecm="none")
    interpreter(check_batches, (24, 1, 5), options, dtype=torch.float32, batches=1, mean=1000.0, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [LS, AC], ids=["ls", "ac"])
def test_weights_of_zero_are_no_obstacle(interpreter: Run, options: Options) -> None:
    interpreter(check_batches, (3, 4, 2, 2), options, weights=0.0, batches=2)


def check_halves(options: Options) -> None:
    draw = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 5, 3, 4, 2, generator=draw, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    whole, cut = new_state(3, torch.float64), new_state(3, torch.float64)
    expected = step(x, grad, weight, bias, whole, options)
    parts = [step(x[rows], grad[rows], weight, bias, cut, options) for rows in (slice(0, 2), slice(2, 5))]
    for index, join in enumerate((torch.cat, torch.cat, sum, sum)):
        near(str(index), join([part[index] for part in parts]), expected[index], rtol=1e-12, atol=1e-12)
    for name, value in whole.items():
        near(name, cut[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [LS, slow(AC)])
def test_cutting_a_batch_changes_nothing(interpreter: Run, options: Options) -> None:
    interpreter(check_halves, options)


def check_saved() -> None:
    x, m, var = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16), torch.zeros(3), torch.ones(3)
    for options in (LS, AC):
        _, saved = online_triton.forward(x, None, m, var, options)
        assert all(value.numel() <= 2 * 3 and value.dtype == torch.float32 for value in saved)


def test_nothing_of_the_size_of_the_input_is_kept(interpreter: Run) -> None:
    interpreter(check_saved)


def check_nan() -> None:
    x = torch.ones(3, 2, 4)
    x[1, 0, 2] = torch.nan
    state = new_state(2, torch.float32)
    out, _, _, _ = step(x, torch.ones_like(x), None, None, state, AC)
    assert out is not None
    assert out[1, 0].isnan().tolist() == [False, False, True, False]
    assert out[2, 0].isnan().all()
    assert state["m"].isnan().tolist() == state["var"].isnan().tolist() == [True, False]
    assert not out[:, 1].isnan().any()


def test_clamping_lets_a_nan_through(interpreter: Run) -> None:
    interpreter(check_nan)


def check_module(channels_last: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x = arrange(torch.randn(3, 4, 2, 5, generator=draw), channels_last)
    results = []
    for backend in ("triton", "torch"):
        norm = OnlineNorm2d(4, 0.9, 0.8, backend=backend)
        leaf = x.clone().requires_grad_()
        for _ in range(2):
            out = F.relu_(norm(leaf))
            (out * torch.arange(5.0)).sum().backward()
        results.append([out, leaf.grad, *(value.grad for value in norm.parameters()), *norm.buffers()])
    for index, (ours, theirs) in enumerate(zip(*results, strict=True)):
        near(str(index), ours, theirs, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("channels_last", [slow(False), True])
def test_the_module_gives_what_it_gives_with_pytorch(interpreter: Run, channels_last: bool) -> None:
    interpreter(check_module, channels_last)


# ------------------------------------------------------------------------------------------------- without a GPU


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter is on")
def test_not_available_on_a_cpu_and_says_why() -> None:
    assert not online_triton.available(torch.ones(1, 1))
    assert "CUDA" in online_triton.why_not(torch.ones(1, 1))


def test_without_triton_it_is_not_available() -> None:
    path = Path(online_triton.__file__).with_name("triton_kernels.py")
    with mock.patch.dict(sys.modules, triton=None):
        kernels = types.SimpleNamespace(**runpy.run_path(str(path)))
    with mock.patch.object(online_triton, "_kernels", return_value=kernels):
        assert online_triton.why_not(torch.ones(1, 1)) == "triton is not installed"


# ------------------------------------------------------------------------------------------ compiled ahead of time

not_interpreted = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="interpreted kernels are not compiled")


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Compiles what a step launches, from nothing, and checks what the interpreter does not: types."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def check(x: Tensor, options: Options, capability: int, **how: Any) -> None:
        from ahead_of_time import compile_step  # imports triton

        built = compile_step(x, options, capability, **how)
        assert set(built) == set(KERNELS)
        for name, kernel in built.items():
            ptx, ir, recurrence = kernel.asm["ptx"], kernel.asm["ttir"], name.endswith("recurrence")
            assert f".target sm_{capability}" in ptx
            assert len(kernel.asm["cubin"]) > 1000
            assert (".f64" in ptx) == (recurrence or x.dtype == torch.float64), "float64 is slow on most GPUs"
            assert ptx.count(".param .f64") == 2 * recurrence, "a decay factor of 0.999 is not exact in float32"
            assert x.numel() == 1 or re.search(r"tt\.addptr.*xi64>", ir)
            assert not re.search(r"tt\.addptr.*<\d+x\d+xi32>", ir), "offsets into activations pass 2^31"

    return check


@not_interpreted
@pytest.mark.slow
def test_all_kernels_compile_for_a_gpu(compiled: Callable[..., None]) -> None:
    from ahead_of_time import example

    compiled(example(torch.bfloat16, channels_last=True), LS, 90)


INPUTS = list(itertools.product((80, 90), (torch.float32, torch.float16, torch.bfloat16), (False, True)))
EACH_ONCE = ((80, torch.float32, False), (90, torch.float16, True), (80, torch.bfloat16, False))


@not_interpreted
@pytest.mark.parametrize(
    ("capability", "dtype", "channels_last"),
    [pytest.param(*each, marks=pytest.mark.slow if each in EACH_ONCE else pytest.mark.exhaustive) for each in INPUTS],
)
def test_all_kernels_compile_for_all_inputs(
    compiled: Callable[..., None], capability: int, dtype: torch.dtype, channels_last: bool
) -> None:
    from ahead_of_time import example

    for options in (LS, AC, NONE):
        compiled(example(dtype, channels_last=channels_last), options, capability)


@not_interpreted
@pytest.mark.parametrize(
    ("dtype", "affine"),
    [
        slow(torch.float64, True),
        slow(torch.bfloat16, False),
        pytest.param(torch.float64, False, marks=pytest.mark.exhaustive),
        pytest.param(torch.bfloat16, True, marks=pytest.mark.exhaustive),
    ],
)
def test_kernels_compile_where_all_integers_are_one(
    compiled: Callable[..., None], dtype: torch.dtype, affine: bool
) -> None:
    """A compiled kernel gets each integer that is 1 as a constant."""
    from ahead_of_time import example

    for options in (LS, AC):
        compiled(example(dtype, shape=(1, 1)), options, 80, affine=affine)
