"""DenseNet-BC for images of about 32 pixels (Huang et al., arXiv 1608.06993): torchvision's but for the stem."""

from torch import nn
from torchvision.models import DenseNet

from anysize.models.families import CIFAR, register
from anysize.registry import UserError


@register("cifar_densenet", preprocessing=CIFAR)
def cifar_densenet(
    num_classes: int = 10, in_channels: int = 3, depth: int = 100, growth: int = 12, dropout: float = 0.0
) -> DenseNet:
    """DenseNet-BC for 32-pixel images: three dense blocks with bottlenecks, half of the channels between them.

    `depth` is 6n + 4, `growth` the channels that a layer adds, `dropout` the probability of dropping a value of them.

    >>> import torch
    >>> cifar_densenet(depth=22)(torch.zeros(2, 3, 24, 40)).shape
    torch.Size([2, 10])
    """
    layers, rest = divmod(depth - 4, 6)
    if layers < 1 or rest:
        raise UserError(f"depth is {depth}; expected 6n + 4 (10, 16, 22, ..., 100)")
    if growth < 1:
        raise UserError(f"growth is {growth}; expected at least 1")
    if not 0 <= dropout < 1:  # torchvision would say so in the first step of a training
        raise UserError(f"dropout is {dropout}; expected a probability from 0 up to, not including, 1")
    stem = 2 * growth
    model = DenseNet(growth, (layers,) * 3, stem, bn_size=4, drop_rate=dropout, num_classes=num_classes)
    model.features.conv0 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision starts its convolutions
    for name in ("norm0", "relu0", "pool0"):
        delattr(model.features, name)
    return model
