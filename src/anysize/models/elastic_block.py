"""Residual blocks with a second branch at half resolution, for networks that are given one by `elasticize`.

After ELASTIC (arXiv 1812.05262, section 3), named as in its checkpoints: the branch at full resolution is `conv1, bn1,
conv2, ...`, the one at half resolution `conv1_d, bn1_d, conv2_d, ...`, and one last norm stands on the sum of both.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from anysize.models.scales import ScaleSum, half_resolution


class ElasticBasicBlock(nn.Module):
    """Two convolutions a branch: (N, C, H, W) to (N, C', H, W).

    Args:
        full, low: the two convolutions of the branches at full and at half resolution.
        full_norms, low_norms: the norm after the first convolution of each.
        last_norm: the norm on the sum.
        downsample: the shortcut; None: the input as it is.
        dropout: before the last convolution of a branch.
        activation: after each norm, in a copy of its own.

    >>> import torch
    >>> from anysize.models.elasticize import elasticize
    >>> from anysize.models.factory import create_model
    >>> model = create_model("resnet8")
    >>> _ = elasticize(model, stages=["layer1"])
    >>> type(model.layer1[0]).__name__, model.layer1[0](torch.zeros(2, 16, 9, 7)).shape
    ('ElasticBasicBlock', torch.Size([2, 16, 9, 7]))
    """

    def __init__(
        self,
        full: Sequence[nn.Conv2d],
        low: Sequence[nn.Conv2d],
        full_norms: Sequence[nn.Module],
        low_norms: Sequence[nn.Module],
        last_norm: nn.Module,
        downsample: nn.Module | None,
        dropout: nn.Module,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.halve = half_resolution()
        self.conv1_d, self.conv2_d = low
        (self.bn1_d,) = low_norms
        self.relu1_d = copy.deepcopy(activation)
        self.dropout_d = copy.deepcopy(dropout)
        self.conv1, self.conv2 = full
        (self.bn1,) = full_norms
        self.relu1 = copy.deepcopy(activation)
        self.dropout = dropout
        self.merge = ScaleSum()
        self.bn2 = last_norm
        self.downsample = nn.Identity() if downsample is None else downsample
        self.relu2 = copy.deepcopy(activation)

    def forward(self, x: Tensor) -> Tensor:
        low = self.conv2_d(self.dropout_d(self.relu1_d(self.bn1_d(self.conv1_d(self.halve(x))))))
        full = self.conv2(self.dropout(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.bn2(self.merge(full, low)) + self.downsample(x))  # type: ignore[no-any-return]


class ElasticBottleneck(nn.Module):
    """Three convolutions a branch: (N, C, H, W) to (N, C', H, W).

    Args:
        full, low: the three convolutions of the branches at full and at half resolution.
        full_norms, low_norms: the norms after the first and the second convolution of each.
        last_norm: the norm on the sum.
        downsample: the shortcut; None: the input as it is.
        dropout: before the last convolution of a branch.
        activation: after each norm, in a copy of its own.

    >>> import torch
    >>> from anysize.models.elasticize import elasticize
    >>> from anysize.models.factory import create_model
    >>> model = create_model("resnet50")
    >>> _ = elasticize(model, stages=["layer1"])
    >>> type(model.layer1[0]).__name__, model.layer1[0](torch.zeros(2, 64, 9, 7)).shape
    ('ElasticBottleneck', torch.Size([2, 256, 9, 7]))
    """

    def __init__(
        self,
        full: Sequence[nn.Conv2d],
        low: Sequence[nn.Conv2d],
        full_norms: Sequence[nn.Module],
        low_norms: Sequence[nn.Module],
        last_norm: nn.Module,
        downsample: nn.Module | None,
        dropout: nn.Module,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.halve = half_resolution()
        self.conv1_d, self.conv2_d, self.conv3_d = low
        self.bn1_d, self.bn2_d = low_norms
        self.relu1_d, self.relu2_d = copy.deepcopy(activation), copy.deepcopy(activation)
        self.dropout_d = copy.deepcopy(dropout)
        self.conv1, self.conv2, self.conv3 = full
        self.bn1, self.bn2 = full_norms
        self.relu1, self.relu2 = copy.deepcopy(activation), copy.deepcopy(activation)
        self.dropout = dropout
        self.merge = ScaleSum()
        self.bn3 = last_norm
        self.downsample = nn.Identity() if downsample is None else downsample
        self.relu3 = copy.deepcopy(activation)

    def forward(self, x: Tensor) -> Tensor:
        low = self.relu1_d(self.bn1_d(self.conv1_d(self.halve(x))))
        low = self.conv3_d(self.dropout_d(self.relu2_d(self.bn2_d(self.conv2_d(low)))))
        full = self.relu1(self.bn1(self.conv1(x)))
        full = self.conv3(self.dropout(self.relu2(self.bn2(self.conv2(full)))))
        return self.relu3(self.bn3(self.merge(full, low)) + self.downsample(x))  # type: ignore[no-any-return]


__all__ = ["ElasticBasicBlock", "ElasticBottleneck"]
