"""The Triton kernels of online norm compiled for a GPU that need not be there.

The launching code itself runs, on tensors of the meta device, and each launch is taken for a request to compile. So a
kernel is compiled with the arguments, the constants and the options that a training step would give it.
"""

import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from anysize.norms.online.backends import statistics_dtype, triton_kernels
from anysize.norms.online.backends import triton as backend
from anysize.norms.online.options import Options

CAPABILITIES = (80, 90)  # compute capability 8.0 and 9.0: A100 and H100
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def example(dtype: torch.dtype, *, channels_last: bool = False, shape: tuple[int, ...] = (8, 64, 14, 14)) -> Tensor:
    """An input of the meta device, which has a shape and no values."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=order)


def compile_step(x: Tensor, options: Options, capability: int, *, affine: bool = True) -> dict[str, Any]:
    """Compile all that a training step of an online norm launches for `x`; the compiled kernels by name."""
    built: dict[str, Any] = {}
    target = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,  # Triton keeps what it has compiled apart by device
        get_current_stream=lambda device: 0,
    )
    wide = statistics_dtype(x.dtype)
    m, var, u, v, weight, bias = x.new_empty((6, x.shape[1]), dtype=wide).unbind()
    vectors = (weight, bias) if affine else None
    with (
        mock.patch.object(backend, "_kernels", return_value=_Compiled(built)),
        mock.patch.object(driver, "_active", target),
    ):
        _, saved = backend.forward(x, vectors, m, var, options)
        backend.backward(torch.empty_like(x), x, vectors, saved, u, v, options)
    return built


class _Compiled:
    """Stands for the module of kernels: `kernels.normalize[grid](...)` compiles."""

    def __init__(self, built: dict[str, Any]) -> None:
        self._built = built

    def __getattr__(self, name: str) -> Any:
        return _Launch(name, self._built)


class _Launch:
    def __init__(self, name: str, built: dict[str, Any]) -> None:
        self._name, self._built = name, built

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            kernel = getattr(triton_kernels, self._name)
            self._built[self._name] = kernel.warmup(*arguments, grid=grid, **constants)

        return launch
