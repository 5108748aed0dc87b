"""Inception v2: GoogLeNet with batch norm (Ioffe and Szegedy, arXiv 1502.03167, appendix, figure 5).

The first convolution is a plain one, where the paper's is separable with a depth multiplier of 8. Pools and
convolutions with a stride are padded alike, so that images of any size are taken.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from anysize.models.blocks.convolution import start_convolutions
from anysize.models.families import register

# Channels: 1x1; 3x3 and before it; two 3x3 and before them; the pool and the channels behind it (0: as they come).
# Without a 1x1 convolution the module halves the resolution.
_MODULES: dict[str, tuple[int, tuple[int, int], tuple[int, int], tuple[str, int]]] = {
    "3a": (64, (64, 64), (64, 96), ("avg", 32)),
    "3b": (64, (64, 96), (64, 96), ("avg", 64)),
    "3c": (0, (128, 160), (64, 96), ("max", 0)),
    "4a": (224, (64, 96), (96, 128), ("avg", 128)),
    "4b": (192, (96, 128), (96, 128), ("avg", 128)),
    "4c": (160, (128, 160), (128, 160), ("avg", 96)),
    "4d": (96, (128, 192), (160, 192), ("avg", 96)),
    "4e": (0, (128, 192), (192, 256), ("max", 0)),
    "5a": (352, (192, 320), (160, 224), ("avg", 128)),
    "5b": (352, (192, 320), (192, 224), ("max", 128)),
}


class InceptionModule(nn.Module):
    """Four branches, or three and half the resolution: (N, inputs, H, W) to (N, outputs, H', W')."""

    def __init__(
        self, inputs: int, single: int, three: Sequence[int], double: Sequence[int], pool: tuple[str, int]
    ) -> None:
        super().__init__()
        stride = 1 if single else 2
        kind, behind = pool
        self.branch1 = Conv2dNormActivation(inputs, single, 1) if single else None
        self.branch2 = nn.Sequential(
            Conv2dNormActivation(inputs, three[0], 1), Conv2dNormActivation(three[0], three[1], 3, stride)
        )
        self.branch3 = nn.Sequential(
            Conv2dNormActivation(inputs, double[0], 1),
            Conv2dNormActivation(double[0], double[1], 3),
            Conv2dNormActivation(double[1], double[1], 3, stride),
        )
        pooled: nn.Module = nn.MaxPool2d(3, stride, padding=1) if kind == "max" else nn.AvgPool2d(3, stride, padding=1)
        self.branch4 = nn.Sequential(pooled, *([Conv2dNormActivation(inputs, behind, 1)] if behind else []))
        self.outputs = single + three[1] + double[1] + (behind or inputs)

    def forward(self, x: Tensor) -> Tensor:
        first = [] if self.branch1 is None else [self.branch1(x)]
        return torch.cat([*first, self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class InceptionV2(nn.Module):
    """Images (N, in_channels, H, W) of any size to logits (N, num_classes).

    >>> InceptionV2(num_classes=5)(torch.zeros(2, 3, 33, 50)).shape
    torch.Size([2, 5])
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Conv2dNormActivation(in_channels, 64, 7, 2),
            nn.MaxPool2d(3, 2, padding=1),
            Conv2dNormActivation(64, 64, 1),
            Conv2dNormActivation(64, 192, 3),
            nn.MaxPool2d(3, 2, padding=1),
        )
        inputs = 192
        self.inception = nn.Sequential()
        for name, channels in _MODULES.items():
            made = InceptionModule(inputs, *channels)
            self.inception.add_module(name, made)
            inputs = made.outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, num_classes)
        start_convolutions(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inception(self.stem(x))
        return self.fc(self.dropout(self.flatten(self.avgpool(x))))  # type: ignore[no-any-return]


@register("inception_v2")
def inception_v2(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0) -> InceptionV2:
    """Inception v2 (GoogLeNet with batch norm)."""
    return InceptionV2(num_classes, in_channels, dropout=dropout)
