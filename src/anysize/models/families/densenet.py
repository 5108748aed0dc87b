"""DenseNet-201 with and without Elastic layers.

Networks: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, arXiv 1608.06993. Elastic
layers: Wang et al., ELASTIC, arXiv 1812.05262. Names and order of the parameters are the published checkpoints'.
The plain network is torchvision's under another name of the last norm (`norm5` there, `norm_final` here).

Where this differs from the published code:
- any size of 29 pixels or more works, in elastic networks odd feature maps, too, and the average at the end is over all
  positions, not over the first 7x7. At 224 pixels nothing changes.
- norms are plain `BatchNorm2d`. Theirs leaves the running statistics alone in a forward pass without gradients, so that
  recomputation does not update them twice.
- no layer is recomputed of itself to save memory; activation checkpointing does that for any network.

As published, an elastic layer whose feature maps are exactly 7 high works at one resolution, which is so in the last
block at 224 pixels. A graph that torch.export makes for any size keeps which blocks do, and refuses other heights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.blocks.convolution import start_convolutions
from anysize.models.blocks.scales import ScaleSum, half_resolution
from anysize.models.checks import whole_number, whole_numbers
from anysize.models.families import COCO, register
from anysize.registry import UserError

SINGLE_SCALE_HEIGHT = 7
"""Height of the feature maps of elastic layers that work at one resolution."""

_halve, _merge = half_resolution(), ScaleSum()  # without state


# Functions that torch.fx takes as they are, since the height decides what they do.
@torch.fx.wrap
def _halve_unless_seven(x: Tensor) -> Tensor:
    return x if x.shape[2] == SINGLE_SCALE_HEIGHT else _halve(x)


@torch.fx.wrap
def _merge_unless_seven(full: Tensor, low: Tensor) -> Tensor:
    return full + low if full.shape[2] == SINGLE_SCALE_HEIGHT else _merge(full, low)


class HalveUnlessSeven(nn.Module):
    """Half the resolution of (N, C, H, W), unless H is 7.

    >>> halve = HalveUnlessSeven()
    >>> halve(torch.zeros(1, 4, 9, 7)).shape, halve(torch.zeros(1, 4, 7, 9)).shape
    (torch.Size([1, 4, 5, 4]), torch.Size([1, 4, 7, 9]))
    """

    def forward(self, x: Tensor) -> Tensor:
        return _halve_unless_seven(x)


class ScaleSumUnlessSeven(ScaleSum):
    """`ScaleSum` of branches of which one began with `HalveUnlessSeven`: where H is 7, both are (N, C, 7, W)."""

    def forward(self, full: Tensor, low: Tensor) -> Tensor:
        return _merge_unless_seven(full, low)


class DenseLayer(nn.Module):
    """`growth` new feature maps: (N, inputs, H, W) to (N, growth, H, W)."""

    def __init__(self, inputs: int, growth: int, width: int, dropout: float) -> None:
        super().__init__()
        self._add_layers(inputs, growth, width, dropout)

    def _add_layers(self, inputs: int, growth: int, width: int, dropout: float) -> None:
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)  # one module a call, as quantization and export need
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.dropout(self.conv2(self.relu2(self.norm2(x))))  # type: ignore[no-any-return]


class ElasticDenseLayer(DenseLayer):
    """A `DenseLayer` in two branches of half the width, one at half the resolution; the other has the dropout."""

    def __init__(self, inputs: int, growth: int, width: int, dropout: float) -> None:
        nn.Module.__init__(self)
        width //= 2
        self.halve = HalveUnlessSeven()
        self.merge = ScaleSumUnlessSeven()
        self.conv1_d = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2_d = nn.BatchNorm2d(width)
        self.relu2_d = nn.ReLU(inplace=True)
        self.conv2_d = nn.Conv2d(width, growth, 3, padding=1, bias=False)
        self._add_layers(inputs, growth, width, dropout)  # last, as in the published checkpoints

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm1(x))
        low = self.conv2_d(self.relu2_d(self.norm2_d(self.conv1_d(self.halve(x)))))
        full = self.dropout(self.conv2(self.relu2(self.norm2(self.conv1(x)))))
        return self.merge(full, low)  # type: ignore[no-any-return]


class DenseBlock(nn.Sequential):
    """Layers that each see the input and what all layers before them made: (N, C, H, W) to (N, C + L growth, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = torch.cat((x, layer(x)), 1)
        return x


class DenseNet(nn.Module):
    """A DenseNet with bottlenecks and compression: images (N, in_channels, H, W) to logits (N, num_classes).

    Options are named as in torchvision's `DenseNet`.

    Args:
        num_classes, in_channels: of the data.
        elastic: every layer has a branch at half resolution.
        block_config: layers of the four blocks.
        growth_rate: feature maps that a layer adds.
        num_init_features: channels of the first convolution.
        bn_size: width of a layer's bottleneck over its growth.
        drop_rate: probability of dropping a value of a layer's output.

    Raises:
        UserError: an option that is no positive number, an elastic bottleneck of odd width, or a drop rate outside
            of 0 to 1.

    >>> model = DenseNet(10, elastic=True, block_config=(1, 1, 1, 1), growth_rate=4, num_init_features=8)
    >>> model(torch.zeros(2, 3, 75, 50)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *,
        elastic: bool = False, block_config: Sequence[int] = (6, 12, 48, 32), growth_rate: int = 32,
        num_init_features: int = 64, bn_size: int = 4, drop_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        blocks = whole_numbers("block_config", block_config, (6, 12, 48, 32))
        growth = whole_number("growth_rate", growth_rate, 32)
        channels = whole_number("num_init_features", num_init_features, 64)
        width = growth * whole_number("bn_size", bn_size, 4)
        if not 0 <= drop_rate < 1:
            raise UserError(f"drop_rate is {drop_rate}; expected a probability from 0 to below 1")
        if elastic and width % 2:
            odd = f"growth_rate {growth} times bn_size {bn_size} is odd"
            raise UserError(f"{odd}; expected an even width for two branches")
        layer = ElasticDenseLayer if elastic else DenseLayer
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, padding=1))
        for i, count in enumerate(blocks, start=1):
            block = DenseBlock()
            for j in range(1, count + 1):
                block.add_module(f"denselayer{j}", layer(channels, growth, width, drop_rate))
                channels += growth
            self.features.add_module(f"denseblock{i}", block)
            if i < len(blocks):
                self.features.add_module(f"transition{i}", _transition(channels))
                channels //= 2
        self.features.add_module("norm_final", nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)
        start_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.relu(self.features(x)))))  # type: ignore[no-any-return]


def _transition(channels: int) -> nn.Sequential:
    """Half the channels at half the resolution, rounded down."""
    transition = nn.Sequential()
    transition.add_module("norm", nn.BatchNorm2d(channels))
    transition.add_module("relu", nn.ReLU(inplace=True))
    transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
    transition.add_module("pool", nn.AvgPool2d(2))
    return transition


@register("densenet201", others={"multilabel": COCO}, weights="densenet201")
def densenet201(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> DenseNet:
    """DenseNet-201."""
    return DenseNet(num_classes, in_channels, **options)


@register("densenet201_elastic", others={"multilabel": COCO})
def densenet201_elastic(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> DenseNet:
    """DenseNet-201 with Elastic layers."""
    return DenseNet(num_classes, in_channels, **{"elastic": True, "block_config": (10, 20, 40, 30), **options})
