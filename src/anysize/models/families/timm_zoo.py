"""Networks that timm keeps and torchvision does not, behind names of ours: `pip install 'anysize[zoo]'`.

Any other of timm's models is `timm:NAME`.
"""

from typing import Any

from torch import nn

from anysize.models.families import register
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

_HALF = (0.5, 0.5, 0.5)

# Our name: timm's, and its input.
_NETWORKS = {
    "mobilenet_v1": ("mobilenetv1_100", Preprocessing(224, _HALF, _HALF, "bicubic")),
    "inception_resnet_v2": ("inception_resnet_v2", Preprocessing(299, _HALF, _HALF, "bicubic", crop_ratio=0.8975)),
}


def _timm_network(theirs: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"it is timm's {theirs}, and timm is not installed: pip install 'anysize[zoo]'") from None
    model: nn.Module = timm.create_model(theirs, num_classes=num_classes, in_chans=in_channels, **options)
    return model


def _register(ours: str, theirs: str, preprocessing: Preprocessing) -> None:
    def builder(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
        return _timm_network(theirs, num_classes, in_channels, options)

    builder.__doc__ = f"timm's {theirs} (needs the extra `zoo`)."
    register(ours, preprocessing=preprocessing)(builder)


for _ours, (_theirs, _preprocessing) in _NETWORKS.items():
    _register(_ours, _theirs, _preprocessing)
