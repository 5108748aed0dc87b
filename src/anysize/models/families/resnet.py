"""Residual networks that torchvision does not have: for small images, of any depth, widths and groups, with gates.

Those for images of about 32 pixels have three stages of post-activation basic blocks (He et al., arXiv 1512.03385,
section 4.2) as the authors of Mix & Match (arXiv 1908.08986) trained them: the shortcut is a projection (1x1
convolution and batch norm) wherever the shape changes, the last norm of each block starts at zero, so that each block
starts as its shortcut, and the classifier starts small. The networks of Online Normalization (arXiv
1905.05894) start otherwise: `zero_init_residual=False, classifier_std=0`. ResNeXt: Xie et al., arXiv 1611.05431.
docs/models.md tells which name of the published code of Mix & Match is which here.
"""

import functools
from typing import Any

from torch import nn

from anysize.models.blocks.residual import ResidualNet, imagenet_options, small_image_options
from anysize.models.families import CIFAR, IMAGENET, register


def register_depths(
    kind: type[nn.Module], name: str, doc: str, depth: int, *,
    small: bool = False, fixed: bool = False, weights: str = "", **own: Any,
) -> None:  # fmt: skip
    """Register a builder of networks of the class `kind`, for 32-pixel images where `small`, else for ImageNet.

    `depth` is the default of an option of the builder, or with `fixed` the only depth. `own` are options of the class.
    """
    classes, layers = (10, small_image_options) if small else (1000, imagenet_options)

    def any_depth(num_classes: int = classes, in_channels: int = 3, depth: int = depth, **options: Any) -> kind:  # type: ignore[valid-type]
        return kind(num_classes=num_classes, in_channels=in_channels, **{**layers(depth), **own, **options})

    def one_depth(num_classes: int = classes, in_channels: int = 3, **options: Any) -> kind:  # type: ignore[valid-type]
        return any_depth(num_classes, in_channels, depth, **options)

    builder = one_depth if fixed else any_depth
    builder.__doc__ = doc
    register(name, preprocessing=CIFAR if small else IMAGENET, weights=weights)(builder)


_small = functools.partial(register_depths, ResidualNet, small=True)
_large = functools.partial(register_depths, ResidualNet)

_ONE_GATE = "with squeeze-excite gates on its shortcuts, one gate a stage"
_GROUPS: dict[str, Any] = {"widths": (64, 128, 256), "groups": (4, 8, 16)}
_32X4D: dict[str, Any] = {"widths": (128, 256, 512, 1024), "groups": 32, "expansion": 2}

for _depth in (8, 14, 20, 32, 44, 56, 110):
    _small(f"resnet{_depth}", f"ResNet-{_depth} for 32-pixel images.", _depth, fixed=True)
_wide = "A ten times wider ResNet-28 for 32-pixel images, post-activation: 36.5 million parameters."
_small("wide_resnet28_10", _wide, 28, fixed=True, widths=(160, 320, 640))
_small("cifar_resnet", "A ResNet for 32-pixel images of any depth and widths.", 20)
_small("cifar_resnet_se", f"A ResNet for 32-pixel images {_ONE_GATE}.", 44, squeeze_excite=True)
_grouped = "A ResNet for 32-pixel images with grouped convolutions: 4, 8 and 16 groups of 64, 128 and 256 channels."
_small("cifar_resnext", _grouped, 44, **_GROUPS)
_gated = "The grouped ResNet for 32-pixel images with squeeze-excite gates on its shortcuts."
_small("cifar_resnext_se", _gated, 44, squeeze_excite=True, **_GROUPS)

_large("imagenet_resnet", "A ResNet of depth 18, 34, 50, 101, 152 or 200, of any widths, groups and expansion.", 50)
_large("resnet200", "ResNet-200: 64.7 million parameters.", 200, fixed=True)
_gated = f"{_ONE_GATE} (not SENet's, on each branch)."
_large("resnet50_se", f"ResNet-50 {_gated}", 50, fixed=True, squeeze_excite=True)
_large("resnext50_se", f"ResNeXt-50 32x4d {_gated}", 50, fixed=True, squeeze_excite=True, **_32X4D)
_large("resnext101_32x4d", "ResNeXt-101 32x4d.", 101, fixed=True, weights="timm:resnext101_32x4d", **_32X4D)
