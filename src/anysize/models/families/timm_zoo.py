"""Networks that timm keeps and torchvision does not, behind names of ours: `pip install 'anysize[zoo]'`.

Any other of timm's models is `timm:NAME`.
"""

from typing import Any

from torch import nn

from anysize.models.builders import timm_model
from anysize.models.families import register
from anysize.preprocessing import Preprocessing

_HALF = (0.5, 0.5, 0.5)


def _register(ours: str, theirs: str, preprocessing: Preprocessing, differs: str = "", **own: Any) -> None:
    def builder(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
        return timm_model(f"timm:{theirs}", num_classes, in_channels, {**own, **options})

    builder.__doc__ = f"timm's {theirs}{differs} (needs the extra `zoo`)."
    register(ours, preprocessing=preprocessing, weights=f"timm:{theirs}", weights_options=_TIMMS if own else None)(
        builder
    )


_TIMMS = {"act_layer": "relu6"}
_register(
    "mobilenet_v1", "mobilenetv1_100", Preprocessing(224, _HALF, _HALF, "bicubic"), " with Mix & Match's ReLU",
    act_layer="relu",
)  # fmt: skip
_register("inception_resnet_v2", "inception_resnet_v2", Preprocessing(299, _HALF, _HALF, "bicubic", crop_ratio=0.8975))
