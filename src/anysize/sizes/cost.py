"""The cost of a run, known before it starts: steps, samples and FLOPs by image size, from the FLOPs of one image.

A multiply-add counts as 2 FLOPs. Imports no torch: who asks brings the FLOPs of an image (`anysize.count_flops`).
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

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
    """The part of a run at one size, with one batch size and number of copies, over all processes.

    `measured` images are those that went through the network to measure gradients of copies, each pass counted.
    """

    size: int
    batch_size: int
    copies: int
    steps: int
    samples: int
    flops: Flops
    measured: int = 0

    @property
    def images(self) -> int:
        """Images trained: samples times copies."""
        return self.samples * self.copies

    @property
    def forward_flops(self) -> int:
        """FLOPs of all forward passes at this size."""
        return (self.images + self.measured) * self.flops.forward

    @property
    def backward_flops(self) -> int:
        """FLOPs of all backward passes at this size."""
        return (self.images + self.measured) * self.flops.backward

    @property
    def total_flops(self) -> int:
        """FLOPs of all passes at this size."""
        return (self.images + self.measured) * self.flops.total


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
    def measured_flops(self) -> int:
        """FLOPs of the run that measure gradients of copies."""
        return sum(part.measured * part.flops.total for part in self.sizes)

    @property
    def total_flops(self) -> int:
        """FLOPs of the run."""
        return sum(part.total_flops for part in self.sizes)

    @property
    def ratio(self) -> float:
        """FLOPs of the run over those of as many epochs at the base size."""
        return self.total_flops / self.base.total_flops


class Measurements:
    """Which steps measure the gradients of copies, as optimizer.adapt_copies says: every so many steps of a size.

    Args:
        every: so many steps of a size with copies; 0: never.

    >>> from anysize.sizes.batch_plan import SizeBatch
    >>> measurements, part = Measurements(2), SizeBatch(14, batch_size=64, copies=4, share=1.0)
    >>> [measurements.passes(part) for _ in range(3)]
    [2, 0, 2]
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._seen: Counter[int] = Counter()

    def passes(self, part: SizeBatch) -> int:
        """How often the images of the next step, which is of this size, are computed to measure: by copy, and all."""
        if not self.every or part.copies == 1:
            return 0
        self._seen[part.size] += 1
        return 0 if (self._seen[part.size] - 1) % self.every else 2

    def skip(self, counts: Iterable[tuple[SizeBatch, int, int]]) -> None:
        """Pass over the steps of an epoch, given by its `BatchPlan.counts`."""
        self._seen.update({part.size: steps for part, steps, _ in counts if part.copies > 1})


def plan_cost(
    plan: BatchPlan,
    epochs: int,
    flops: Callable[[int], Flops],
    base: int | None = None,
    base_epochs: int = 0,
    *,
    last_steps: int | None = None,
    adapt_copies: int = 0,
) -> PlanCost:
    """Cost of `epochs` epochs of `plan`, without listing a batch.

    Args:
        plan: of any rank; the cost is that of all ranks.
        epochs: length of the run.
        flops: FLOPs of one image by size, such as `lambda size: count_flops(model, size)`; asked once a size.
        base: size (pixels) of the run to compare with; by default that of the last epoch's mixture.
        base_epochs: its length; 0: the same.
        last_steps: steps of the last epoch, which equal_flops cuts; None: all.
        adapt_copies: gradients of copies are measured every so many steps of a size, as `Measurements` says; 0: never.

    Raises:
        UserError: as `BatchPlan`.

    >>> from anysize.sizes.batch_plan import SizeMix, SizeSchedule
    >>> plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=64)
    >>> cost = plan_cost(plan, epochs=200, flops=lambda size: Flops(forward=size**2))
    >>> cost.steps, round(cost.ratio, 3)
    (196200, 1.286)
    """
    base = base or plan.schedule.at(epochs - 1).mix.base
    parts = _count(plan, epochs, last_steps, adapt_copies)
    base_parts = _count(plan.at_size(base), base_epochs or epochs, None, adapt_copies)
    by_size = {size: flops(size) for size in {part.size for part in (*parts, *base_parts)}}

    def costs(counts: _Counts) -> tuple[SizeCost, ...]:
        return tuple(
            SizeCost(part.size, part.batch_size, part.copies, steps, samples, by_size[part.size], measured)
            for part, (steps, samples, measured) in counts.items()
        )

    return PlanCost(costs(parts), costs(base_parts)[0])


_Counts = dict[SizeBatch, tuple[int, int, int]]
"""Steps, samples and images that are measured, by size, batch size and copies."""


def _count(plan: BatchPlan, epochs: int, last_steps: int | None, adapt_copies: int) -> _Counts:
    """What a run trains; epochs of the same sizes are counted once, but where it matters which step comes when."""
    total: _Counts = {}

    def add(part: SizeBatch, *counts: int) -> None:
        key = dataclasses.replace(part, share=0.0)  # the same size may have other shares in another phase
        steps, samples, measured = (a + b for a, b in zip(total.get(key, (0, 0, 0)), counts, strict=True))
        total[key] = steps, samples, measured

    measurements = Measurements(adapt_copies)
    in_order = [*range(epochs)] if adapt_copies else [] if last_steps is None else [epochs - 1]
    first: dict[tuple[SizeBatch, ...], int] = {}
    repeats: Counter[tuple[SizeBatch, ...]] = Counter()
    for epoch in range(epochs - len(in_order)):
        sizes = plan.sizes(epoch)
        repeats[sizes] += 1
        first.setdefault(sizes, epoch)
    for sizes, times in repeats.items():
        for part, steps, samples in plan.counts(first[sizes]):
            add(part, times * steps, times * samples, 0)
    for epoch in in_order:
        for part, _, _ in plan.counts(epoch):
            add(part, 0, 0, 0)  # in the order of the mixture
        for part, samples in plan.step_parts(epoch)[: last_steps if epoch == epochs - 1 else None]:
            add(part, 1, samples, measurements.passes(part) * samples * part.copies)
    return total
