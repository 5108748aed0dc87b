"""ResNeXt with and without Elastic blocks, for classification and segmentation.

Wang, Kembhavi, Farhadi, Yuille, Rastegari: ELASTIC: Improving CNNs with Dynamic Scaling Policies, arXiv 1812.05262.
Every block has two branches of half the width whose sum is normalised once. In an elastic block one of them works at
half the resolution. Those without elastic blocks equal torchvision's and timm's ResNeXt with the branches joined. The
elastic ones have other numbers of blocks, so that FLOPs are about those of their twins; with the twin's `layers` they
are what the paper calls sElastic. Names and order of the parameters are the published checkpoints'.

The published segmentation networks compute each block twice in a training step (activation checkpointing), which
updates the running statistics twice, too. Here a block is computed once, with the momentum that two updates amount to.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anysize.models.blocks.aspp import ASPP, MOMENTUM, RATES
from anysize.models.blocks.convolution import start_convolutions
from anysize.models.blocks.output_stride import MULTI_GRID, stage_dilations
from anysize.models.blocks.two_branch import TwoBranch
from anysize.models.checks import branch_groups, whole_number, whole_numbers
from anysize.models.families import COCO, VOC, register
from anysize.registry import UserError

EXPANSION = 4
SQUEEZE = 16

SEGMENTATION_STEM_MOMENTUM = 0.05
SEGMENTATION_BLOCK_MOMENTUM = 1 - (1 - 0.05) ** 2  # 0.0975: two updates at 0.05 with the same batch


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the channels' averages (Hu et al., arXiv 1709.01507).

    torchvision's `SqueezeExcitation` under the published names: `fc1` and `fc2` are `conv1` and `conv2` here.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = nn.Conv2d(channels, max(1, channels // SQUEEZE), 1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(max(1, channels // SQUEEZE), channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.conv2(self.relu(self.conv1(self.pool(x)))))  # type: ignore[no-any-return]


class ResNeXtBlock(TwoBranch):
    """Two branches, a gate where wanted, and a shortcut: (N, inputs, H, W) to (N, 4 width, H / stride, W / stride)."""

    def __init__(
        self, inputs: int, width: int, groups: int, *, stride: int, squeeze_excite: bool, project: bool, **branch: Any
    ) -> None:
        outputs = EXPANSION * width
        super().__init__(inputs, outputs, width=width, groups=groups, stride=stride, **branch)
        self.selayer = SqueezeExcite(outputs) if squeeze_excite else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu3(self.selayer(self.branches(x)) + self.downsample(x))  # type: ignore[no-any-return]


class ElasticResNeXt(nn.Module):
    """A ResNeXt of two-branch blocks: images (N, in_channels, H, W) of any size to logits.

    Logits are (N, num_classes), or with `task="segmentation"` (N, num_classes, H, W): the last stages then keep the
    resolution with dilated convolutions, and their features go to `ASPP`. Training that head with batch norm needs two
    images a step or more.

    Args:
        layers: blocks of the four stages; for segmentation the last has at most 3.
        num_classes, in_channels: of the data.
        elastic: blocks of stride 1 in the first three stages have a branch at half resolution.
        squeeze_excite: a squeeze-excite gate in each block.
        task: "classification" or "segmentation".
        widths: channels inside each branch in the four stages; a stage returns four times as many.
        cardinality: groups of a block; each branch has half of them.
        stem: channels of the first convolution.
        small_images: the first convolution is 3x3 with stride 1 and no pooling follows, in place of 7x7 with stride 2.
        pooling: max pooling after the first convolution of 7x7; without it all stages see twice the resolution.
        output_stride: for segmentation, pixels of the image a feature (one side): stages that would go beyond keep the
            resolution, and each doubles the dilation of its blocks and of those behind it. 0: that of the third stage,
            so that the last alone is dilated: 16, without pooling 8, for small images 4.
        aspp_width: for segmentation, channels of each path of the head.
        aspp_rates: its three dilations. Empty: 6, 12, 18 where the last stage alone is dilated, twice as large for
            each other one that is: 12, 24, 36 at output stride 8 (DeepLab v3, section 4.1).
        aspp_momentum: of its batch norms. The published one averages over thousands of steps; short trainings want 0.1.

    Raises:
        UserError: layers or widths that are not four positive numbers, a cardinality that is odd or does not fit a
            width, an unknown task, an output stride that the stages cannot make, or an option of the head for
            segmentation with another task.

    >>> import torch
    >>> model = ElasticResNeXt((1, 1, 1, 1), 10, elastic=True, widths=(4, 8, 16, 32), stem=4, cardinality=8)
    >>> model(torch.zeros(2, 3, 63, 50)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, layers: Sequence[int], num_classes: int = 1000, in_channels: int = 3, *,
        elastic: bool = False, squeeze_excite: bool = False, task: str = "classification",
        widths: Sequence[int] = (64, 128, 256, 512), cardinality: int = 32, stem: int = 64,
        small_images: bool = False, pooling: bool = True, output_stride: int = 0,
        aspp_width: int = 256, aspp_rates: Sequence[int] = (), aspp_momentum: float = MOMENTUM,
    ) -> None:  # fmt: skip
        super().__init__()
        layers = whole_numbers("layers", layers, (3, 4, 6, 3))
        widths = whole_numbers("widths", widths, (64, 128, 256, 512))
        stem = whole_number("stem", stem, 64)
        groups = branch_groups(cardinality, widths)
        if task not in ("classification", "segmentation"):
            raise UserError(f"task is {task!r}; expected classification or segmentation")
        self.segmentation = task == "segmentation"
        if self.segmentation and layers[3] > len(MULTI_GRID):
            raise UserError(
                f"layers is {list(layers)}; for segmentation the last stage has at most {len(MULTI_GRID)} blocks, "
                f"whose dilations are {', '.join(map(str, MULTI_GRID))} times that of the stage"
            )
        if not self.segmentation and (output_stride or aspp_width != 256 or aspp_rates or aspp_momentum != MOMENTUM):
            raise UserError(
                "output_stride, aspp_width, aspp_rates and aspp_momentum are options of the head for segmentation, and "
                f"task is {task!r}; leave them out"
            )
        if not 0 < aspp_momentum <= 1:
            raise UserError(f"aspp_momentum is {aspp_momentum:g}; expected above 0, at most 1")
        stem_stride = 1 if small_images else 4 if pooling else 2
        dilations = stage_dilations(stem_stride, output_stride or stem_stride * (4 if self.segmentation else 8))
        self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, padding=3, bias=False)
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if pooling and not small_images else nn.Identity()
        inputs = stem
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            last = stage == 3
            sequence = nn.Sequential()
            for i in range(blocks):
                changes = i == 0 and stage > 0  # of such a block the branches never differ in scale
                block = ResNeXtBlock(
                    inputs, width, groups, squeeze_excite=squeeze_excite, project=i == 0,
                    stride=2 if changes and dilations[stage] == dilations[stage - 1] else 1,
                    dilation=dilations[stage] * (MULTI_GRID[i] if last and self.segmentation else 1),
                    elastic=elastic and not changes and not last,
                )  # fmt: skip
                sequence.append(block)
                inputs = EXPANSION * width
            self.add_module(f"layer{stage + 1}", sequence)
        if self.segmentation:
            rates = tuple(rate * dilations[3] // 2 for rate in RATES)
            if aspp_rates:
                rates = whole_numbers("aspp_rates", aspp_rates, RATES)
            width = whole_number("aspp_width", aspp_width, 256)
            self.aspp = ASPP(inputs, num_classes, width=width, rates=rates, momentum=aspp_momentum)
            _initialize_segmentation(self)
        else:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.fc = nn.Linear(inputs, num_classes)
            _initialize_classification(self)

    @property
    def head_modules(self) -> tuple[str, ...]:
        """The children that make the logits."""
        return ("aspp",) if self.segmentation else ("fc",)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        if self.segmentation:
            return F.interpolate(self.aspp(x), size=images.shape[-2:], mode="bilinear", align_corners=True)
        return self.fc(self.flatten(self.avgpool(x)))  # type: ignore[no-any-return]


def _initialize_classification(model: ElasticResNeXt) -> None:
    """Start as published: each block as its shortcut, whose projection starts as torch starts every convolution."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and "downsample" not in name:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ResNeXtBlock):
            nn.init.zeros_(module.bn3.weight)
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)


def _initialize_segmentation(model: ElasticResNeXt) -> None:
    """Start as published, each norm at one; norms outside the head get the momentum of the published networks."""
    start_convolutions(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.startswith("layer"):
            module.momentum = SEGMENTATION_BLOCK_MOMENTUM
    model.bn1.momentum = SEGMENTATION_STEM_MOMENTUM


def _register(name: str, layers: tuple[int, int, int, int], doc: str, weights: str = "", **fixed: bool) -> None:
    def builder(
        num_classes: int = 1000, in_channels: int = 3, task: str = "classification", **options: Any
    ) -> ElasticResNeXt:
        own: dict[str, Any] = {"layers": layers, **fixed, **options}
        return ElasticResNeXt(num_classes=num_classes, in_channels=in_channels, task=task, **own)

    builder.__doc__ = doc
    register(name, others={"multilabel": COCO, "segmentation": VOC}, weights=weights)(builder)


_register("resnext50", (3, 4, 6, 3), "ResNeXt-50 (32x4d) in two branches.", "resnext50_32x4d")
_register("resnext50_elastic", (6, 8, 5, 3), "ResNeXt-50 with Elastic blocks.", elastic=True)
_register("resnext101", (3, 4, 23, 3), "ResNeXt-101 (32x4d) in two branches.", "timm:resnext101_32x4d")
_register("resnext101_elastic", (12, 14, 20, 3), "ResNeXt-101 with Elastic blocks.", elastic=True)
_gated = "ResNeXt-50 (32x4d) with squeeze-excite gates."
_register("se_resnext50", (3, 4, 6, 3), _gated, "timm:seresnext50_32x4d", squeeze_excite=True)
_gated = "ResNeXt-50 with Elastic blocks and squeeze-excite."
_register("se_resnext50_elastic", (6, 8, 5, 3), _gated, elastic=True, squeeze_excite=True)
