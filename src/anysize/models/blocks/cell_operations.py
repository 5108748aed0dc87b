"""The operations that cells are made of, by the names that DARTS (arXiv 1806.09055) gives them.

Parameters are named as in its code. That code takes even sides alone; here every operation with a stride gives
ceil(side / 2). A leading ReLU never works in place, since its input belongs to other operations, too.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Operation(nn.Module):
    """Layers in a row, named `op` as in the code of DARTS."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


def relu_conv_norm(inputs: int, outputs: int) -> Operation:
    """ReLU, 1x1 convolution, batch norm."""
    return Operation(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int = 1, inplace: bool = False) -> list[nn.Module]:
    """ReLU, depthwise and 1x1 convolution, batch norm."""
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    return [nn.ReLU(inplace), depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]


def _separable(kernel: int) -> Callable[[int, int], nn.Module]:
    """Twice over; the first depthwise convolution has the stride."""
    return lambda channels, stride: Operation(
        *_depthwise(channels, kernel, stride), *_depthwise(channels, kernel, 1, inplace=True)
    )


def _dilated(kernel: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, stride: Operation(*_depthwise(channels, kernel, stride, dilation=2))


class FactorizedReduce(nn.Module):
    """Half the resolution by two 1x1 convolutions with stride 2, the second one shifted by a position.

    (N, inputs, H, W) to (N, outputs, ceil(H / 2), ceil(W / 2)); beyond the edge of an odd side there are zeros.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))  # type: ignore[no-any-return]


def _skip(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


def _crossed(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
        nn.BatchNorm2d(channels),
    )


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "skip_connect": _skip,
    "avg_pool_3x3": lambda channels, stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "max_pool_3x3": lambda channels, stride: nn.MaxPool2d(3, stride, padding=1),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": _crossed,
}
"""Builders that take channels and stride."""
