"""Networks of evolved or searched cells: the cell that a genotype describes, and the networks of cells.

A cell has two inputs, the outputs of the two cells before it. Each of its nodes adds two operations, each on an input
or on an earlier node; the nodes that the genotype names are concatenated. Parameters are named as in the code of
DARTS (Liu, Simonyan and Yang, arXiv 1806.09055), which tabulated the genotypes. Images of any size are taken.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from anysize.models.blocks.auxiliary import AuxiliaryOutputs
from anysize.models.blocks.cell_operations import OPERATIONS, FactorizedReduce, relu_conv_norm
from anysize.registry import UserError


class Genotype(NamedTuple):
    """A normal cell and one that halves the resolution: two (operation, input) a node, and the nodes that come out."""

    normal: Sequence[tuple[str, int]]
    normal_concat: Sequence[int]
    reduce: Sequence[tuple[str, int]]
    reduce_concat: Sequence[int]


class Cell(nn.Module):
    """One cell: two inputs (N, C, H, W), the first may have twice the sides, to (N, outputs, H', W').

    `before_last` and `last` are the channels of the two inputs, `channels` those of each node. With `reduction` the
    cell halves the resolution; with `reduced_before` the cell before did, so that the first input has twice the sides
    of the second. `drop_path` is the probability that an image's values on an edge are dropped; shortcuts at full
    resolution are kept.
    """

    def __init__(
        self, genotype: Genotype, before_last: int, last: int, channels: int, reduction: bool, reduced_before: bool,
        drop_path: float,
    ) -> None:  # fmt: skip
        super().__init__()
        edges = genotype.reduce if reduction else genotype.normal
        self.concat = genotype.reduce_concat if reduction else genotype.normal_concat
        first = FactorizedReduce if reduced_before else relu_conv_norm
        self.preprocess0: nn.Module = first(before_last, channels)
        self.preprocess1 = relu_conv_norm(last, channels)
        self._ops = nn.ModuleList(
            OPERATIONS[name](channels, 2 if reduction and source < 2 else 1) for name, source in edges
        )
        self.drops = nn.ModuleList(
            StochasticDepth(drop_path, "row") if drop_path and not isinstance(op, nn.Identity) else nn.Identity()
            for op in self._ops
        )
        self.sources = [source for _, source in edges]
        self.outputs = len(self.concat) * channels

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edges = [*zip(self._ops, self.drops, self.sources, strict=True)]
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            first, second = (drop(op(states[source])) for op, drop, source in (left, right))
            states.append(first + second)
        return torch.cat([states[i] for i in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """The classifier at two thirds of the depth, for training alone: (N, inputs, H, W) to (N, num_classes).

    Averages windows of 5/8 of each side to 2 x 2, which is DARTS's pool at the sides that it is written for (8 for
    CIFAR, 7 for ImageNet). DARTS's own head for ImageNet lacks the second norm, which its code calls a mistake.
    """

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(), FourWindows(),
            nn.Conv2d(inputs, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True),
            nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(x)))  # type: ignore[no-any-return]


class FourWindows(nn.Module):
    """Means over the four corner windows of 5/8 of each side: (N, C, H, W) to (N, C, 2, 2).

    >>> FourWindows()(torch.arange(7.0).view(1, 1, 1, 7))[0, 0]
    tensor([[2., 4.],
            [2., 4.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < 2:
            x = F.adaptive_avg_pool2d(x, (max(height, 2), max(width, 2)))
        sides = x.shape[-2:]
        kernel = [min(math.ceil(side * 5 / 8), side - 1) for side in sides]
        return F.avg_pool2d(x, kernel, [side - k for side, k in zip(sides, kernel, strict=True)])


class CellNet(nn.Module):
    """A network of cells: images (N, in_channels, H, W) of any size to logits (N, num_classes).

    In training, with an auxiliary classifier, to `AuxiliaryOutputs` of the logits and of that classifier's.

    Args:
        genotype: of its cells.
        num_classes, in_channels: of the data.
        init_channels: of the first cells' nodes; doubled at a third and at two thirds of the depth.
        layers: number of cells.
        auxiliary: train a classifier at two thirds of the depth, too.
        drop_path: probability that an image's values on an edge of a cell are dropped in training; constant, where
            DARTS raises it from 0 over the epochs.
        small_images: start at full resolution (CIFAR), not at an eighth of it (ImageNet).

    Raises:
        UserError: fewer than 3 layers, channels below 2, or a probability outside 0 to 1.
    """

    def __init__(
        self, genotype: Genotype, num_classes: int, in_channels: int = 3, *,
        init_channels: int, layers: int, auxiliary: bool = True, drop_path: float = 0.0, small_images: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if layers < 3 or init_channels < 2:
            raise UserError(f"layers is {layers} and init_channels {init_channels}; expected at least 3 and 2")
        if not 0 <= drop_path < 1:
            raise UserError(f"drop_path is {drop_path}; expected a probability from 0 up to, not including, 1")
        stem = 3 * init_channels if small_images else init_channels
        if small_images:
            self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem))
        else:
            self.stem0 = nn.Sequential(
                nn.Conv2d(in_channels, stem // 2, 3, 2, padding=1, bias=False), nn.BatchNorm2d(stem // 2),
                nn.ReLU(inplace=True), nn.Conv2d(stem // 2, stem, 3, 2, padding=1, bias=False), nn.BatchNorm2d(stem),
            )  # fmt: skip
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(stem, stem, 3, 2, padding=1, bias=False), nn.BatchNorm2d(stem)
            )
        self.small_images = small_images
        self.cells = nn.ModuleList()
        before_last = last = stem
        channels, reduced_before = init_channels, not small_images
        self.auxiliary_after = 2 * layers // 3
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            cell = Cell(genotype, before_last, last, channels, reduction, reduced_before, drop_path)
            self.cells.append(cell)
            reduced_before, before_last, last = reduction, last, cell.outputs
            if i == self.auxiliary_after:
                to_auxiliary = cell.outputs
        self.auxiliary_head = AuxiliaryHead(to_auxiliary, num_classes) if auxiliary else None
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor | AuxiliaryOutputs:
        if self.small_images:
            s0 = s1 = self.stem(x)
        else:
            s0 = self.stem0(x)
            s1 = self.stem1(s0)
        auxiliary = None
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if i == self.auxiliary_after and self.auxiliary_head is not None and self.training:
                auxiliary = self.auxiliary_head(s1)
        logits: Tensor = self.classifier(self.flatten(self.global_pooling(s1)))
        return logits if auxiliary is None else AuxiliaryOutputs(logits, auxiliary)
