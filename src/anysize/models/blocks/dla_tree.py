"""The trees of deep layer aggregation (Yu et al., arXiv 1707.06484, section 3), of plain or Elastic blocks.

Names and order of the parameters are the published checkpoints' of ELASTIC (arXiv 1812.05262).
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from anysize.models.blocks.two_branch import TwoBranch


class PlainBlock(nn.Module):
    """A bottleneck with grouped convolution and a given shortcut: (N, inputs, H, W) to (N, outputs, H', W')."""

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int) -> None:
        super().__init__()
        width = _block_width(outputs, cardinality)
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
        width = _block_width(outputs, cardinality) // 2
        super().__init__(
            inputs, outputs, width=width, groups=cardinality // 2, stride=stride, elastic=elastic and stride == 1
        )

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.relu3(self.branches(x) + residual)  # type: ignore[no-any-return]


def _block_width(outputs: int, cardinality: int) -> int:
    return outputs * cardinality // 32


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


@dataclasses.dataclass(frozen=True)
class TreeDesign:
    """What all trees of a level share; `block` makes a block of (inputs, outputs, stride)."""

    block: Callable[[int, int, int], nn.Module]
    residual_root: bool
    dead_projections: bool


class Tree(nn.Module):
    """Blocks aggregated hierarchically: 2^depth of them, a `Root` for each two.

    (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride)).
    A tree of depth 2 or more hands no shortcut to the trees below it, which make their own. Its projection feeds
    nothing. It exists because the published checkpoints have it, is frozen, and with `dead_projections` is computed.

    Args:
        design: of the level.
        depth, inputs, outputs, stride: of this tree.
        level_root: the roots take the tree's own input, too, at the resolution of its output.
        root_inputs: channels that the last root takes; 0: those of its two blocks.
    """

    def __init__(
        self,
        design: TreeDesign,
        depth: int,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        level_root: bool = False,
        root_inputs: int = 0,
    ) -> None:
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
        """What activation checkpointing may recompute apart."""
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


__all__ = ["ElasticBlock", "PlainBlock", "Root", "Tree", "TreeDesign"]
