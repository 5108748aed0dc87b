"""The backends that compute Online Normalization, PyTorch, C++ and Triton, and the interface they share."""

from typing import Protocol

import torch
from torch import Tensor

from anysize.norms.online.options import Options

Affine = tuple[Tensor, Tensor] | None
"""Weight and bias, or their gradients, (C,) each in the dtype of the statistics; None where there are none."""

State = tuple[Tensor, Tensor, Tensor, Tensor]
"""m, var, u, v, (C,) each in float32 or float64."""

Saved = tuple[Tensor, ...]
"""Tensors that a forward pass keeps for its backward pass beside x, (N, C) or smaller."""


class Backend(Protocol):
    """The functions of a backend's module. All tensors are dense; x is contiguous or channels last."""

    def forward(self, x: Tensor, affine: Affine, m: Tensor, var: Tensor, options: Options) -> tuple[Tensor, Saved]:
        """Normalise x, (N, C, *), float32, float64, bfloat16 or float16; advances `m` and `var` in place.

        Returns the output, in x's dtype and memory format, and the tensors that `backward` needs again.
        """

    def backward(
        self, grad: Tensor, x: Tensor, affine: Affine, saved: Saved, u: Tensor, v: Tensor, options: Options
    ) -> tuple[Tensor, Affine]:
        """Gradients of x and of weight and bias; advances `u` and `v` in place.

        `grad` is the gradient of the output, in x's memory format; `x` and `affine` are as given to `forward`, `saved`
        is what it returned.
        """

    def empty_saved(self, x: Tensor, options: Options) -> Saved:
        """Tensors of the shapes and types that `forward` would save for x."""


def statistics_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the statistics of activations of `dtype`: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
