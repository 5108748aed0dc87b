"""Second moments of what layers read: X X^T by layer, from which `rounding` knows what an error of a weight costs."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from anysize.models.surgery.quantization.placement import Layer

_IMAGES, _POSITIONS = 8, 128
"""Of a batch, and of an image, that are looked at, at most; neighbours say much the same."""
_LARGEST = 8192
"""Weights of one output, at most: the moments are a square of that side."""


class Moments:
    """Sums up the second moments of what each layer reads, while a model runs: an `OnLayer` that changes nothing.

    They are kept in float32, for those of all layers may be larger than the model: 0.5 GB of a ResNet-50.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def take(self, key: str) -> Tensor | None:
        """The sums (G, K, K) of a layer of G groups with K weights an output, which are given away.

        None for a layer that was not followed: one that is transposed, one- or three-dimensional, or very wide.
        """
        return self._sums.pop(key, None)

    def __call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        columns = _columns(layer.function, args, kwargs)
        if columns is not None:
            if layer.key in self._sums:
                self._sums[layer.key].baddbmm_(columns, columns.mT)
            else:
                self._sums[layer.key] = columns @ columns.mT
        return result


def _columns(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a layer multiplies its weights by, (G, K, L) at L positions."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    values, weight = given["input"].float(), given["weight"]
    if weight[0].numel() > _LARGEST:
        return None
    if function == "linear":
        flat: Tensor = values.reshape(-1, values.shape[-1])
        return flat[: _IMAGES * _POSITIONS].t()[None]
    padding = given.get("padding", 0)
    if function != "conv2d" or padding == "same":
        return None
    values, kernel, groups = values[:_IMAGES], weight.shape[2:], given.get("groups", 1)
    stride = _pair(given.get("stride", 1))
    positions = values[0, 0].numel() / (stride[0] * stride[1])
    leap = max(1, math.ceil(math.sqrt(positions / _POSITIONS)))  # all columns of all positions would take long
    stride = stride[0] * leap, stride[1] * leap
    if tuple(kernel) == (1, 1) and padding in (0, (0, 0), "valid"):
        columns = values[:, :, :: stride[0], :: stride[1]].flatten(2)
    else:
        padding = 0 if padding == "valid" else padding
        columns = F.unfold(values, kernel, given.get("dilation", 1), padding, stride)
    grouped: Tensor = columns.reshape(len(values), groups, weight[0].numel(), -1)
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)
