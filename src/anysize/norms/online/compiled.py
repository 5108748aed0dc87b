"""Online Normalization under `torch.compile` and `torch.export`: two operators that the compiler takes as they are.

The backends reach their kernels by ways that a compiler cannot follow. So the forward and the backward pass are
operators, `anysize::online_norm` and `anysize::online_norm_backward`, which return the state's new values. Copying them
into the state is left to the graph, where the compiler sees it: there is no graph break. Outside a compiler the plain
autograd function in `function.py` costs less a call.

What does not work is activation checkpointing of what is compiled: the compiled graph, run a second time, would start
from the state that the first time left. The operator refuses. Online norms that are kept out of compiled graphs, at the
cost of a graph break each, can be checkpointed:

    OnlineNorm2d.forward = torch.compiler.disable(OnlineNorm2d.forward)
"""

import functools
from typing import Any

import torch
from torch import Tensor

from anysize.norms.online.backends import Affine, State
from anysize.norms.online.backends.choose import choose_backend
from anysize.norms.online.backends.pytorch import in_order_of
from anysize.norms.online.options import Options
from anysize.norms.online.recomputation import runs_again
from anysize.registry import UserError

_SETTINGS = (
    "float alpha_fwd, float alpha_bkw, float eps, str ecm, float ls_eps, float clamp_val, int group_size, "
    "float? alpha_min, str backend"
)


def online_norm_compiled(
    x: Tensor, state: State, weight: Tensor | None, bias: Tensor | None, o: Options, backend: str
) -> Tensor:
    """`online_norm`, traceable; x is contiguous or channels last, weight and bias in the statistics' dtype."""
    settings = (o.alpha_fwd, o.alpha_bkw, o.eps, o.ecm, o.ls_eps, o.clamp_val, o.group_size, o.alpha_min, backend)
    out, m_after, var_after, *_ = _forward(x, *state, weight, bias, *settings)
    m, var, *_ = state
    with torch.no_grad():
        m.copy_(m_after)
        var.copy_(var_after)
    return out  # type: ignore[no-any-return]


@torch.library.custom_op(
    "anysize::online_norm",
    mutates_args=(),
    tags=torch.Tag.cudagraph_unsafe,  # a graph that is replayed would not look whether it runs again
    schema=f"(Tensor x, Tensor m, Tensor var, Tensor u, Tensor v, Tensor? weight, Tensor? bias, {_SETTINGS})"
    " -> Tensor[]",
)
def _forward(x: Tensor, m: Tensor, var: Tensor, u: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    """The output, m and var after the batch, and the tensors that the backward pass needs again.

    Raises:
        UserError: the pass is run again by activation checkpointing.
    """
    if runs_again():
        raise UserError(
            "a compiled online norm was run again by activation checkpointing, which would move its state twice; do "
            "without torch.compile or checkpointing, or keep the norms out of the compiled graph: "
            "OnlineNorm2d.forward = torch.compiler.disable(OnlineNorm2d.forward)"
        )
    weight, bias, *settings = rest
    options, backend = _read(*settings)
    m, var = m.clone(), var.clone()
    out, saved = choose_backend(x, backend).forward(x, _affine(weight, bias), m, var, options)
    return _apart(out, m, var, *saved)


@_forward.register_fake
def _(x: Tensor, m: Tensor, var: Tensor, u: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    options, backend = _read(*rest[2:])
    saved = choose_backend(x, backend).empty_saved(x, options)
    return [torch.empty_like(value) for value in (x, m, var, *saved)]


@torch.library.custom_op(
    "anysize::online_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor[] saved, Tensor u, Tensor v, "
    f"{_SETTINGS}) -> Tensor[]",
)
def _backward(grad: Tensor, x: Tensor, *rest: Any) -> list[Tensor]:
    """The gradient of x, u and v after the batch, and the gradients of weight and bias."""
    weight, bias, saved, u, v, *settings = rest
    options, backend = _read(*settings)
    u, v = u.clone(), v.clone()
    of_x, of_affine = choose_backend(x, backend).backward(grad, x, _affine(weight, bias), tuple(saved), u, v, options)
    return _apart(of_x, u, v, *(of_affine or ()))


@_backward.register_fake
def _(grad: Tensor, x: Tensor, *rest: Any) -> list[Tensor]:
    weight, bias, _, u, v, *_ = rest
    return [torch.empty_like(value) for value in (x, u, v, weight, bias) if value is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, _, _, u, v, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, weight, bias, *output[3:])
    # Not saved: a module that is called twice moves u and v on in one backward pass before the other.
    ctx.state = u, v


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    x, weight, bias, *saved = ctx.saved_tensors
    u, v = ctx.state
    grad = grads[0]
    assert grad is not None
    of_x, u_after, v_after, *affine = _backward(in_order_of(x, grad), x, weight, bias, saved, u, v, *ctx.settings)
    u.copy_(u_after)
    v.copy_(v_after)
    return of_x, None, None, None, None, *(affine or (None, None)), *(None for _ in ctx.settings)


_forward.register_autograd(_differentiate, setup_context=_keep)


@functools.lru_cache(maxsize=256)
def _read(*settings: Any) -> tuple[Options, str]:
    *values, backend = settings
    return Options(*values), backend


def _affine(weight: Tensor | None, bias: Tensor | None) -> Affine:
    return None if weight is None or bias is None else (weight, bias)


def _apart(*tensors: Tensor) -> list[Tensor]:
    """The tensors, copied where they share memory: the results of an operator must not."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        address = tensor.untyped_storage().data_ptr()
        shared = address in seen or tensor.data_ptr() != address  # a part of a larger tensor
        result.append(tensor.clone() if shared else tensor)
        seen.add(address)
    return result
