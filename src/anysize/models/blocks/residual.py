"""Residual networks whose shortcuts may pass a squeeze-excite gate, for images of about 32 and of about 224 pixels.

The variants that Mix & Match (arXiv 1908.08986) trains beside the plain networks: channels, groups and expansion a
stage, and gates on the *shortcut* where SENet (Hu et al., arXiv 1709.01507) has them on the branch. Parameters are
named as in torchvision's ResNet.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from anysize.models.blocks.convolution import start_convolutions
from anysize.models.checks import whole_number, whole_numbers
from anysize.registry import UserError

IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3),
}  # fmt: skip
"""Blocks a stage by depth (He et al., arXiv 1512.03385, table 1; 200: arXiv 1603.05027)."""

BASIC_DEPTHS = (18, 34)
"""Depths for ImageNet with basic blocks; the others have bottlenecks."""

Gate = Callable[[Tensor], Tensor]


class ResidualBlock(nn.Module):
    """Basic or bottleneck block: (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)).

    `inputs`, `width` and `outputs` are the channels before, inside and after the branch; `stride` is that of the first
    3x3 convolution. A bottleneck has one of 3x3 between two of 1x1, in the place of two of 3x3. `dropout` is the
    probability of dropping a value before the last convolution.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, *,
        stride: int = 1, groups: int = 1, bottleneck: bool = False, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        # One module a call, as quantization and export need, in torchvision's order.
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        middle, second_stride = (width, stride) if bottleneck else (outputs, 1)
        self.conv2 = nn.Conv2d(width, middle, 3, second_stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU(inplace=True)
        if bottleneck:
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
            self.relu3 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.bottleneck = bottleneck
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, gate: Gate | None = None) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.dropout(self.relu2(self.bn2(self.conv2(out))))))
        else:
            out = self.bn2(self.conv2(self.dropout(out)))
        return add_shortcut(self, out, x, gate)


def add_shortcut(block: Any, branch: Tensor, x: Tensor, gate: Gate | None) -> Tensor:
    """End a block: its shortcut of `x`, gated where there is a gate, is added to its branch and activated."""
    shortcut = block.downsample(x)
    if gate is not None:
        shortcut = gate(shortcut)
    last = block.relu3 if block.bottleneck else block.relu2
    return last(branch + shortcut)  # type: ignore[no-any-return]


class SharedGate(nn.Module):
    """A squeeze-excite gate (Hu et al., arXiv 1709.01507) of several blocks: they share weights, and not activations.

    Parameters are named as in torchvision's `SqueezeExcitation`. Each block calls activations of its own, as
    quantization and export need.
    """

    def __init__(self, channels: int, squeezed: int, blocks: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(blocks))
        self.sigmoids = nn.ModuleList(nn.Sigmoid() for _ in range(blocks))

    def forward(self, x: Tensor, block: int) -> Tensor:
        return self.sigmoids[block](self.fc2(self.relus[block](self.fc1(self.pool(x))))) * x  # type: ignore[no-any-return]


def start_gates(model: nn.Module) -> None:
    """Start the layers of each gate as torch starts linear layers, which they are in Mix & Match's code."""
    for module in model.modules():
        if isinstance(module, SharedGate):
            module.fc1.reset_parameters()
            module.fc2.reset_parameters()


