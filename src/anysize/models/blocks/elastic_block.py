"""The residual block with a second branch at half resolution that `elasticize` puts in the place of another one.

After ELASTIC (arXiv 1812.05262, section 3), named as in its checkpoints: the branch at full resolution is `conv1, bn1,
conv2, ...`, the one at half resolution `conv1_d, bn1_d, conv2_d, ...`, and one last norm stands on the sum of both.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from anysize.models.blocks.scales import ScaleSum, half_resolution


class ElasticResidualBlock(nn.Module):
    """Two convolutions a branch (basic) or three (bottleneck): (N, C, H, W) to (N, C', H, W).

    Args:
        full, low: the convolutions of the branches at full and at half resolution.
        full_norms, low_norms: the norms after all but the last convolution of each.
        last_norm: the norm on the sum.
        downsample: the shortcut; None: the input as it is.
        dropout: before the last convolution of a branch.
        activation: after each norm, in a copy of its own.

    """

    def __init__(
        self, full: Sequence[nn.Conv2d], low: Sequence[nn.Conv2d],
        full_norms: Sequence[nn.Module], low_norms: Sequence[nn.Module], last_norm: nn.Module,
        downsample: nn.Module | None, dropout: nn.Module, activation: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.depth = len(full)
        self.halve = half_resolution()
        self._add_branch("_d", low, low_norms, copy.deepcopy(dropout), activation)
        self._add_branch("", full, full_norms, dropout, activation)
        self.merge = ScaleSum()
        self.add_module(f"bn{self.depth}", last_norm)
        self.downsample = nn.Identity() if downsample is None else downsample
        self.add_module(f"relu{self.depth}", copy.deepcopy(activation))

    def _add_branch(
        self, suffix: str, convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.Module],
        dropout: nn.Module, activation: nn.Module,
    ) -> None:  # fmt: skip
        for i, convolution in enumerate(convolutions, start=1):
            self.add_module(f"conv{i}{suffix}", convolution)
        for i, norm in enumerate(norms, start=1):
            self.add_module(f"bn{i}{suffix}", norm)
            self.add_module(f"relu{i}{suffix}", copy.deepcopy(activation))
        self.add_module(f"dropout{suffix}", dropout)

    def _branch(self, x: Tensor, suffix: str) -> Tensor:
        for i in range(1, self.depth):
            for layer in ("conv", "bn", "relu"):
                x = self.get_submodule(f"{layer}{i}{suffix}")(x)
        x = self.get_submodule(f"dropout{suffix}")(x)
        return self.get_submodule(f"conv{self.depth}{suffix}")(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        low = self._branch(self.halve(x), "_d")
        out = self.get_submodule(f"bn{self.depth}")(self.merge(self._branch(x, ""), low))
        return self.get_submodule(f"relu{self.depth}")(out + self.downsample(x))  # type: ignore[no-any-return]
