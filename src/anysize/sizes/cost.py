"""The cost of a run, known before it starts: steps, samples and FLOPs by image size, from the FLOPs of one image.

A multiply-add counts as 2 FLOPs. Imports no torch: who asks brings the FLOPs of an image (`anysize.count_flops`).
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable

from anysize.registry import UserError, counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeBatch
from anysize.sizes.shapes import SQUARE, Aspect, Extent

_PASSES = 2  # to measure: images go through the network copy by copy, and all at once
_MOST_STEPS = 20_000_000  # that are looked at one by one, half a minute


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
    `beside` are the FLOPs of what is computed of each trained image beside its own pass, as `SecondSize` tells it.
    """

    size: int
    batch_size: int
    copies: int
    steps: int
    samples: int
    flops: Flops
    measured: int = 0
    aspect: Aspect = SQUARE
    beside: int = 0

    @property
    def extent(self) -> Extent:
        """The pixels of its images: the side of a square, or height and width."""
        return self.aspect.extent(self.size)

    @property
    def images(self) -> int:
        """Images trained: samples times copies."""
        return self.samples * self.copies

    @property
    def forward_flops(self) -> int:
        """FLOPs of all forward passes at this size, but those beside."""
        return (self.images + self.measured) * self.flops.forward

    @property
    def backward_flops(self) -> int:
        """FLOPs of all backward passes at this size, but those beside."""
        return (self.images + self.measured) * self.flops.backward

    @property
    def total_flops(self) -> int:
        """FLOPs of all passes of the samples at this size, those beside their own among them."""
        return (self.images + self.measured) * self.flops.total + self.beside_flops

    @property
    def beside_flops(self) -> int:
        """FLOPs of what is computed of the samples at this size beside their own passes."""
        return self.images * self.beside


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
    def beside_flops(self) -> int:
        """FLOPs of the run that its samples take beside their own passes: teachers, and a second size."""
        return sum(part.beside_flops for part in self.sizes)

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
        return _PASSES * self.measured(part, 1)

    def measured(self, part: SizeBatch, steps: int) -> int:
        """How many of the next `steps` steps of a size measure."""
        if not self.every or part.copies == 1:
            return 0
        before = self.seen(part)
        self._seen[part.size] += steps
        return -(-(before + steps) // self.every) - -(-before // self.every)

    def seen(self, part: SizeBatch) -> int:
        """Steps of this size with copies so far."""
        return self._seen[part.size]

    def skip(self, counts: Iterable[tuple[SizeBatch, int, int]], epochs: int = 1) -> None:
        """Pass over the steps of so many epochs, given by their `BatchPlan.counts`."""
        for part, steps, _ in counts:
            self.measured(part, epochs * steps)


def plan_cost(
    plan: BatchPlan,
    epochs: int,
    flops: Callable[[Extent], Flops],
    base: int | None = None,
    base_epochs: int = 0,
    *,
    last_steps: int | None = None,
    adapt_copies: int = 0,
    beside: Callable[[SizeBatch], int] = lambda part: 0,
) -> PlanCost:
    """Cost of `epochs` epochs of `plan`, without listing a batch.

    Args:
        plan: of any rank; the cost is that of all ranks.
        epochs: length of the run.
        flops: FLOPs of one image by size, such as `lambda size: count_flops(model, size)`; asked once a size, and of
            images that are not square by height and width.
        base: size (pixels) of the run to compare with; by default that of the last epoch's mixture.
        base_epochs: its length; 0: the same.
        last_steps: steps of the last epoch, which equal_flops cuts; None: all.
        adapt_copies: gradients of copies are measured every so many steps of a size, as `Measurements` says; 0: never.
        beside: FLOPs of what is computed of an image of a size and aspect beside its own pass, as `SecondSize.flops`
            tells them; the run to compare with has none.

    Raises:
        UserError: as `BatchPlan`.

    >>> from anysize.sizes.batch_plan import SizeMix, SizeSchedule
    >>> plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=64)
    >>> cost = plan_cost(plan, epochs=200, flops=lambda size: Flops(forward=size**2))
    >>> cost.steps, round(cost.ratio, 3)
    (196200, 1.286)
    """
    base = base or plan.schedule.at(epochs - 1).mix.base
    parts = count_steps(plan, epochs, last_steps, adapt_copies)
    base_parts = count_steps(plan.at_size(base), base_epochs or epochs, None, adapt_copies)
    by_size = {extent: flops(extent) for extent in {part.extent for part in (*parts, *base_parts)}}

    def costs(counts: Counts, beside: Callable[[SizeBatch], int]) -> tuple[SizeCost, ...]:
        return tuple(
            SizeCost(
                part.size,
                part.batch_size,
                part.copies,
                steps,
                samples,
                by_size[part.extent],
                measured,
                part.aspect,
                beside(part),
            )
            for part, (steps, samples, measured) in counts.items()
        )

    return PlanCost(costs(parts, beside), costs(base_parts, lambda part: 0)[0])


Counts = dict[SizeBatch, tuple[int, int, int]]
"""Steps, samples and images that are measured, by size, batch size and copies."""


def count_steps(plan: BatchPlan, epochs: int, last_steps: int | None = None, adapt_copies: int = 0) -> Counts:
    """What the first `epochs` epochs train, of the last one `last_steps` steps (None: all).

    Epochs of the same sizes are counted once, but where it matters which step comes when.

    Raises:
        UserError: too many steps of which that matters.
    """
    total: Counts = {}

    def add(part: SizeBatch, *counts: int) -> None:
        key = dataclasses.replace(part, share=0.0)  # the same size may have other shares in another phase
        steps, samples, measured = (a + b for a, b in zip(total.get(key, (0, 0, 0)), counts, strict=True))
        total[key] = steps, samples, measured

    measurements = Measurements(adapt_copies)
    for span in plan.spans(epochs if last_steps is None else epochs - 1):
        counts, times = plan.counts(span.start), len(span)
        if _order_matters(counts, adapt_copies):
            _check_time(times * plan.steps(span.start))
            for epoch in span:
                seen = tuple(measurements.seen(part) % adapt_copies for part, _, _ in counts)
                images = _measured_images(plan, epoch, adapt_copies, seen)
                for (part, steps, samples), measured in zip(counts, images, strict=True):
                    add(part, steps, samples, measured)
                measurements.skip(counts)
            continue
        for part, steps, samples in counts:
            trained, number = times * samples * part.copies, times * steps
            share = trained * measurements.measured(part, number) // number if number else 0
            add(part, number, times * samples, _PASSES * share)
    if last_steps is not None:
        for part, _, _ in plan.counts(epochs - 1):
            add(part, 0, 0, 0)  # in the order of the mixture
        for part, samples in plan.step_parts(epochs - 1)[:last_steps]:
            add(part, 1, samples, measurements.passes(part) * samples * part.copies)
    return total


def _order_matters(counts: Iterable[tuple[SizeBatch, int, int]], every: int) -> bool:
    """Whether some steps of a size have a sample more than others, and some but not all measure."""
    return every > 1 and any(part.copies > 1 and steps and samples % steps for part, steps, samples in counts)


def _check_time(steps: int) -> None:
    if steps > _MOST_STEPS:
        raise UserError(
            f"with optimizer.adapt_copies and training.drop_last = false the cost follows from each of the "
            f"{counted(steps, 'step')} alone, more than the {_MOST_STEPS:,} that can be looked at; set "
            "training.drop_last, or optimizer.adapt_copies to 1 or 0"
        )


@functools.lru_cache(maxsize=2**14)
def _measured_images(plan: BatchPlan, epoch: int, every: int, seen: tuple[int, ...]) -> tuple[int, ...]:
    """Images that an epoch measures, size by size, where so many steps of each were before it."""
    measurements, images = Measurements(every), Counter[int]()
    counts = plan.counts(epoch)
    for (part, _, _), before in zip(counts, seen, strict=True):
        measurements.measured(part, before)
    for part, samples in plan.step_parts(epoch):
        images[part.size] += measurements.passes(part) * samples * part.copies
    return tuple(images[part.size] for part, _, _ in counts)
