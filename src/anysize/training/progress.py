"""How far a run is and how long it will be."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from anysize.sizes.plan import BatchPlan
from anysize.training.settings import TrainingSettings


@dataclasses.dataclass
class Progress:
    """Everything but tensors that a resumed run needs to go on as if it had never stopped."""

    epoch: int = 0
    """Epochs that are done, validation included."""
    step_in_epoch: int = 0
    step: int = 0
    images: int = 0
    flops: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    smoothing_norm: float | None = None
    scaler: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of float16's loss scaling."""
    copies_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of adaptive scaling, by image size."""
    copies_steps: dict[str, int] = dataclasses.field(default_factory=dict)
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the epoch's training metrics, each weighted by its images."""
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    best: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; floats keep every bit."""
        return dataclasses.asdict(self)

    def start_epoch(self) -> None:
        """Forget the sums of the epoch that is done and count it."""
        self.epoch += 1
        self.step_in_epoch = self.epoch_images = 0
        self.epoch_seconds = 0.0
        self.sums = {}

    def means(self) -> dict[str, float]:
        """The training metrics of the epoch so far."""
        return {name: value / self.epoch_images for name, value in self.sums.items()}


@dataclasses.dataclass(frozen=True)
class RunLength:
    """Steps of each epoch and FLOPs (forward and backward, one rank) of the run.

    With equal_flops a run ends in the step that reaches the FLOPs of `epochs` epochs at the base size, and the regime's
    epochs count those, so that runs at different sizes spend the same and see the same learning rates.
    """

    epochs: int
    steps: tuple[int, ...]
    flops: int
    equal_flops: bool

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return sum(self.steps)

    def regime_epoch(self, progress: Progress) -> float:
        """Progress on the scale that the regime is written in: from 0 to `epochs`."""
        if self.equal_flops:
            return self.epochs * progress.flops / self.flops
        return progress.epoch + progress.step_in_epoch / self.steps[progress.epoch]


def run_length(plan: BatchPlan, settings: TrainingSettings, base: int, flops: Callable[[int], int]) -> RunLength:
    """Work out the length of a run before it starts; `flops` gives those of one image of a size."""

    def of_epoch(epoch: int) -> int:
        return sum(steps * flops(part.size) * part.batch_size * part.copies for part, steps, _ in plan.counts(epoch))

    if not settings.equal_flops:
        steps = tuple(plan.steps(epoch) for epoch in range(settings.epochs))
        return RunLength(settings.epochs, steps, sum(map(of_epoch, range(settings.epochs))), False)
    base_steps = plan.length // (plan.batch_size * plan.world_size) if plan.drop_last else 0
    base_images = base_steps * plan.batch_size or plan.length // plan.world_size
    target = settings.epochs * base_images * plan.copies * flops(base)
    spent, counts = 0, []
    for epoch in itertools.count():
        batches = plan.batches(epoch)
        reached = np.cumsum([batch.images * flops(batch.size) for batch in batches], dtype=object) + spent
        # Stop at the step that comes nearest to the target.
        last = bisect.bisect_left(reached, target)
        if last < len(batches):
            before = reached[last - 1] if last else spent
            count = last + 1 if reached[last] - target <= target - before else last
            if count:
                counts.append(count)
                before = reached[count - 1]
            return RunLength(settings.epochs, tuple(counts), int(before), True)
        spent = reached[-1]
        counts.append(len(batches))
    raise AssertionError("an endless count ended")
