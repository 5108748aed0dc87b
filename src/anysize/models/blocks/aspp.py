"""Atrous spatial pyramid pooling: the segmentation head of DeepLab v3 (Chen et al., arXiv 1706.05587, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 3e-4
"""Momentum of the head's batch norms in the published Elastic networks: statistics over thousands of steps."""

RATES = (6, 12, 18)
"""Dilations where the features are a sixteenth as large as the images; twice as large at an eighth (section 4.1)."""


class ASPP(nn.Module):
    """Dilated convolutions at several rates beside a global average: (N, inputs, H, W) to (N, num_classes, H, W).

    torchvision's `ASPP` names its parameters otherwise; these are the published checkpoints'.
    In training the global average gives each norm one value an image: batch norm needs two images or more.

    `width` is the channels of each of the five paths, `rates` the dilations of the three 3x3 convolutions, `momentum`
    that of the batch norms.

    >>> head = ASPP(32, 21, width=8).eval()
    >>> head(torch.zeros(1, 32, 5, 6)).shape
    torch.Size([1, 21, 5, 6])
    """

    def __init__(
        self, inputs: int, num_classes: int, *,
        width: int = 256, rates: Sequence[int] = RATES, momentum: float = MOMENTUM,
    ) -> None:  # fmt: skip
        super().__init__()

        def dilated(rate: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, width, 3, padding=rate, dilation=rate, bias=False)

        self.aspp1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.aspp2, self.aspp3, self.aspp4 = (dilated(rate) for rate in rates)
        self.aspp5 = nn.Conv2d(inputs, width, 1, bias=False)
        self.aspp1_bn, self.aspp2_bn, self.aspp3_bn, self.aspp4_bn, self.aspp5_bn, bn2 = (
            nn.BatchNorm2d(width, momentum=momentum) for _ in range(6)
        )
        self.relu1, self.relu2, self.relu3, self.relu4, self.relu5, self.relu6 = (
            nn.ReLU(inplace=True) for _ in range(6)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv2 = nn.Conv2d(5 * width, width, 1, bias=False)
        self.bn2 = bn2
        self.conv3 = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.relu1(self.aspp1_bn(self.aspp1(x)))
        x2 = self.relu2(self.aspp2_bn(self.aspp2(x)))
        x3 = self.relu3(self.aspp3_bn(self.aspp3(x)))
        x4 = self.relu4(self.aspp4_bn(self.aspp4(x)))
        x5 = self.relu5(self.aspp5_bn(self.aspp5(self.pool(x))))
        x = torch.cat((x1, x2, x3, x4, x5.expand_as(x1)), 1)  # interpolating one value would repeat it, too
        return self.conv3(self.relu6(self.bn2(self.conv2(x))))  # type: ignore[no-any-return]
