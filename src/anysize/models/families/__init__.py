"""One file a family of models. A new file here, with builders registered by `register`, is all that a new model takes.

A builder takes `num_classes` and `in_channels`, both with defaults, then options of its own, and returns a plain
`nn.Module` that maps images (N, C, H, W) to logits (N, num_classes). Where it takes `**options`, they are those of the
class that its return annotation names. One that has a head for segmentation takes `task`, too: "classification" or
"segmentation", with the default that tells what the network was made for; its logits then are (N, num_classes, H, W).
A class may name the children that are its head in an attribute `head_modules` (optimizer.head_lr); without one it is
the last linear layer. The first line of a builder's docstring is what `anysize models` shows.
"""

import dataclasses
from collections.abc import Callable, Mapping
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
"""Input of Online Normalization's networks; Mix & Match's take ImageNet's mean and deviation for CIFAR, too."""

COCO = Preprocessing(image_size=224, resize="stretch", crop_ratio=1.0)
VOC = Preprocessing(image_size=513, resize="pad", crop_ratio=1.0)
"""Input of the Elastic networks (arXiv 1812.05262) for the labels of MS-COCO and for the masks of PASCAL VOC."""

PUBLISHED_CLASSES = {"multilabel": 80, "segmentation": 21}
"""Number of classes by task of the networks that were published for it: MS-COCO's, and VOC's with the background."""


@dataclasses.dataclass(frozen=True)
class Published:
    """The input and the weights that a network of ours was published with; the data of a run decide otherwise.

    `preprocessing` is its input, `others` the input by task where it was published for other tasks, too. `weights` is
    the network of torchvision's, or `timm:NAME`, whose published weights are its own (after `weights.names.map_names`),
    `backbone` torchvision's classifier inside a network for segmentation. `weights_options` are those of our builder
    that make the network of the weights, where its defaults make another one.
    """

    preprocessing: Preprocessing
    others: Mapping[str, Preprocessing]
    weights: str
    backbone: str
    weights_options: Mapping[str, object]


PUBLISHED: dict[str, Published] = {}


def register(
    name: str, *, preprocessing: Preprocessing = IMAGENET, others: Mapping[str, Preprocessing] | None = None,
    weights: str = "", backbone: str = "", weights_options: Mapping[str, object] | None = None,
) -> "Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]":  # fmt: skip
    """Register the decorated builder under `name`, with what its network was published with; see `Published`."""
    PUBLISHED[name] = Published(preprocessing, others or {}, weights, backbone, weights_options or {})
    return MODELS.register(name)
