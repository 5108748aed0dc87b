"""The residual block of the Elastic networks: two branches of half the width, of which one may see half the resolution.

ELASTIC (Wang et al., arXiv 1812.05262, section 3): a layer keeps its FLOPs and gains a second scale, and what each
scale contributes is learned. ResNeXt and DLA share it.
"""

from torch import Tensor, nn

from anysize.models.blocks.scales import ScaleSum, half_resolution


class TwoBranch(nn.Module):
    """Two bottlenecks that are summed and then normalised once: (N, inputs, H, W) to (N, outputs, H', W').

    H' = ceil(H / stride). Where the block is not elastic, it equals one bottleneck of twice the width and groups.

    `width` is the channels inside each branch; groups, stride and dilation are those of its 3x3 convolution. With
    `elastic`, which needs stride 1, the branch whose layers end in `_d` works at half the resolution. Names and order
    of the parameters are the published checkpoints'.

    >>> import torch
    >>> block = TwoBranch(64, 256, width=64, groups=16, elastic=True)
    >>> block.branches(torch.zeros(1, 64, 7, 10)).shape
    torch.Size([1, 256, 7, 10])
    """

    def __init__(
        self, inputs: int, outputs: int, *,
        width: int, groups: int, stride: int = 1, dilation: int = 1, elastic: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        assert stride == 1 or not elastic, "the branches of an elastic block must leave at the same resolution"
        self.elastic = elastic

        def conv3x3() -> nn.Conv2d:
            return nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)

        if elastic:
            self.halve = half_resolution()
            self.merge = ScaleSum()
        self.conv1_d = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1_d = nn.BatchNorm2d(width)
        self.relu1_d = nn.ReLU(inplace=True)  # one module a call, as quantization and export need
        self.conv2_d = conv3x3()
        self.bn2_d = nn.BatchNorm2d(width)
        self.relu2_d = nn.ReLU(inplace=True)
        self.conv3_d = nn.Conv2d(width, outputs, 1, bias=False)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3()
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)  # on the sum
        self.relu3 = nn.ReLU(inplace=True)  # after the shortcut

    def branches(self, x: Tensor) -> Tensor:
        """The block without its shortcut and last activation."""
        low = self.halve(x) if self.elastic else x
        low = self.relu1_d(self.bn1_d(self.conv1_d(low)))
        low = self.conv3_d(self.relu2_d(self.bn2_d(self.conv2_d(low))))
        full = self.relu1(self.bn1(self.conv1(x)))
        full = self.conv3(self.relu2(self.bn2(self.conv2(full))))
        return self.bn3(self.merge(full, low) if self.elastic else full + low)  # type: ignore[no-any-return]
