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

from torch import Tensor, nn

from anysize.models.blocks.dla_tree import ElasticBlock, PlainBlock, Tree, TreeDesign
from anysize.models.blocks.dla_up import DlaUp, bilinear_upsampling, conv_norm
from anysize.models.blocks.scales import cut
from anysize.models.families import COCO, VOC, register
from anysize.models.options import branch_groups, whole_number, whole_numbers
from anysize.registry import UserError

CHANNELS = (16, 32, 128, 256, 512, 1024)

SEGMENTATION_LEVEL_MOMENTUM = 1 - (1 - 0.1) ** 2  # 0.19
"""Of level0 to level5: the published network computes them twice a step, and so updates twice at 0.1."""


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

    >>> import torch
    >>> model = DLA((1, 1, 1, 2, 1, 1), 10, elastic=True, channels=(4, 8, 32, 32, 64, 64), cardinality=4)
    >>> model(torch.zeros(2, 3, 49, 34)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        levels: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        elastic: bool = False,
        channels: Sequence[int] = CHANNELS,
        cardinality: int = 32,
        residual_root: bool = False,
        dead_projections: bool = True,
    ) -> None:
        super().__init__()
        depths = whole_numbers("levels", levels, (1, 1, 1, 2, 3, 1))
        self.channels = channels = whole_numbers("channels", channels, CHANNELS)
        whole_number("cardinality", cardinality, 32)
        if any(width % 32 for width in channels[2:]):
            raise UserError(f"channels is {list(channels)}; expected multiples of 32 in the last four levels")
        if elastic:
            branch_groups(cardinality, ())
        self.base_layer = conv_norm(in_channels, channels[0], 7)
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
        _initialize(self)

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
        _initialize(self)
        for name, module in base.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.startswith("level"):
                module.momentum = SEGMENTATION_LEVEL_MOMENTUM

    def forward(self, images: Tensor) -> Tensor:
        x = self.up(self.fc(self.dla_up(self.base.levels(images)[1:])))
        return self.log_softmax(cut(x, images))  # type: ignore[no-any-return]


def _convolutions(inputs: int, outputs: int, stride: int, count: int) -> nn.Sequential:
    """`count` convolutions with norm and activation, named 0, 1, 2 and 3, 4, 5 and so on."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += conv_norm(outputs if i else inputs, outputs, 3, 1 if i else stride)
    return nn.Sequential(*layers)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _register(
    name: str,
    levels: tuple[int, ...],
    doc: str,
    *,
    elastic: bool = False,
    cardinality: int = 32,
    residual_root: bool = False,
) -> None:
    def builder(
        num_classes: int = 1000,
        in_channels: int = 3,
        task: str = "classification",
        *,
        levels: Sequence[int] = levels,
        elastic: bool = elastic,
        channels: Sequence[int] = CHANNELS,
        cardinality: int = cardinality,
        residual_root: bool = residual_root,
        dead_projections: bool = True,
    ) -> nn.Module:
        if task not in ("classification", "segmentation"):
            raise UserError(f"task is {task!r}; expected classification or segmentation")
        model = DLA(
            levels,
            num_classes if task == "classification" else 1000,
            in_channels,
            elastic=elastic,
            channels=channels,
            cardinality=cardinality,
            residual_root=residual_root,
            dead_projections=dead_projections,
        )
        return model if task == "classification" else DlaSegmentation(model, num_classes)

    builder.__doc__ = doc
    register(name, others={"multilabel": COCO, "segmentation": VOC})(builder)


_register("dla60x", (1, 1, 1, 2, 3, 1), "Deep layer aggregation of 60 layers.")
_register("dla60x_elastic", (1, 1, 1, 2, 3, 1), "DLA-60 with Elastic blocks.", elastic=True)
_register("dla102x", (1, 1, 1, 3, 4, 1), "Deep layer aggregation of 102 layers.", residual_root=True)
_register(
    "dla102x_elastic",
    (1, 1, 3, 3, 3, 1),
    "DLA-102 with Elastic blocks.",
    elastic=True,
    cardinality=50,
    residual_root=True,
)
