"""Deep layer aggregation (DLA) with and without Elastic blocks, for classification and segmentation.

Networks: Yu, Wang, Shelhamer, Darrell: Deep Layer Aggregation, arXiv 1707.06484. Elastic blocks: Wang et al., ELASTIC,
arXiv 1812.05262. Names and order of the parameters are the published checkpoints', those without elastic blocks equal
timm's `dla60x` and `dla102x`.

Where this differs from the published code:
- any size works: the average at the end is over all positions, not over the first 7x7, and pooling of an odd side
  rounds up as the convolution beside it does. At 224 pixels nothing changes.
- segmentation returns the sides of the image, where the published network drops a row and a column and so needs odd
  sides. Odd sides give the published output.
- projections that feed nothing (see `Tree`) are frozen, so that no gradient is waited for.
- cardinality is an option of each network. There, building `dla102x_elastic` changes every DLA that is built later.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from anysize.models.blocks.convolution import start_convolutions
from anysize.models.blocks.scales import crop_like
from anysize.models.blocks.two_branch import TwoBranch
from anysize.models.checks import branch_groups, whole_number, whole_numbers
from anysize.models.families import COCO, VOC, register
from anysize.registry import UserError

CHANNELS = (16, 32, 128, 256, 512, 1024)

SEGMENTATION_LEVEL_MOMENTUM = 1 - (1 - 0.1) ** 2  # 0.19
"""Momentum in level0 to level5, which the published network computes twice a step, and so updates twice at 0.1."""


class PlainBlock(nn.Module):
    """A bottleneck with grouped convolution and a given shortcut: (N, inputs, H, W) to (N, outputs, H', W')."""

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int) -> None:
        super().__init__()
        width = outputs * cardinality // 32
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(x)) + residual)  # type: ignore[no-any-return]


class ElasticBlock(TwoBranch):
    """A block of two branches and a given shortcut: (N, inputs, H, W) to (N, outputs, H', W')."""

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int, elastic: bool) -> None:
        width, groups, elastic = outputs * cardinality // 32 // 2, cardinality // 2, elastic and stride == 1
        super().__init__(inputs, outputs, width=width, groups=groups, stride=stride, elastic=elastic)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.relu3(self.branches(x) + residual)  # type: ignore[no-any-return]


class Root(nn.Module):
    """Merge features by a 1x1 convolution; with `residual` the first of them is added, too."""

    def __init__(self, inputs: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.residual = residual

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.bn(self.conv(torch.cat(features, 1)))
        return self.relu(x + features[0] if self.residual else x)  # type: ignore[no-any-return]


class TreeDesign(NamedTuple):
    """The choices that all trees of a level share; `block` makes a block of (inputs, outputs, stride)."""

    block: Callable[[int, int, int], nn.Module]
    residual_root: bool
    dead_projections: bool


class Tree(nn.Module):
    """Blocks aggregated hierarchically: 2^depth of them, a `Root` for each two.

    (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)). A tree of depth 2 or more hands no shortcut
    to the trees below it, which make their own. Its projection feeds nothing: the published checkpoints have it, it is
    frozen, and with `dead_projections` it is computed.

    Args:
        design: of the level.
        depth, inputs, outputs, stride: of this tree.
        level_root: the roots take the tree's own input, too, at the resolution of its output.
        root_inputs: channels that the last root takes; 0: those of its two blocks.
    """

    def __init__(
        self, design: TreeDesign, depth: int, inputs: int, outputs: int, stride: int, *,
        level_root: bool = False, root_inputs: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        root_inputs = (root_inputs or 2 * outputs) + (inputs if level_root else 0)
        self.depth, self.level_root, self.dead_projections = depth, level_root, design.dead_projections
        self.tree1: nn.Module
        self.tree2: nn.Module
        if depth == 1:
            self.tree1 = design.block(inputs, outputs, stride)
            self.tree2 = design.block(outputs, outputs, 1)
            self.root = Root(root_inputs, outputs, design.residual_root)
        else:
            self.tree1 = Tree(design, depth - 1, inputs, outputs, stride)
            self.tree2 = Tree(design, depth - 1, outputs, outputs, 1, root_inputs=root_inputs + outputs)
        # Rounds up, as the convolution of stride 2 does.
        self.downsample = nn.MaxPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.project: nn.Module = nn.Identity()
        if inputs != outputs:
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
            self.project.requires_grad_(depth == 1)

    @property
    def checkpoint_children(self) -> tuple[str, ...]:
        """Names of the children that activation checkpointing may recompute apart."""
        return ("tree1", "tree2", "root") if self.depth == 1 else ("tree1", "tree2")

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        """`children` are features that the last root takes, too."""
        bottom = self.downsample(x)
        if self.level_root:
            children = (*children, bottom)
        if self.depth == 1:
            x1 = self.tree1(x, self.project(bottom))
            x2 = self.tree2(x1, x1)
            return self.root([x2, x1, *children])  # type: ignore[no-any-return]
        if self.dead_projections:
            self.project(bottom.detach())
        x1 = self.tree1(x)
        return self.tree2(x1, (*children, x1))  # type: ignore[no-any-return]


def _convolutions(inputs: int, outputs: int, stride: int, count: int) -> nn.Sequential:
    """`count` convolutions with norm and activation, named 0, 1, 2 and 3, 4, 5 and so on."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += Conv2dNormActivation(outputs if i else inputs, outputs, 3, 1 if i else stride)
    return nn.Sequential(*layers)


