"""Convolutions that pad as TensorFlow does, in the graph of a model that is exported to ONNX.

timm's convolutions compute their padding from the image's sides. Traced with sides that are not known yet, each one
nests a term around those before it, and an export takes minutes. ONNX has a word for such padding.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from anysize.models.surgery.fold_layers import is_same_padded


@contextlib.contextmanager
def padded_by_runtime(model: nn.Module) -> Iterator[None]:
    """Within this context convolutions of `model` that pad as TensorFlow does leave that to the runtime of the graph.

    Only to be run by an exporter: what they are replaced by is a word of the graph, and computes nothing.
    """
    found = [module for module in model.modules() if is_same_padded(module) and "forward" not in vars(module)]
    for module in found:
        module.forward = functools.partial(_forward, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _forward(module: Any, images: Tensor) -> Any:
    return conv2d(images, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """A convolution (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride)); seen as one by who follows calls."""
    arguments = input, weight, bias, stride, padding, dilation, groups
    if has_torch_function(arguments[:2]):
        return handle_torch_function(conv2d, arguments[:2], *arguments)
    sides = [(side + step - 1) // step for side, step in zip(input.shape[2:], stride, strict=True)]
    attributes: dict[str, Any] = {
        "auto_pad": "SAME_UPPER",
        "strides": list(stride),
        "dilations": list(dilation),
        "kernel_shape": list(weight.shape[2:]),
        "group": groups,
    }
    return torch.onnx.ops.symbolic(
        "Conv",
        [input, weight, bias],
        attributes,
        dtype=input.dtype,
        shape=(input.shape[0], weight.shape[0], *sides),
    )
