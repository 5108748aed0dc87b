"""Online Normalization as a function: the state comes in and is moved on in place.

`online_norm` is to the modules in `online` what `torch.nn.functional.batch_norm` is to `torch.nn.BatchNorm2d`.
"""

from typing import Any

import torch
from torch import Tensor

from anysize.norms.online.backends import Backend, State, statistics_dtype
from anysize.norms.online.backends.choose import choose_backend
from anysize.norms.online.backends.pytorch import in_order_of
from anysize.norms.online.compiled import online_norm_compiled
from anysize.norms.online.options import Options
from anysize.registry import UserError


def online_norm(
    x: Tensor, m: Tensor, var: Tensor, u: Tensor, v: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    options: Options | None = None, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Normalise a batch as in training (arXiv 1905.05894, equations 8 to 12); advances the state in place.

    The forward pass moves `m` and `var`, the backward pass `u` and `v`. Gradients of gradients are not defined.

    Args:
        x: (N, C, *), float32, float64, bfloat16 or float16. Other than contiguous or channels last is copied.
        m, var, u, v: the state, (C,), float32 or float64; 0, 1, 0, 0 at the start.
        weight, bias: (C,), both or neither.
        options: hyper-parameters.
        backend: see `choose_backend`.

    Returns the output, in x's shape, dtype and memory format.

    Raises:
        UserError: integers, another number of channels, an empty batch, one of weight and bias, vectors of another
            length or device than x's, a state in half precision, no such backend.

    >>> zeros, ones = torch.zeros(1), torch.ones(1)
    >>> m, var = zeros.clone(), ones.clone()
    >>> online_norm(torch.tensor([[1.0], [1.0]]), m, var, zeros, zeros, options=Options(0.5, eps=0.0, ecm="none"))
    tensor([[1.0000],
            [0.5774]])
    >>> m, var
    (tensor([0.7500]), tensor([0.4375]))
    """
    options = options or Options()
    check_input(x, len(m))
    if x.numel() == 0:
        raise UserError(
            f"online norm received an empty batch, shape {tuple(x.shape)}; expected at least one sample and position "
            "in training"
        )
    if (weight is None) != (bias is None):
        raise UserError("online norm received one of weight and bias; expected both or neither")
    _check_vectors(x, m, (("m", m), ("var", var), ("u", u), ("v", v)))
    if not x.is_contiguous() and not x.movedim(1, -1).is_contiguous():
        x = x.contiguous()
    if weight is not None and bias is not None:
        dtype = statistics_dtype(x.dtype)
        _check_vectors(x, None, (("weight", weight), ("bias", bias)))
        weight, bias = (
            value if value.dtype == dtype and value.is_contiguous() else value.to(dtype).contiguous()
            for value in (weight, bias)
        )
    state = (m, var, u, v)
    if torch.compiler.is_compiling():
        return online_norm_compiled(x, state, weight, bias, options, backend)
    output: Tensor = _OnlineNorm.apply(x, weight, bias, state, options, choose_backend(x, backend))
    return output


def check_input(x: Tensor, channels: int) -> None:
    """Raise a UserError unless x is (N, channels, *) of floating point."""
    if not x.is_floating_point():
        raise UserError(f"online norm received {x.dtype} values; expected floating point, such as x.float()")
    if x.dim() < 2 or x.shape[1] != channels:
        raise UserError(
            f"online norm received an input of shape {tuple(x.shape)}; expected (N, {channels}, ...): {channels} "
            "channels in the second dimension"
        )


def _check_vectors(x: Tensor, state: Tensor | None, vectors: tuple[tuple[str, Tensor], ...]) -> None:
    """Raise a UserError for vectors that are not (C,) beside x, or a state of mixed or half precision or not dense.

    The C++ backend reads them by their address.
    """
    device, shape = x.device, (x.shape[1],)
    for name, value in vectors:
        if value.device != device or value.shape != shape:
            raise UserError(
                f"online norm received {name} of shape {tuple(value.shape)} on {value.device} for an input of shape "
                f"{tuple(x.shape)} on {device}; expected {shape} on the same device"
            )
        if not value.is_contiguous() and state is not None:
            raise UserError(f"online norm received a state with {name} that is not contiguous; expected .contiguous()")
        if state is not None and (value.dtype != state.dtype or value.dtype not in (torch.float32, torch.float64)):
            raise UserError(
                f"online norm received a state with {name} in {value.dtype} and m in {state.dtype}; expected all four "
                "in float32, or all in float64"
            )


class _OnlineNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None,
        state: State, options: Options, backend: Backend,
    ) -> Tensor:  # fmt: skip
        m, var, u, v = state
        affine = None if weight is None or bias is None else (weight, bias)
        out, saved = backend.forward(x, affine, m, var, options)
        ctx.save_for_backward(x, weight, bias, *saved)
        ctx.state, ctx.options, ctx.backend = (u, v), options, backend
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *saved = ctx.saved_tensors
        affine = None if weight is None else (weight, bias)
        of_x, of_affine = ctx.backend.backward(in_order_of(x, grad), x, affine, saved, *ctx.state, ctx.options)
        return of_x, *(of_affine or (None, None)), None, None, None


def layer_scaling(x: Tensor, groups: int = 1, eps: float = 1e-5) -> Tensor:
    """Divide each sample by the root mean square of its values (arXiv 1905.05894, equations 9 and 10).

    x is (N, C, *); the channels are scaled in `groups` groups; `eps` is added to the mean square.

    >>> layer_scaling(torch.tensor([[3.0, 3.0, 3.0]]), eps=0.0)
    tensor([[1., 1., 1.]])
    """
    parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    wide = parts if x.dtype == torch.float64 else parts.float()
    square = wide.square().mean(tuple(range(2, parts.dim())), keepdim=True)
    return (wide * (square + eps).rsqrt()).to(x.dtype).reshape(x.shape)
