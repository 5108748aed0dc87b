"""torchvision's segmentation networks under their names: DeepLab v3, FCN and Lite R-ASPP.

DeepLab v3: Chen et al., arXiv 1706.05587; FCN: Long et al., arXiv 1411.4038; Lite R-ASPP: Howard et al., arXiv
1905.02244. Parameters are named as in torchvision's, so that its published weights fit. Where torchvision returns a
dict, these return logits as every model here does. They are for `task="segmentation"` alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation

from anysize.models.blocks.aspp import RATES
from anysize.models.blocks.auxiliary import AuxiliaryOutputs
from anysize.models.builders import replace_first_convolution
from anysize.models.checks import whole_numbers
from anysize.models.families import register
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

PREPROCESSING = Preprocessing(image_size=520, resize="pad", crop_ratio=1.0)
"""torchvision evaluates whole images whose shorter side is resized to 520 pixels."""


class Features(nn.Module):
    """The layers of a classifier one after the other: images to the outputs of some of them, by name.

    torchvision's `IntermediateLayerGetter` as a module whose stages activation checkpointing finds.
    """

    def __init__(self, layers: Iterable[tuple[str, nn.Module]], wanted: Mapping[str, str]) -> None:
        super().__init__()
        for name, layer in layers:
            self.add_module(name, layer)
        self.wanted = dict(wanted)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.wanted:
                found[self.wanted[name]] = x
        return found


class SegmentationNetwork(nn.Module):
    """A backbone and its heads: images (N, C, H, W) of any size to logits (N, num_classes, H, W).

    In training `AuxiliaryOutputs`, logits twice, where there is an auxiliary head. `classifier` takes the features
    "out", or all of them where there are none of that name.
    """

    head_modules = ("classifier", "aux_classifier")

    def __init__(self, backbone: Features, classifier: nn.Module, aux_classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor) -> Tensor | AuxiliaryOutputs:
        features, sides = self.backbone(images), images.shape[-2:]

        def full_size(logits: Tensor) -> Tensor:
            return F.interpolate(logits, size=sides, mode="bilinear", align_corners=False)

        logits = full_size(self.classifier(features.get("out", features)))
        if self.training and self.aux_classifier is not None:
            return AuxiliaryOutputs(logits, full_size(self.aux_classifier(features["aux"])))
        return logits


def _build(name: str, num_classes: int, in_channels: int, task: str, **options: Any) -> SegmentationNetwork:
    if task != "segmentation":
        raise UserError(f"task is {task!r}; expected segmentation, which is all that this network is for")
    built = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    backbone = Features(built.backbone.named_children(), built.backbone.return_layers)
    model = SegmentationNetwork(backbone, built.classifier, getattr(built, "aux_classifier", None))
    if in_channels != 3:
        replace_first_convolution(model, in_channels)
    return model


def _set_output_stride(backbone: nn.Module, output_stride: int) -> None:
    """Let the third stage of torchvision's dilated ResNet halve the resolution again where 16 is wanted."""
    if output_stride not in (8, 16):
        raise UserError(f"output_stride is {output_stride!r}; expected 8 or 16")
    if output_stride == 8:
        return
    first = backbone.get_submodule("layer3.0")
    for convolution in (first.get_submodule("conv2"), first.get_submodule("downsample.0")):
        convolution.stride = (2, 2)  # type: ignore[assignment]
    for stage in ("layer3", "layer4"):
        for module in backbone.get_submodule(stage).modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                _dilate(module, max(1, module.dilation[0] // 2))


def _dilate(convolution: nn.Conv2d, rate: int) -> None:
    convolution.dilation = convolution.padding = (rate, rate)


def _register(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a builder of torchvision's network of this name."""

    def add(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        builder.__doc__ = f"torchvision's {name}, for segmentation."
        return register(name, preprocessing=PREPROCESSING, weights=name, backbone=name.partition("_")[2])(builder)

    return add


def _register_resnet(name: str) -> None:
    @_register(f"fcn_{name}")
    def fcn(
        num_classes: int = 21, in_channels: int = 3, task: str = "segmentation", *,
        aux_loss: bool = False, output_stride: int = 8,
    ) -> SegmentationNetwork:  # fmt: skip
        model = _build(f"fcn_{name}", num_classes, in_channels, task, aux_loss=aux_loss)
        _set_output_stride(model.backbone, output_stride)
        return model

    @_register(f"deeplabv3_{name}")
    def deeplabv3(
        num_classes: int = 21, in_channels: int = 3, task: str = "segmentation", *,
        aux_loss: bool = False, output_stride: int = 8, rates: Sequence[int] = (),
    ) -> SegmentationNetwork:  # fmt: skip
        model = _build(f"deeplabv3_{name}", num_classes, in_channels, task, aux_loss=aux_loss)
        _set_output_stride(model.backbone, output_stride)
        wanted = whole_numbers("rates", rates, RATES) if rates else [rate * 16 // output_stride for rate in RATES]
        dilated = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
        for convolution, rate in zip(dilated, wanted, strict=True):
            _dilate(convolution, rate)
        return model


_register_resnet("resnet50")
_register_resnet("resnet101")


@_register("deeplabv3_mobilenet_v3_large")
def deeplabv3_mobilenet_v3_large(
    num_classes: int = 21, in_channels: int = 3, task: str = "segmentation", *, aux_loss: bool = False
) -> SegmentationNetwork:
    return _build("deeplabv3_mobilenet_v3_large", num_classes, in_channels, task, aux_loss=aux_loss)


@_register("lraspp_mobilenet_v3_large")
def lraspp_mobilenet_v3_large(
    num_classes: int = 21, in_channels: int = 3, task: str = "segmentation"
) -> SegmentationNetwork:
    return _build("lraspp_mobilenet_v3_large", num_classes, in_channels, task)
