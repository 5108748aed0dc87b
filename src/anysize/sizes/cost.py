"""The cost of a run, known before it starts: steps, samples and FLOPs by image size, from the FLOPs of one image.

A multiply-add counts as 2 FLOPs. Imports no torch: who asks brings the FLOPs of an image (`anysize.count_flops`).
"""

import dataclasses
from collections import Counter
from collections.abc import Callable

from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeBatch


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image: forward and backward."""

    forward: int
    backward: int = 0

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class SizeCost:
    """The part of a run at one size, with one batch size and number of copies, over all processes."""

    size: int
    batch_size: int
    copies: int
    steps: int
    samples: int
    flops: Flops

    @property
    def images(self) -> int:
        """Images trained: samples times copies."""
        return self.samples * self.copies

    @property
    def forward_flops(self) -> int:
        """FLOPs of all forward passes at this size."""
        return self.images * self.flops.forward

    @property
    def backward_flops(self) -> int:
        """FLOPs of all backward passes at this size."""
        return self.images * self.flops.backward

    @property
    def total_flops(self) -> int:
        """FLOPs of all passes at this size."""
        return self.images * self.flops.total


@dataclasses.dataclass(frozen=True)
class PlanCost:
    """The cost of a run over all processes, by size, and that of training at the base size alone."""

    sizes: tuple[SizeCost, ...]
    base: SizeCost

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return sum(part.steps for part in self.sizes)

    @property
    def samples(self) -> int:
        """Samples of the run, each copy of one not counted anew."""
        return sum(part.samples for part in self.sizes)

    @property
    def images(self) -> int:
        """Images of the run: samples times copies."""
        return sum(part.images for part in self.sizes)

    @property
    def total_flops(self) -> int:
        """FLOPs of the run."""
        return sum(part.total_flops for part in self.sizes)

    @property
    def ratio(self) -> float:
        """FLOPs of the run over those of as many epochs at the base size."""
        return self.total_flops / self.base.total_flops


def plan_cost(
    plan: BatchPlan, epochs: int, flops: Callable[[int], Flops], base: int | None = None, base_epochs: int = 0
) -> PlanCost:
    """Cost of `epochs` epochs of `plan`, without listing a batch.

    Args:
        plan: of any rank; the cost is that of all ranks.
        epochs: length of the run.
        flops: FLOPs of one image by size, such as `lambda size: count_flops(model, size)`; asked once a size.
        base: size (pixels) of the run to compare with; by default that of the last epoch's mixture.
        base_epochs: its length; 0: the same.

    Raises:
        UserError: as `BatchPlan`.

    >>> from anysize.sizes.batch_plan import SizeMix, SizeSchedule
    >>> plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=64)
    >>> cost = plan_cost(plan, epochs=200, flops=lambda size: Flops(forward=size**2))
    >>> cost.steps, round(cost.ratio, 3)
    (196200, 1.286)
    """
    base = base or plan.schedule.at(epochs - 1).mix.base
    parts, base_parts = _count(plan, epochs), _count(plan.at_size(base), base_epochs or epochs)
    by_size = {size: flops(size) for size in {part.size for part in (*parts, *base_parts)}}

    def costs(counts: dict[SizeBatch, tuple[int, int]]) -> tuple[SizeCost, ...]:
        return tuple(
            SizeCost(part.size, part.batch_size, part.copies, steps, samples, by_size[part.size])
            for part, (steps, samples) in counts.items()
        )

    return PlanCost(costs(parts), costs(base_parts)[0])


def _count(plan: BatchPlan, epochs: int) -> dict[SizeBatch, tuple[int, int]]:
    """Steps and samples of a run by size, batch size and copies; epochs of the same sizes are counted once."""
    first: dict[tuple[SizeBatch, ...], int] = {}
    repeats: Counter[tuple[SizeBatch, ...]] = Counter()
    for epoch in range(epochs):
        sizes = plan.sizes(epoch)
        repeats[sizes] += 1
        first.setdefault(sizes, epoch)
    total: dict[SizeBatch, tuple[int, int]] = {}
    for sizes, times in repeats.items():
        for part, steps, samples in plan.counts(first[sizes]):
            key = dataclasses.replace(part, share=0.0)  # the same size may have other shares in another phase
            done = total.get(key, (0, 0))
            total[key] = done[0] + times * steps, done[1] + times * samples
    return total
