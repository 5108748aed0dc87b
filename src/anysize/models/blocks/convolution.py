"""Convolutions: how they start, and one in the place of another, with other channels."""

import torch
from torch import nn


def start_convolutions(model: nn.Module) -> None:
    """Start the convolutions of a model for ReLUs behind them, by their outputs (He et al., arXiv 1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resized_convolution(old: nn.Conv2d, in_channels: int, out_channels: int, groups: int) -> nn.Conv2d:
    """A fresh convolution with the kernel, stride, padding, dilation, type and memory order of `old`.

    Its weights start with the same deviation. A bias is `old`'s where it has as many outputs, else it starts at zero.

    >>> resized_convolution(nn.Conv2d(3, 8, 3, stride=2, padding=1), 1, 8, groups=1)
    Conv2d(1, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    """
    kept = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    kept |= {"groups": groups, "bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    new = nn.Conv2d(in_channels, out_channels, **kept)
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std())
        if new.bias is not None and old.bias is not None:
            same = new.bias.shape == old.bias.shape
            new.bias.copy_(old.bias if same else torch.zeros_like(new.bias))
    if old.weight.is_contiguous(memory_format=torch.channels_last):
        new = new.to(memory_format=torch.channels_last)
    return new
