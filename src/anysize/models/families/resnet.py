"""Residual networks that torchvision does not have: for small images, of any depth, widths and groups, with gates.

Those for images of about 32 pixels have three stages of post-activation basic blocks (He et al., arXiv 1512.03385,
section 4.2) as the authors of Mix & Match (arXiv 1908.08986) trained them: the shortcut is a projection (1x1
convolution and batch norm) wherever the shape changes, the last norm of each block starts at zero, so that each block
starts as its shortcut, and the classifier starts small. The networks of Online Normalization (arXiv
1905.05894) start otherwise: `zero_init_residual=False, classifier_std=0`. ResNeXt: Xie et al., arXiv 1611.05431.
docs/models.md tells which name of the published code of Mix & Match is which here.
"""

from typing import Any

from anysize.models.blocks.residual import ResidualNet, imagenet_options, small_image_options
from anysize.models.families import CIFAR, register


@register("cifar_resnet", preprocessing=CIFAR)
def cifar_resnet(num_classes: int = 10, in_channels: int = 3, depth: int = 20, **options: Any) -> ResidualNet:
    """A ResNet for 32-pixel images of any depth and widths."""
    return _small(num_classes, in_channels, depth, options)


@register("wide_resnet28_10", preprocessing=CIFAR)
def wide_resnet28_10(num_classes: int = 10, in_channels: int = 3, **options: Any) -> ResidualNet:
    """A ten times wider ResNet-28 for 32-pixel images, post-activation: 36.5 million parameters."""
    return _small(num_classes, in_channels, 28, {"widths": (160, 320, 640), **options})


def _register(depth: int) -> None:
    def builder(num_classes: int = 10, in_channels: int = 3, **options: Any) -> ResidualNet:
        return _small(num_classes, in_channels, depth, options)

    builder.__doc__ = f"ResNet-{depth} for 32-pixel images."
    register(f"resnet{depth}", preprocessing=CIFAR)(builder)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    _register(_depth)


@register("cifar_resnet_se", preprocessing=CIFAR)
def cifar_resnet_se(num_classes: int = 10, in_channels: int = 3, depth: int = 44, **options: Any) -> ResidualNet:
    """A ResNet for 32-pixel images with squeeze-excite gates on its shortcuts, one gate a stage."""
    return _small(num_classes, in_channels, depth, {"squeeze_excite": True, **options})


@register("cifar_resnext", preprocessing=CIFAR)
def cifar_resnext(num_classes: int = 10, in_channels: int = 3, depth: int = 44, **options: Any) -> ResidualNet:
    """A ResNet for 32-pixel images with grouped convolutions: 4, 8 and 16 groups of 64, 128 and 256 channels."""
    return _small_grouped(num_classes, in_channels, depth, options)


@register("cifar_resnext_se", preprocessing=CIFAR)
def cifar_resnext_se(num_classes: int = 10, in_channels: int = 3, depth: int = 44, **options: Any) -> ResidualNet:
    """The grouped ResNet for 32-pixel images with squeeze-excite gates on its shortcuts."""
    return _small_grouped(num_classes, in_channels, depth, {"squeeze_excite": True, **options})


@register("imagenet_resnet")
def imagenet_resnet(num_classes: int = 1000, in_channels: int = 3, depth: int = 50, **options: Any) -> ResidualNet:
    """A ResNet of depth 18, 34, 50, 101, 152 or 200, of any widths, groups and expansion."""
    return _large(num_classes, in_channels, depth, options)


@register("resnet200")
def resnet200(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResidualNet:
    """ResNet-200: 64.7 million parameters."""
    return _large(num_classes, in_channels, 200, options)


@register("resnet50_se")
def resnet50_se(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResidualNet:
    """ResNet-50 with squeeze-excite gates on its shortcuts, one gate a stage (not SENet's, on each branch)."""
    return _large(num_classes, in_channels, 50, {"squeeze_excite": True, **options})


@register("resnext50_se")
def resnext50_se(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResidualNet:
    """ResNeXt-50 32x4d with squeeze-excite gates on its shortcuts, one gate a stage (not SENet's, on each branch)."""
    return _large_grouped(num_classes, in_channels, 50, {"squeeze_excite": True, **options})


@register("resnext101_32x4d", weights="timm:resnext101_32x4d")
def resnext101_32x4d(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> ResidualNet:
    """ResNeXt-101 32x4d."""
    return _large_grouped(num_classes, in_channels, 101, options)


def _small(num_classes: int, in_channels: int, depth: int, options: dict[str, Any]) -> ResidualNet:
    return ResidualNet(num_classes=num_classes, in_channels=in_channels, **{**small_image_options(depth), **options})


def _small_grouped(num_classes: int, in_channels: int, depth: int, options: dict[str, Any]) -> ResidualNet:
    return _small(num_classes, in_channels, depth, {"widths": (64, 128, 256), "groups": (4, 8, 16), **options})


def _large(num_classes: int, in_channels: int, depth: int, options: dict[str, Any]) -> ResidualNet:
    return ResidualNet(num_classes=num_classes, in_channels=in_channels, **{**imagenet_options(depth), **options})


def _large_grouped(num_classes: int, in_channels: int, depth: int, options: dict[str, Any]) -> ResidualNet:
    own = {"widths": (128, 256, 512, 1024), "groups": 32, "expansion": 2}
    return _large(num_classes, in_channels, depth, {**own, **options})
