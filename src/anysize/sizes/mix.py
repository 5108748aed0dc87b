"""Mixtures of image sizes, and what each size does with the computation that a smaller image leaves over.

A mixture gives each size its share of the *images* of an epoch. A budget rule then turns the sizes into batches that
cost about the same (Mix & Match, arXiv 1908.08986, section on B+ and D+): an image at half the base size costs a
quarter, so `B+` takes a batch four times as large and `D+` four augmented copies of each sample.

    >>> for part in SizeMix.named("D+", base=32).batches(batch_size=64):
    ...     print(part.size, part.share, part.batch_size, part.copies)
    32 0.3 64 1
    48 0.2 28 1
    24 0.3 64 2
    16 0.2 64 4
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from anysize.registry import UserError, did_you_mean, shown
from anysize.sizes.shapes import SQUARE, Aspect, Extent

NAMED = ("B+", "D+", "B+D+")  # the paper's mixtures, each named after its budget
BUDGETS = ("", *NAMED)  # what any mixture can fill its budget with
LARGEST_BASE = 2**14
"""The largest base size in pixels: one image of it takes 3 GiB. A mixture may go beyond it by half."""
_LARGEST = 2 * LARGEST_BASE
_MOST_COPIES = 2**20 - 1  # which random numbers tell apart

# Size over base and share of the images, in the order of the authors' tables (the last part takes what rounding
# leaves over). For bases other than the published ones the ratios are kept.
_CIFAR = ((1.0, 0.3), (1.5, 0.2), (0.75, 0.3), (0.5, 0.2))
_IMAGENET_224 = tuple((i / 7, 0.2 if i == 7 else 0.8 / 6) for i in range(4, 11))
_IMAGENET_144 = ((256, 0.1), (224, 0.1), (128, 0.6), (96, 0.2))  # mean 144; the budget is that of 224 px


@dataclasses.dataclass(frozen=True)
class SizeBatch:
    """One size of a mixture with its share of the images, its batch size and its augmented copies a sample.

    `aspect` is that of its images.
    """

    size: int
    share: float
    batch_size: int
    copies: int
    aspect: Aspect = dataclasses.field(default=SQUARE, repr=False)

    @property
    def extent(self) -> Extent:
        """The pixels of its images: the side of a square, or height and width."""
        return self.aspect.extent(self.size)


@dataclasses.dataclass(frozen=True)
class SizeMix:
    """Weights over image sizes and the rule that fills the budget.

    Args:
        weights: (size in pixels, share of the images) pairs; the shares are scaled to sum to 1.
        base: the size in pixels at which a batch has exactly the batch size and the copies asked for.
        budget: "" (every size alike), "B+" (batch size), "D+" (copies) or "B+D+" (both).

    Raises:
        UserError: no sizes, a size below 1, a share that is not positive, a size given twice, or an unknown budget.
    """

    weights: tuple[tuple[int, float], ...]
    base: int
    budget: str = ""

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise UserError(f"unknown budget {self.budget!r}: {did_you_mean(self.budget, NAMED)}")
        if not self.weights:
            raise UserError("a size mixture needs at least one size, received none")
        if not 0 < self.base <= _LARGEST:
            raise UserError(f"the base size is {shown(self.base)}; expected from 1 to {_LARGEST:,} pixels")
        sizes = [size for size, _ in self.weights]
        for size, share in self.weights:
            if size < 1 or not 0 < share < math.inf:
                raise UserError(f"size {shown(size)} has share {share}; expected a positive size and a positive share")
            if size > _LARGEST:
                raise UserError(f"size {shown(size)} is too large; expected at most {_LARGEST:,} pixels")
        if len(set(sizes)) != len(sizes):
            raise UserError(f"a size is given twice in {sizes}; add their shares up")

    @classmethod
    def named(cls, name: str, base: int = 32) -> "SizeMix":
        """A mixture of the paper: `B+`, `D+` or `B+D+` around a base size.

        Base 32 gives the CIFAR mixture (16, 24, 32, 48 px), 224 ImageNet's (128 to 320 px), 144 the fast ImageNet
        one (96 to 256 px, mean 144, with the budget of 224 px). Other bases below 112 keep CIFAR's ratios, larger
        ones ImageNet's.

        >>> SizeMix.named("B+", base=144).sizes
        (256, 224, 128, 96)
        """
        if name not in NAMED:
            raise UserError(f"unknown size mixture {name!r}: {did_you_mean(name, NAMED)}")
        if base == 144:
            return cls(_IMAGENET_144, 224, name)
        table = _CIFAR if base < 112 else _IMAGENET_224
        return cls(tuple((round(base * ratio), share) for ratio, share in table), base, name)

    @classmethod
    def fixed(cls, size: int, base: int | None = None, budget: str = "") -> "SizeMix":
        """Every image at one size.

        >>> SizeMix.fixed(32).batches(64)
        (SizeBatch(size=32, share=1.0, batch_size=64, copies=1),)
        """
        return cls(((size, 1.0),), base or size, budget)

    @classmethod
    def uniform(cls, sizes: Iterable[int], base: int, budget: str = "") -> "SizeMix":
        """Each of `sizes` with the same share of the images."""
        return cls(tuple((size, 1.0) for size in sizes), base, budget)

    @classmethod
    def custom(cls, weights: Mapping[int, float], base: int, budget: str = "") -> "SizeMix":
        """Your own shares, such as `{16: 0.2, 32: 0.8}`."""
        return cls(tuple(weights.items()), base, budget)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes in pixels, in the order of the table."""
        return tuple(size for size, _ in self.weights)

    def batches(self, batch_size: int, copies: int = 1) -> tuple[SizeBatch, ...]:
        """Batch size and copies of each size, for `batch_size` samples of `copies` copies at the base size.

        The rule is that of the authors' code: with `s = (base / size)**2` (both budgets: `base / size`), B+ takes
        `round(s * batch_size)` samples and D+ `max(1, round(s * copies))` copies. Where `s * copies < 1/2` even one
        copy costs more than twice the budget, so that the batch shrinks whatever the budget's name.
        """
        if batch_size < 1 or copies < 1:
            raise UserError(f"batch size {batch_size} with {copies} copies; expected both to be at least 1")
        total = sum(share for _, share in self.weights)
        return tuple(
            SizeBatch(size, share / total if abs(total - 1) > 1e-9 else share, *self._fill(size, batch_size, copies))
            for size, share in self.weights
        )

    def _fill(self, size: int, batch_size: int, copies: int) -> tuple[int, int]:
        grow_batch, grow_copies = "B+" in self.budget, "D+" in self.budget
        if not self.budget:
            return batch_size, copies
        scale = self.base / size
        if not (grow_batch and grow_copies):
            scale **= 2
        if scale * copies < 0.5:
            grow_batch, grow_copies = True, False
        filled = max(1, round(scale * copies)) if grow_copies else copies
        if filled > _MOST_COPIES:
            raise UserError(
                f"at {size} px the budget of {self.base} px is {filled:,} copies of a sample, more than "
                f"{_MOST_COPIES:,}; use larger sizes, or a smaller base"
            )
        return max(1, round(scale * batch_size)) if grow_batch else batch_size, filled