class DLA(nn.Module):
    """Deep layer aggregation: images (N, in_channels, H, W) of any size to logits (N, num_classes).

    Args:
        levels: convolutions of the first two levels, then the depth of the tree of each of the other four.
        num_classes, in_channels: of the data.
        elastic: two-branch blocks; those of stride 1 have a branch at half resolution, in all levels but the last.
        channels: of the six levels, of which all but the first halve the resolution.
        cardinality: groups of the 3x3 convolutions; their width is cardinality / 32 times that of the level.
        residual_root: each root adds its first feature.
        dead_projections: compute the projections that feed nothing, as published. False leaves them out: the same
            output for fewer FLOPs, but their running statistics stand still.

    Raises:
        UserError: levels or channels that are not six positive numbers, channels of a tree that are no multiple of 32,
            or a cardinality below 1, or odd for elastic blocks.

    >>> model = DLA((1, 1, 1, 2, 1, 1), 10, elastic=True, channels=(4, 8, 32, 32, 64, 64), cardinality=4)
    >>> model(torch.zeros(2, 3, 49, 34)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, levels: Sequence[int] = (1, 1, 1, 2, 3, 1), num_classes: int = 1000, in_channels: int = 3, *,
        elastic: bool = False, channels: Sequence[int] = CHANNELS, cardinality: int = 32,
        residual_root: bool = False, dead_projections: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        depths = whole_numbers("levels", levels, (1, 1, 1, 2, 3, 1))
        self.channels = channels = whole_numbers("channels", channels, CHANNELS)
        whole_number("cardinality", cardinality, 32)
        if any(width % 32 for width in channels[2:]):
            raise UserError(f"channels is {list(channels)}; expected multiples of 32 in the last four levels")
        if elastic:
            branch_groups(cardinality, ())
        self.base_layer = Conv2dNormActivation(in_channels, channels[0], 7)
        self.level0 = _convolutions(channels[0], channels[0], 1, depths[0])
        self.level1 = _convolutions(channels[0], channels[1], 2, depths[1])
        for level in range(2, 6):
            block: Callable[[int, int, int], nn.Module] = functools.partial(PlainBlock, cardinality=cardinality)
            if elastic:
                block = functools.partial(ElasticBlock, cardinality=cardinality, elastic=level < 5)
            design = TreeDesign(block, residual_root, dead_projections)
            tree = Tree(design, depths[level], channels[level - 1], channels[level], 2, level_root=level > 2)
            self.add_module(f"level{level}", tree)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels[5], num_classes, 1)
        self.flatten = nn.Flatten()
        start_convolutions(self)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Features (N, channels[i], ceil(H / 2^i), ceil(W / 2^i)) of the six levels."""
        x = self.base_layer(x)
        features = []
        for level in range(6):
            x = self.get_submodule(f"level{level}")(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.fc(self.avgpool(self.levels(x)[-1])))  # type: ignore[no-any-return]


