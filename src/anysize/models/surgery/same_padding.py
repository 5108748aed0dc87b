"""Convolutions that pad as TensorFlow does, in a model that is exported.

timm's convolutions compute their padding from the image's sides, with numbers that are no integers. Traced with sides
that are not known yet, an export takes minutes, and its program cannot be stored. ONNX has a word for such padding; for
PyTorch it is computed with integers.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from anysize.models.surgery.fold_layers import is_same_padded
from anysize.models.surgery.onnx_words import is_writing_onnx


@contextlib.contextmanager
def padded_for_export(model: nn.Module) -> Iterator[None]:
    """Within this context convolutions of `model` that pad as TensorFlow does can be exported for any size."""
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
    if not is_writing_onnx():
        pads: list[Any] = []
        for i in (1, 0):  # the last dimension first
            reach = (weight.shape[2 + i] - 1) * dilation[i] + 1
            pad = torch.sym_max((sides[i] - 1) * stride[i] + reach - input.shape[2 + i], 0)
            pads += [pad // 2, pad - pad // 2]
        return F.conv2d(F.pad(input, pads), weight, bias, stride, padding, dilation, groups)
    attributes: dict[str, Any] = {
        "auto_pad": "SAME_UPPER",
        "strides": list(stride),
        "dilations": list(dilation),
        "kernel_shape": list(weight.shape[2:]),
        "group": groups,
    }
    shape = input.shape[0], weight.shape[0], *sides
    inputs = [input, weight, bias]
    return torch.onnx.ops.symbolic("Conv", inputs, attributes, dtype=input.dtype, shape=shape)
