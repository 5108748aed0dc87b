"""One file a family of models. A new file here, with builders registered by `register`, is all that a new model takes.

A builder takes `num_classes` and `in_channels`, both with defaults, then options of its own, and returns a plain
`nn.Module` that maps images (N, C, H, W) to logits (N, num_classes). Where it takes `**options`, they are those of the
class that its return annotation names. One that has other heads takes `task`, too: "classification" (the default) or
"segmentation". The first line of its docstring is what `anysize models` shows.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from anysize.preprocessing import Preprocessing
from anysize.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: "Registry[nn.Module]" = Registry("model")

IMAGENET = Preprocessing(image_size=224)
CIFAR = Preprocessing(
    image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), resize="stretch", crop_ratio=1.0
)
"""Of Online Normalization's networks; those of Mix & Match take ImageNet's mean and deviation for CIFAR, too."""

EXPECTED: dict[str, Preprocessing] = {}
"""What each model of ours is fed with where it was published; the data of a run decide otherwise."""


def register(
    *names: str, preprocessing: Preprocessing = IMAGENET
) -> "Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]":
    """Register the decorated builder under each of `names`, with the input that its networks were published for."""
    EXPECTED.update(dict.fromkeys(names, preprocessing))
    return MODELS.register(*names)