class GatedStage(nn.Module):
    """Residual blocks that share one squeeze-excite gate on their shortcuts; blocks are named as in `nn.Sequential`."""

    def __init__(self, blocks: Sequence[nn.Module], channels: int, ratio: int = 16) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            self.add_module(str(i), block)
        self.blocks = len(blocks)
        self.se = SharedGate(channels, channels // ratio, self.blocks)

    @property
    def checkpoint_children(self) -> tuple[str, ...]:
        """Names of the children that activation checkpointing may recompute apart."""
        return tuple(map(str, range(self.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.blocks):
            x = self.get_submodule(str(i))(x, functools.partial(self.se, block=i))
        return x


def add_stages(
    net: nn.Module, blocks: Sequence[int], widths: Sequence[int], stem: int, expansion: int, squeeze_excite: bool,
    make_block: Callable[[int, int, int, int, int], nn.Module],
) -> int:  # fmt: skip
    """Add `layer1`, `layer2`, ... to a network of `stem` channels; returns the channels of the last one.

    `make_block` is called with the number of the stage from 0, and the block's inputs, width, outputs and stride.
    """
    inputs = stem
    for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        outputs = width * expansion
        made = [make_block(i, outputs if j else inputs, width, outputs, 2 if i and not j else 1) for j in range(count)]
        net.add_module(f"layer{i + 1}", GatedStage(made, outputs) if squeeze_excite else nn.Sequential(*made))
        inputs = outputs
    return inputs


def small_image_options(depth: int) -> dict[str, Any]:
    """Options of the class that make a network of `depth` layers for 32-pixel images.

    >>> small_image_options(44)["blocks"]
    (7, 7, 7)
    """
    count, rest = divmod(depth - 2, 6)
    if count < 1 or rest not in (0, 2):
        raise UserError(f"depth is {depth}; expected 6n + 2 (8, 14, 20, ...) or, counting projections, 6n + 4")
    return {"blocks": (count,) * 3, "widths": (16, 32, 64), "expansion": 1, "stem": 16, "small_images": True}


def imagenet_options(depth: int) -> dict[str, Any]:
    """Options of the class that make a network of `depth` layers for ImageNet."""
    if depth not in IMAGENET_BLOCKS:
        raise UserError(f"depth is {depth}; expected one of {', '.join(map(str, IMAGENET_BLOCKS))}")
    bottleneck = depth not in BASIC_DEPTHS
    return {"blocks": IMAGENET_BLOCKS[depth], "bottleneck": bottleneck, "expansion": 4 if bottleneck else 1}


class ResidualNet(nn.Module):
    """A residual network: images (N, in_channels, H, W) of any size to logits (N, num_classes).

    Args:
        blocks: blocks of each stage; each stage but the first halves the resolution.
        num_classes, in_channels: of the data.
        widths: channels inside the branches of each stage.
        expansion: channels after a block over those inside it.
        groups: of the 3x3 convolutions, the same for all stages or one number a stage.
        bottleneck: bottleneck blocks in the place of basic ones.
        stem: channels of the first convolution.
        small_images: start with a 3x3 convolution at full resolution, not with 7x7, stride 2 and a max pool.
        squeeze_excite: a gate on the shortcuts, one a stage, with a sixteenth of the channels inside.
        dropout: probability of dropping a value before the last convolution of a block.
        zero_init_residual: start each block as its shortcut.
        classifier_std: standard deviation of the classifier's first weights, with biases at zero; 0: as torch starts
            every linear layer.

    Raises:
        UserError: not one width and number of groups for each stage, groups that do not divide the widths, or a stem,
            width, expansion or number of groups that is no positive whole number.

    >>> import torch
    >>> net = ResidualNet((1, 1, 1), 10, widths=(16, 32, 64), expansion=1, stem=16, small_images=True)
    >>> net(torch.zeros(2, 3, 24, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, blocks: Sequence[int], num_classes: int = 1000, in_channels: int = 3, *,
        widths: Sequence[int] = (64, 128, 256, 512), expansion: int = 4, groups: int | Sequence[int] = 1,
        bottleneck: bool = False, stem: int = 64, small_images: bool = False, squeeze_excite: bool = False,
        dropout: float = 0.0, zero_init_residual: bool = True, classifier_std: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = whole_numbers("widths", widths, example=(64, 128, 256, 512)[: len(blocks)])
        expansion, stem = whole_number("expansion", expansion, example=4), whole_number("stem", stem, example=64)
        each = [groups] * len(blocks) if isinstance(groups, int) else groups
        grouping = whole_numbers("groups", each, example=(4, 8, 16, 32)[: len(blocks)])
        if any(width % group for width, group in zip(widths, grouping, strict=True)):
            raise UserError(f"groups {list(grouping)} do not divide the widths {list(widths)}")
        if classifier_std < 0:
            expected = "expected a standard deviation, or 0 for torch's start"
            raise UserError(f"classifier_std is {classifier_std}; {expected}")
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, stem, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        self.stages = len(blocks)

        def block(stage: int, inputs: int, width: int, outputs: int, stride: int) -> ResidualBlock:
            return ResidualBlock(
                inputs, width, outputs, stride=stride, groups=grouping[stage], bottleneck=bottleneck, dropout=dropout
            )

        inputs = add_stages(self, blocks, widths, stem, expansion, squeeze_excite, block)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, num_classes)
        start_convolutions(self)
        start_gates(self)
        for module in self.modules():
            if isinstance(module, ResidualBlock) and zero_init_residual:
                nn.init.zeros_((module.bn3 if bottleneck else module.bn2).weight)
        if classifier_std:
            nn.init.normal_(self.fc.weight, std=classifier_std)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)))  # type: ignore[no-any-return]
