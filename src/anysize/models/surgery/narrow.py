"""Strided 1 x 1 convolutions of few channels, made safe for training with channels last on a CPU.

Their backward pass in oneDNN writes past its workspace where they read fewer channels than the processor's vectors have
values: the process crashes, or gradients are wrong (https://github.com/uxlfoundation/oneDNN/issues/6035). It was seen
with torch 2.14, AVX-512, 4 to 12 channels and 48 pixels or more. A convolution of every other pixel gives the same.
"""

import torch
from torch import Tensor, nn

_VECTOR = 16  # float32 values in the longest vectors, of AVX-512


class NarrowConv2d(nn.Conv2d):
    """A 1 x 1 convolution that picks the pixels that its stride reads, and then has none."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return torch.conv2d(input[..., ::rows, ::columns], self.weight, self.bias)


def make_narrow_safe(model: nn.Module) -> list[str]:
    """Let the strided 1 x 1 convolutions of few channels compute another way, in place; returns their names.

    Parameters keep their names, and values are equal but for rounding.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, stride=2))
    >>> images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    >>> before = model(images)
    >>> make_narrow_safe(model), torch.allclose(model(images), before, atol=1e-6)
    (['1'], True)
    """
    found = []
    for name, module in model.named_modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.padding == (0, 0)
            and module.groups == 1
            and module.in_channels < _VECTOR
        ):
            module.__class__ = NarrowConv2d
            found.append(name)
    return found
