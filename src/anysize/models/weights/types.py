"""Whether the numbers of a file's tensor are of a kind that a model's tensor takes."""

import torch
from torch import Tensor

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def unlike(value: Tensor, own: Tensor) -> str:
    """How the numbers of `value` are of another kind than those of the model's `own`, in words; empty: they are not.

    Floating-point numbers of 16 bits and more are taken for one another. Complex numbers would lose a half, and whole
    numbers or floating-point numbers of 8 bits stand for others by a scale that the tensor does not tell.

    >>> unlike(torch.ones(1, dtype=torch.float16), torch.ones(1))
    ''
    >>> unlike(torch.ones(1, dtype=torch.int8), torch.ones(1))
    "holds whole numbers (torch.int8), the model's torch.float32"
    """
    whole = not (own.is_floating_point() or own.is_complex()) and _kind(value) in ("whole numbers", "truth values")
    if value.dtype == own.dtype or value.dtype in _FLOATS or whole:
        return ""
    return f"holds {_kind(value)} ({value.dtype}), the model's {own.dtype}"


def _kind(value: Tensor) -> str:
    if value.is_complex():
        return "complex numbers"
    if value.is_floating_point():
        return f"floating-point numbers of {8 * value.element_size()} bits or less"
    if value.dtype is torch.bool:
        return "truth values"
    try:
        torch.iinfo(value.dtype)
    except TypeError:
        return "what is no number"
    return "whole numbers"
