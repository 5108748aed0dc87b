"""How long a run is: steps and FLOPs of its epochs, known before it starts. Imports no torch."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from anysize.registry import UserError, counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Measurements, count_steps
from anysize.sizes.mix import SizeBatch
from anysize.sizes.shapes import Extent
from anysize.training.settings import TrainingSettings

_MOST_EPOCHS = 10**9


class Repeated(Sequence[int]):
    """Numbers of which many are alike in a row: it takes as much memory and time as there are rows.

    >>> steps = Repeated([(3, 1_000_000), (7, 2)])
    >>> len(steps), steps[999_999], steps[-1], steps.total
    (1000002, 3, 7, 3000014)
    """

    def __init__(self, rows: Sequence[tuple[int, int]]) -> None:
        self._values = [value for value, times in rows if times]
        self._ends = [*itertools.accumulate(times for _, times in rows if times)]
        self.total = sum(value * times for value, times in rows)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[int]:
        for value, start, end in zip(self._values, [0, *self._ends], self._ends, strict=False):
            yield from itertools.repeat(value, end - start)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._values[bisect.bisect(self._ends, range(len(self))[index])]


@dataclasses.dataclass(frozen=True)
class RunLength:
    """Steps of each epoch and FLOPs (forward and backward, of all ranks) of the run, all known before it starts.

    With equal_flops a run ends at the step that comes nearest to the FLOPs of `epochs` epochs at the base size, and the
    regime's epochs count those, so that runs at different sizes spend the same and see the same learning rates. What
    optimizer.adapt_copies computes to measure gradients is spent, too, and what is computed of an image beside its own
    pass (training.distill): `image_flops` are all of an image of a size.
    """

    plan: BatchPlan
    image_flops: Callable[[SizeBatch], int]
    epochs: int
    equal_flops: bool
    steps: Repeated
    adapt_copies: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps.total

    @functools.cached_property
    def flops(self) -> int:
        """FLOPs of the whole run."""
        return self.flops_at(len(self.steps) - 1, self.steps[-1])

    def flops_at(self, epoch: int, step: int) -> int:
        """FLOPs of the run up to the first `step` steps of `epoch`."""
        within = _cumulative(self.plan, self.image_flops, epoch, self.adapt_copies)
        return _flops_before(self.plan, self.image_flops, epoch, self.adapt_copies) + within[step]

    def regime_epoch(self, epoch: int, step: int) -> float:
        """Progress on the scale that the regime is written in, from 0 to `epochs`."""
        if self.equal_flops:
            return self.epochs * self.flops_at(epoch, step) / self.flops
        return epoch + step / self.steps[epoch]


@functools.lru_cache(maxsize=2)
def _cumulative(
    plan: BatchPlan, image_flops: Callable[[SizeBatch], int], epoch: int, adapt_copies: int = 0
) -> list[int]:
    """FLOPs before each step of an epoch, and of the whole epoch."""
    measurements = Measurements(adapt_copies)
    for span in plan.spans(epoch if adapt_copies else 0):
        measurements.skip(plan.counts(span.start), len(span))
    spent = (
        (1 + measurements.passes(part)) * samples * part.copies * image_flops(part)
        for part, samples in plan.step_parts(epoch)
    )
    return list(itertools.accumulate(spent, initial=0))


@functools.lru_cache(maxsize=2)
def _flops_before(plan: BatchPlan, image_flops: Callable[[SizeBatch], int], epoch: int, adapt_copies: int = 0) -> int:
    """FLOPs of all epochs before this one."""
    trained = count_steps(plan, epoch, adapt_copies=adapt_copies)
    return sum((n * part.copies + measured) * image_flops(part) for part, (_, n, measured) in trained.items())


def run_length(
    plan: BatchPlan,
    settings: TrainingSettings,
    base: int,
    flops: Callable[[Extent], int],
    adapt_copies: int = 0,
    beside: Callable[[SizeBatch], int] = lambda part: 0,
) -> RunLength:
    """Work out the length of a run before it starts: in time by phases of sizes, not by epochs.

    Args:
        plan: its batches.
        settings: epochs, and whether FLOPs count instead.
        base: image size (pixels) of the epochs that FLOPs are counted in.
        flops: FLOPs of one image of a size, or of a height and width.
        adapt_copies: as of the optimizer: what it measures is part of the cost, at the base size, too.
        beside: FLOPs of what is computed of an image of a size and aspect beside its own pass; the epochs that FLOPs
            are counted in have none, so that a run with a teacher makes fewer steps for the same FLOPs.

    Raises:
        UserError: as `count_steps` and `BatchPlan`; FLOPs that are enough for more than 10^9 epochs.
    """

    def own(part: SizeBatch) -> int:
        return flops(part.extent)

    def of_all(part: SizeBatch) -> int:
        return own(part) + beside(part)

    def length(epochs: int, last: int | None = None) -> RunLength:
        rows = [(plan.steps(span.start), len(span)) for span in plan.spans(epochs)]
        if last is not None:
            rows.append((last, 1))
        return RunLength(plan, of_all, settings.epochs, settings.equal_flops, Repeated(rows), adapt_copies)

    if not settings.equal_flops:
        return length(settings.epochs)
    target = _flops_before(plan.at_size(base), own, settings.epochs, adapt_copies)

    def enough(epochs: int) -> bool:
        return _flops_before(plan, of_all, epochs, adapt_copies) >= target

    most = 1
    while not enough(most):
        most *= 2
        if most > _MOST_EPOCHS:
            raise UserError(
                f"training.equal_flops: {counted(settings.epochs, 'epoch')} at {base} px compute as much as more than "
                f"{_MOST_EPOCHS:,} at the sizes of this run; lower sizes.base or training.epochs"
            )
    whole = bisect.bisect_left(range(1, most + 1), True, key=enough)  # epochs that end before the target
    before = _flops_before(plan, of_all, whole, adapt_copies)
    within = _cumulative(plan, of_all, whole, adapt_copies)
    count = min(range(len(within)), key=lambda step: abs(within[step] - (target - before)))
    if count or not whole:  # a run makes one step at least
        return length(whole, max(count, 1))
    return length(whole)
