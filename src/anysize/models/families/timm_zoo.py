"""Networks that timm keeps and torchvision does not, behind names of ours: `pip install 'anysize[zoo]'`.

Any other of timm's models is `timm:NAME`.
"""

from typing import Any

from torch import nn

from anysize.models.builders import timm_model
from anysize.models.families import register
from anysize.preprocessing import Preprocessing

_HALF = (0.5, 0.5, 0.5)

# Our name: timm's, and its input.
_NETWORKS = {
    "mobilenet_v1": ("mobilenetv1_100", Preprocessing(224, _HALF, _HALF, "bicubic")),
    "inception_resnet_v2": ("inception_resnet_v2", Preprocessing(299, _HALF, _HALF, "bicubic", crop_ratio=0.8975)),
}


def _register(ours: str, theirs: str, preprocessing: Preprocessing) -> None:
    def builder(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
        return timm_model(f"timm:{theirs}", num_classes, in_channels, options)

    builder.__doc__ = f"timm's {theirs} (needs the extra `zoo`)."
    register(ours, preprocessing=preprocessing, weights=f"timm:{theirs}")(builder)


for _ours, (_theirs, _preprocessing) in _NETWORKS.items():
    _register(_ours, _theirs, _preprocessing)
