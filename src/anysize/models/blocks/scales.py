"""The two ends of a branch at half resolution, shared by every Elastic block (ELASTIC, arXiv 1812.05262, section 3).

    low = branch(half_resolution()(x))
    out = ScaleSum()(branch(x), low)

Any side works, odd ones too: the published code repeats the last row or column of an odd side before it averages, and
cuts the interpolated branch to the sides of the other one. A window of average pooling that hangs over the edge and
divides by what it really covers gives the same values without a copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def half_resolution() -> nn.AvgPool2d:
    """Average pooling (N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2)); the edge of an odd side counts once.

    >>> half_resolution()(torch.arange(6.0).view(1, 1, 2, 3))
    tensor([[[[2.0000, 3.5000]]]])
    """
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


def crop_like(x: Tensor, like: Tensor) -> Tensor:
    """The upper left part of (N, C, H', W') that has the sides of `like`, (N, C, H, W) with H <= H' and W <= W'.

    >>> crop_like(torch.zeros(1, 2, 6, 8), torch.zeros(1, 2, 5, 8)).shape
    torch.Size([1, 2, 5, 8])
    """
    height, width = like.shape[-2:]
    if torch.compiler.is_compiling():
        # A negative margin gives one graph for all sides; a slice gives one for even and another for odd ones.
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    return x[..., :height, :width]


class ScaleSum(nn.Module):
    """Add a branch at half resolution to one at full resolution.

    `full` is (N, C, H, W), `low` (N, C, ceil(H / 2), ceil(W / 2)). `low` is interpolated bilinearly to twice its size
    (`align_corners=False`) and cut to H x W. A module of its own, without parameters, so that a forward hook sees what
    either branch contributes.

    >>> ScaleSum()(torch.zeros(2, 8, 5, 7), torch.ones(2, 8, 3, 4)).mean()
    tensor(1.)
    """

    def forward(self, full: Tensor, low: Tensor) -> Tensor:
        low = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return full + crop_like(low, full)