def bilinear_upsampling(channels: int, factor: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution of each channel alone that starts as bilinear interpolation.

    (N, channels, H, W) to (N, channels, factor H, factor W), with an even factor. Its weights are trained unless they
    are frozen.

    >>> bilinear_upsampling(1)(torch.ones(1, 1, 3, 3))[0, 0, 2:4, 2:4].detach()
    tensor([[1., 1.],
            [1., 1.]])
    """
    assert factor % 2 == 0, "an odd factor would return a row and a column more"
    size = 2 * factor
    up = nn.ConvTranspose2d(channels, channels, size, factor, padding=factor // 2, groups=channels, bias=False)
    # w(i) = 1 - |i / f - c| with f = ceil(size / 2) and c = (2 f - 1 - f mod 2) / (2 f), as published; f is even here.
    centre = (2 * factor - 1) / (2 * factor)
    line = 1 - (torch.arange(size) / factor - centre).abs()
    with torch.no_grad():
        up.weight.copy_(torch.outer(line, line).expand_as(up.weight))
    return up


class IterativeAggregation(nn.Module):
    """Merge the coarser levels one after the other into the first, each time into what came out of the one before.

    `outputs` is the channels of every result, `inputs` those of the levels, finest first; `factors` tells how much
    coarser each level is than the first.
    """

    def __init__(self, outputs: int, inputs: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.count = len(inputs)
        for i, (channels, factor) in enumerate(zip(inputs, factors, strict=True)):
            projection = nn.Identity() if channels == outputs else Conv2dNormActivation(channels, outputs, 1)
            self.add_module(f"proj_{i}", projection)
            self.add_module(f"up_{i}", nn.Identity() if factor == 1 else bilinear_upsampling(outputs, factor))
        for i in range(1, self.count):
            self.add_module(f"node_{i}", Conv2dNormActivation(2 * outputs, outputs, 3))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The merged levels in the order in which they come about; the last one has seen all."""
        raised = [self.get_submodule(f"up_{i}")(self.get_submodule(f"proj_{i}")(levels[i])) for i in range(self.count)]
        x = raised[0]
        merged: list[Tensor] = []
        for i in range(1, self.count):
            x = self.get_submodule(f"node_{i}")(torch.cat((x, crop_like(raised[i], x)), 1))
            merged.append(x)
        return merged


class DlaUp(nn.Module):
    """Merge levels of 1, 1/2, 1/4, ... resolution, finest first, into one of the finest: (N, channels[0], H, W).

    >>> levels = [torch.zeros(1, 4, 9, 7), torch.zeros(1, 8, 5, 4), torch.zeros(1, 16, 3, 2)]
    >>> DlaUp([4, 8, 16]).eval()(levels).shape
    torch.Size([1, 4, 9, 7])
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.count = len(channels)
        inputs, scales = list(channels), [2**i for i in range(self.count)]
        for i in range(self.count - 1):
            first = self.count - 2 - i
            factors = [scale // scales[first] for scale in scales[first:]]
            self.add_module(f"ida_{i}", IterativeAggregation(channels[first], inputs[first:], factors))
            inputs[first + 1 :] = [channels[first]] * (i + 1)
            scales[first + 1 :] = [scales[first]] * (i + 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        layers = list(levels)
        for i in range(self.count - 1):
            first = self.count - 2 - i
            layers[first + 1 :] = self.get_submodule(f"ida_{i}")(layers[first:])
        return layers[-1]


class DlaSegmentation(nn.Module):
    """DLA with its levels merged upwards: images (N, in_channels, H, W) to log-probabilities (N, num_classes, H, W).

    Log-probabilities, as published; as logits they give the same softmax and loss. `base.fc` is the classifier of 1000
    classes, which the published checkpoints have and nothing uses: it is frozen.
    """

    head_modules = ("dla_up", "fc")

    def __init__(self, base: DLA, num_classes: int) -> None:
        super().__init__()
        self.base = base
        self.base.fc.requires_grad_(False)
        self.dla_up = DlaUp(base.channels[1:])
        self.fc = nn.Sequential(nn.Conv2d(base.channels[1], num_classes, 1))
        self.up = bilinear_upsampling(num_classes).requires_grad_(False)
        self.log_softmax = nn.LogSoftmax(dim=1)
        start_convolutions(self)
        for name, module in base.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.startswith("level"):
                module.momentum = SEGMENTATION_LEVEL_MOMENTUM

    def forward(self, images: Tensor) -> Tensor:
        x = self.up(self.fc(self.dla_up(self.base.levels(images)[1:])))
        return self.log_softmax(crop_like(x, images))  # type: ignore[no-any-return]


def _register(name: str, doc: str, weights: str = "", **fixed: Any) -> None:
    def builder(
        num_classes: int = 1000, in_channels: int = 3, task: str = "classification", **options: Any
    ) -> DLA:  # which takes the options, and may stand inside a DlaSegmentation
        if task not in ("classification", "segmentation"):
            raise UserError(f"task is {task!r}; expected classification or segmentation")
        classes = num_classes if task == "classification" else 1000
        model = DLA(num_classes=classes, in_channels=in_channels, **{**fixed, **options})
        return model if task == "classification" else DlaSegmentation(model, num_classes)  # type: ignore[return-value]

    builder.__doc__ = doc
    register(name, others={"multilabel": COCO, "segmentation": VOC}, weights=weights)(builder)


_register("dla60x", "Deep layer aggregation of 60 layers.", "timm:dla60x")
_register("dla60x_elastic", "DLA-60 with Elastic blocks.", elastic=True)
_DLA102: dict[str, Any] = {"levels": (1, 1, 1, 3, 4, 1), "residual_root": True}
_register("dla102x", "Deep layer aggregation of 102 layers.", "timm:dla102x", **_DLA102)
_WIDER = {**_DLA102, "levels": (1, 1, 3, 3, 3, 1), "elastic": True, "cardinality": 50}
_register("dla102x_elastic", "DLA-102 with Elastic blocks.", **_WIDER)
