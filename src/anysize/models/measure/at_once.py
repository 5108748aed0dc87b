"""Operations whose results on the meta device are known at once, where torch finds them by many others in Python.

Batch norm, ReLU and bilinear interpolation have no kernel for that device, and take nearly all of the time in which the
shapes of a convolutional network are found.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class ShapesAtOnce(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, results on the meta device have the same shapes, and are there sooner.

    >>> norm = torch.nn.BatchNorm2d(3, device="meta")
    >>> with ShapesAtOnce():
    ...     norm(torch.zeros(2, 3, 4, 5, device="meta")).shape
    torch.Size([2, 3, 4, 5])
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = _KNOWN.get(func)
        if known is not None and not kwargs and args[0].is_meta:
            result = known(*args)
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _batch_norm(x: Tensor, *vectors_and_rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    *vectors, training, _momentum, _eps = vectors_and_rest
    if not _fits(x, vectors):
        return None
    length = x.shape[1] if training else 0
    return torch.empty_like(x), x.new_empty(length), x.new_empty(length)


def _batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, *rest: Any
) -> tuple[Tensor | None, ...] | None:
    if not _fits(x, [weight]) or grad.shape != x.shape:
        return None
    of_x, of_weight, of_bias = rest[-1]
    vectors = (x.new_empty(x.shape[1]) if wanted else None for wanted in (of_weight, of_bias))
    return torch.empty_like(x) if of_x else None, *vectors


def _fits(x: Tensor, vectors: list[Tensor | None]) -> bool:
    """Whether batch norm takes this input; it says itself why it does not. In half precision it has its own types."""
    found = all(vector is None or (vector.shape, vector.dtype) == (x.shape[1:2], x.dtype) for vector in vectors)
    return found and x.dtype in (torch.float32, torch.float64)


def _relu_backward(grad: Tensor, x: Tensor, _threshold: float) -> Tensor | None:
    return torch.empty_like(grad) if (grad.shape, grad.dtype) == (x.shape, x.dtype) else None


def _bilinear(x: Tensor, sides: list[int], *_rest: Any) -> Tensor | None:
    if min(*sides, *x.shape) <= 0:
        return None
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    format_ = torch.channels_last if last else torch.contiguous_format
    return torch.empty(*x.shape[:2], *sides, dtype=x.dtype, device=x.device, memory_format=format_)


_KNOWN: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.threshold_backward.default: _relu_backward,
    aten.upsample_bilinear2d.default: _bilinear,
}
