"""Residual networks for images of about 32 pixels (CIFAR): three stages, post-activation basic blocks.

After He et al., Deep Residual Learning, arXiv 1512.03385, section 4.2, as the authors of Mix & Match (arXiv 1908.08986)
trained them: the shortcut is a projection (1x1 convolution and batch norm) wherever the shape changes, the last norm of
each block starts at zero, so that each block starts as its shortcut, and the classifier starts small. The networks of
Online Normalization (arXiv 1905.05894) start otherwise: `zero_init_residual=False, classifier_std=0`. Parameters are
named as in torchvision's ResNet. The average over all positions at the end takes images of any size.
"""

from collections.abc import Sequence
from typing import Any

from anysize.models.blocks.residual import ResidualNet
from anysize.models.families import CIFAR, register
from anysize.registry import UserError


class CifarResNet(ResidualNet):
    """A residual network of `depth` layers for small images: (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        depth: 6n + 2 for n blocks a stage; 6n + 4 where the three projections are counted, as in Wide ResNets.
        num_classes, in_channels: of the data.
        widths: channels of the three stages; the second and third halve the resolution.
        stem: channels of the first convolution.
        dropout: probability of dropping a value between the two convolutions of a block.
        zero_init_residual: start each block as its shortcut.
        classifier_std: standard deviation of the classifier's first weights, with biases at zero; 0: weights and
            biases as torch starts every linear layer.

    Raises:
        UserError: a depth that is neither 6n + 2 nor 6n + 4, not three widths, or a negative deviation.

    >>> import torch
    >>> CifarResNet(depth=20)(torch.zeros(2, 3, 24, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        widths: Sequence[int] = (16, 32, 64),
        stem: int = 16,
        dropout: float = 0.0,
        zero_init_residual: bool = True,
        classifier_std: float = 0.01,
    ) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest not in (0, 2):
            raise UserError(f"depth is {depth}; expected 6n + 2 (8, 14, 20, ...) or, counting projections, 6n + 4")
        if len(widths) != 3:
            raise UserError(f"widths is {list(widths)}; expected the channels of three stages, such as [16, 32, 64]")
        super().__init__(
            (blocks,) * 3,
            num_classes,
            in_channels,
            widths=widths,
            expansion=1,
            stem=stem,
            small_images=True,
            dropout=dropout,
            zero_init_residual=zero_init_residual,
            classifier_std=classifier_std,
        )


@register("cifar_resnet", preprocessing=CIFAR)
def cifar_resnet(num_classes: int = 10, in_channels: int = 3, depth: int = 20, **options: Any) -> CifarResNet:
    """A ResNet for 32-pixel images of any depth and widths."""
    return CifarResNet(depth, num_classes, in_channels, **options)


@register("wide_resnet28_10", preprocessing=CIFAR)
def wide_resnet28_10(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
    """A ten times wider ResNet-28 for 32-pixel images, post-activation: 36.5 million parameters."""
    return CifarResNet(28, num_classes, in_channels, **{"widths": (160, 320, 640), **options})


def _register(depth: int) -> None:
    def builder(num_classes: int = 10, in_channels: int = 3, **options: Any) -> CifarResNet:
        return CifarResNet(depth, num_classes, in_channels, **options)

    builder.__doc__ = f"ResNet-{depth} for 32-pixel images."
    register(f"resnet{depth}", preprocessing=CIFAR)(builder)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _register(_depth)
