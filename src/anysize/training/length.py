"""How long a run is: steps and FLOPs of each epoch, known before it starts. Imports no torch."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

from anysize.sizes.batch_plan import BatchPlan
from anysize.training.settings import TrainingSettings


@dataclasses.dataclass(frozen=True)
class RunLength:
    """Steps of each epoch and FLOPs (forward and backward, of all ranks) of the run, all known before it starts.

    With equal_flops a run ends at the step that comes nearest to the FLOPs of `epochs` epochs at the base size, and the
    regime's epochs count those, so that runs at different sizes spend the same and see the same learning rates.
    """

    plan: BatchPlan
    image_flops: Callable[[int], int]
    epochs: int
    equal_flops: bool
    steps: tuple[int, ...]
    epoch_flops: tuple[int, ...]

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
        return sum(self.epoch_flops[:epoch]) + _cumulative(self.plan, self.image_flops, epoch)[step]

    def regime_epoch(self, epoch: int, step: int) -> float:
        """Progress on the scale that the regime is written in, from 0 to `epochs`."""
        if self.equal_flops:
            return self.epochs * self.flops_at(epoch, step) / self.flops
        return epoch + step / self.steps[epoch]


@functools.lru_cache(maxsize=2)
def _cumulative(plan: BatchPlan, image_flops: Callable[[int], int], epoch: int) -> list[int]:
    """FLOPs before each step of an epoch, and of the whole epoch."""
    spent = (images * image_flops(size) for size, images in plan.step_images(epoch))
    return list(itertools.accumulate(spent, initial=0))


def run_length(plan: BatchPlan, settings: TrainingSettings, base: int, flops: Callable[[int], int]) -> RunLength:
    """Work out the length of a run before it starts; `flops` gives those of one image of a size."""

    def of_epoch(epoch: int) -> int:
        return sum(samples * part.copies * flops(part.size) for part, _, samples in plan.counts(epoch))

    def length(steps: list[int], spent: list[int]) -> RunLength:
        return RunLength(plan, flops, settings.epochs, settings.equal_flops, tuple(steps), tuple(spent))

    epochs = range(settings.epochs)
    if not settings.equal_flops:
        return length([plan.steps(epoch) for epoch in epochs], [of_epoch(epoch) for epoch in epochs])
    at_base = sum(samples * part.copies for part, _, samples in plan.at_size(base).counts(0))  # images of an epoch
    target = settings.epochs * at_base * flops(base)
    steps: list[int] = []
    spent: list[int] = []
    while sum(spent) + of_epoch(len(steps)) < target:
        spent.append(of_epoch(len(steps)))
        steps.append(plan.steps(len(steps)))
    left = target - sum(spent)
    within = _cumulative(plan, flops, len(steps))
    count = min(range(len(within)), key=lambda step: abs(within[step] - left))
    if count or not steps:  # a run makes one step at least
        steps.append(max(count, 1))
        spent.append(within[max(count, 1)])
    return length(steps, spent)
