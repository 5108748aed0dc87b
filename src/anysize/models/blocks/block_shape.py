"""The convolutions of a residual block, and those of two branches that together take as many FLOPs."""

import dataclasses
import math
from collections.abc import Sequence

from torch import nn

from anysize.models.blocks.convolution import resized_convolution
from anysize.registry import UserError

# Relative difference of a block's FLOPs up to which the more even split of its channels is preferred.
_TOLERANCE = 0.01
# Relative difference above which a block is not split at all.
_LIMIT = 0.03


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """The convolutions of a block: the first makes the middle channels, the last ends them.

    >>> basic = BlockShape([nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
    >>> basic.widths(), [conv.out_channels for conv in basic.branch(12)]
    ((12, 16), [12, 16])
    """

    convolutions: Sequence[nn.Conv2d]

    @property
    def middle(self) -> int:
        return self.convolutions[0].out_channels

    @property
    def group(self) -> int:
        """Channels of a group of the convolutions between; 0 where they are not grouped."""
        between = self.convolutions[1:-1]
        return self.middle // between[0].groups if between and between[0].groups > 1 else 0

    def macs(self, width: int) -> int:
        """Multiply-adds a position with `width` middle channels."""
        first, *between, last = self.convolutions
        total = first.in_channels * width * math.prod(first.kernel_size) // first.groups
        total += sum(width * (self.group or width) * math.prod(part.kernel_size) for part in between)
        return total + width * last.out_channels * math.prod(last.kernel_size) // last.groups

    def widths(self) -> tuple[int, int]:
        """Middle channels at full and at half resolution that together take the FLOPs of the block.

        As even a split as 1% of the FLOPs allows, in multiples of 8 channels where there are such, else of 4, 2 or 1.

        Raises:
            UserError: no two widths come within 3%.
        """
        wanted = self.macs(self.middle)
        near = []
        for unit in (8, 4, 2, 1):
            step = math.lcm(unit, self.group or 1, self.convolutions[0].groups, self.convolutions[-1].groups)
            for full in range(step, self.middle + 1, step):
                for low in range(step, self.middle + 1, step):
                    error = abs(self.macs(full) + self.macs(low) / 4 - wanted) / wanted
                    near.append((error > _TOLERANCE, abs(full - low) if error <= _TOLERANCE else error, full, low))
            if near and not min(near)[0]:
                break
        _, _, full, low = min(near, default=(True, 1.0, 0, 0))
        error = abs(self.macs(full) + self.macs(low) / 4 - wanted) / wanted
        if error > _LIMIT:
            groups = f" in {self.middle // self.group} groups" if self.group else ""
            raise UserError(
                f"its {self.middle} channels{groups} cannot be split at the same FLOPs: the nearest differ by "
                f"{error:.0%}; give it more of them, or leave its stage out"
            )
        return full, low

    def branch(self, width: int) -> list[nn.Conv2d]:
        """Fresh convolutions with `width` middle channels."""
        last = len(self.convolutions) - 1
        return [
            resized_convolution(
                old,
                old.in_channels if i == 0 else width,
                old.out_channels if i == last else width,
                width // self.group if self.group and 0 < i < last else old.groups,
            )
            for i, old in enumerate(self.convolutions)
        ]
