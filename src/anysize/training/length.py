"""How long a run is: steps and FLOPs of each epoch, known before it starts. Imports no torch."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Measurements
from anysize.training.settings import TrainingSettings


@dataclasses.dataclass(frozen=True)
class RunLength:
    """Steps of each epoch and FLOPs (forward and backward, of all ranks) of the run, all known before it starts.

    With equal_flops a run ends at the step that comes nearest to the FLOPs of `epochs` epochs at the base size, and the
    regime's epochs count those, so that runs at different sizes spend the same and see the same learning rates. What
    optimizer.adapt_copies computes to measure gradients is spent, too.
    """

    plan: BatchPlan
    image_flops: Callable[[int], int]
    epochs: int
    equal_flops: bool
    steps: tuple[int, ...]
    epoch_flops: tuple[int, ...]
    adapt_copies: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(self.steps)

    @property
    def flops(self) -> int:
        """FLOPs of the whole run."""
        return sum(self.epoch_flops)

    def flops_at(self, epoch: int, step: int) -> int:
        """FLOPs of the run up to the first `step` steps of `epoch`."""
        within = _cumulative(self.plan, self.image_flops, epoch, self.adapt_copies)
        return sum(self.epoch_flops[:epoch]) + within[step]

    def regime_epoch(self, epoch: int, step: int) -> float:
        """Progress on the scale that the regime is written in, from 0 to `epochs`."""
        if self.equal_flops:
            return self.epochs * self.flops_at(epoch, step) / self.flops
        return epoch + step / self.steps[epoch]


@functools.lru_cache(maxsize=2)
def _cumulative(plan: BatchPlan, image_flops: Callable[[int], int], epoch: int, adapt_copies: int = 0) -> list[int]:
    """FLOPs before each step of an epoch, and of the whole epoch."""
    measurements = Measurements(adapt_copies)
    for earlier in range(epoch if adapt_copies else 0):
        measurements.skip(plan.counts(earlier))
    spent = (
        (1 + measurements.passes(part)) * samples * part.copies * image_flops(part.size)
        for part, samples in plan.step_parts(epoch)
    )
    return list(itertools.accumulate(spent, initial=0))


def run_length(
    plan: BatchPlan, settings: TrainingSettings, base: int, flops: Callable[[int], int], adapt_copies: int = 0
) -> RunLength:
    """Work out the length of a run before it starts.

    Args:
        plan: its batches.
        settings: epochs, and whether FLOPs count instead.
        base: image size (pixels) of the epochs that FLOPs are counted in.
        flops: FLOPs of one image of a size.
        adapt_copies: as of the optimizer: what it measures is part of the cost, at the base size, too.
    """

    def of_epoch(plan: BatchPlan, epoch: int) -> int:
        if adapt_copies:
            return _cumulative(plan, flops, epoch, adapt_copies)[-1]
        return sum(samples * part.copies * flops(part.size) for part, _, samples in plan.counts(epoch))

    def length(steps: list[int], spent: list[int]) -> RunLength:
        return RunLength(plan, flops, settings.epochs, settings.equal_flops, tuple(steps), tuple(spent), adapt_copies)

    epochs = range(settings.epochs)
    if not settings.equal_flops:
        return length([plan.steps(epoch) for epoch in epochs], [of_epoch(plan, epoch) for epoch in epochs])
    at_base = plan.at_size(base)
    if adapt_copies:
        target = sum(of_epoch(at_base, epoch) for epoch in epochs)
    else:
        target = settings.epochs * of_epoch(at_base, 0)
    steps: list[int] = []
    spent: list[int] = []
    while sum(spent) + of_epoch(plan, len(steps)) < target:
        spent.append(of_epoch(plan, len(steps)))
        steps.append(plan.steps(len(steps)))
    left = target - sum(spent)
    within = _cumulative(plan, flops, len(steps), adapt_copies)
    count = min(range(len(within)), key=lambda step: abs(within[step] - left))
    if count or not steps:  # a run makes one step at least
        steps.append(max(count, 1))
        spent.append(within[max(count, 1)])
    return length(steps, spent)
