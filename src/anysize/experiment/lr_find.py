"""A learning rate for a recipe: the range test (`anysize.training.lr_range`) on its data, model, sizes and optimizer.

    found = lr_find("quickstart")
    found.curve.suggestion      # as optimizer.lr has it; None where no rate teaches anything

Nothing is kept of it: the model is built for the test, and no run folder is read or written.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from anysize.data.loader import LoadedBatch
from anysize.experiment.assemble import assemble
from anysize.experiment.first_images import start_from_images
from anysize.experiment.prepare import prepare, settle_precision
from anysize.experiment.run_folder import warnings_into
from anysize.experiment.together import resolve
from anysize.machine import plainly
from anysize.ranks import launched_together
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.run_log import SilentLog
from anysize.sizes.schedule import with_moving_phase
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.deterministic import deterministic
from anysize.training.loop import start_epoch, step_seeds
from anysize.training.lr_by_size import lr_factors
from anysize.training.lr_range import LrCurve, range_test, sweep
from anysize.training.memory import fit_into_memory
from anysize.training.optimizer import largest_lr, stretch
from anysize.training.parts import Parts
from anysize.training.regime import Point
from anysize.training.shapes import too_few_images
from anysize.training.state import TrainState
from anysize.training.step import train_step


@dataclasses.dataclass(frozen=True)
class LrFound:
    """The curve of a recipe's range test, the image size of each of its steps, and the largest rate of the recipe.

    Rates are as optimizer.lr has them: where that is written for another batch, it is scaled to this one, and a step
    takes its multiple by size.
    """

    curve: LrCurve
    sizes: list[int]
    given: float

    def rows(self) -> list[dict[str, Any]]:
        """A row a step, for a table."""
        curve = self.curve
        steps = zip(itertools.count(1), curve.rates, curve.losses, curve.smoothed, self.sizes, strict=False)
        return [dict(zip(("step", "lr", "loss", "smoothed", "size"), each, strict=True)) for each in steps]


@plainly("looking for a learning rate")
def lr_find(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    on_step: Callable[[int, float, float], object] = lambda step, rate, loss: None,
    console: Console | None = None,
) -> LrFound:
    """Train a fresh model of a recipe a few steps with growing learning rates, and see where the loss falls fastest.

    Sizes are mixed, batches drawn and images augmented as at the start of a training; warm-up is left out.

    Args:
        recipe, overrides: as `train` takes them; of a run folder its recipe.
        low, high: the first and the last learning rate; the test ends sooner where the loss diverges.
        steps: of the test, at least 10.
        on_step: is called with the number of a step, its learning rate and its loss.
        console: where warnings are shown; None: standard output.

    Raises:
        UserError: a bad recipe, missing data, no range of rates, out of memory; the loss is not finite from the start.

    Example (trains for a few seconds on the embedded images)::

        found = anysize.lr_find("quickstart", steps=60)
        print(found.curve.suggestion)
    """
    if launched_together():
        raise UserError("the learning rate is looked for by one process; give the command without torchrun or srun")
    sweep(low, high, steps)  # says what is wrong with the range before the data are opened
    resolved = resolve(recipe, overrides)
    tested, sizes = _sweeping(resolved, low, high), list[int]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(deterministic(tested.training.deterministic))
        log = stack.enter_context(_Shown(Path(), 1, console))
        stack.enter_context(warnings_into(log))
        prepared = settle_precision(prepare(tested))
        start_from_images(prepared)
        parts, state, _ = assemble(prepared, Path(), log, stack.enter_context(CheckpointWriter()))
        fit_into_memory(parts, state)
        batches, rates = _endless(parts, state), sweep(low, high, steps)

        def step(rate: float) -> float:
            number = len(sizes)
            batch, seed = next(batches)
            factors = lr_factors(state.optimizer.settings, parts.plan.sizes(batch.epoch), parts.plan.batch_size)
            state.optimizer.apply(number / (steps - 1), factors[batch.size])
            train_step(parts, state, batch, seed)
            state.progress.step += 1
            sizes.append(batch.size)
            failure = state.recorder.drain()
            loss = failure.value if failure else state.recorder.last["loss"]
            on_step(number + 1, rates[number], loss)
            return loss if failure is None else float("nan")

        curve = range_test(step, low, high, steps)
    given = largest_lr(stretch(resolved.optimizer, resolved.training.epochs))
    return LrFound(curve, sizes[: len(curve.losses)], given)


class _Shown(SilentLog):
    """A log that shows what there is to say, and writes no file."""

    def message(self, text: str) -> None:
        self._print(text)

    def warning(self, text: str) -> None:
        self._print(f"warning: {text}", "yellow")


def _sweeping(recipe: Recipe, low: float, high: float) -> Recipe:
    """The recipe with a learning rate that grows from one to the other in an epoch, of the sizes at its start."""
    sizes, epochs = with_moving_phase(recipe.sizes), recipe.training.epochs
    ends = [phase.epoch for phase in sizes.phases[1:]] + [epochs]
    first = tuple(
        dataclasses.replace(phase, epochs=phase.epochs or max(2, end))
        for phase, end in zip(sizes.phases[:1], ends, strict=False)
        if phase.epoch == 0
    )
    rates = (Point(low, 0.0, "exponential"), Point(high, 1.0))
    own = stretch(recipe.optimizer, epochs)
    return dataclasses.replace(
        recipe,
        sizes=dataclasses.replace(sizes, phases=first),
        optimizer=dataclasses.replace(own, epochs=0, lr=rates, warmup_epochs=0.0, update="step"),
        training=dataclasses.replace(recipe.training, epochs=1, equal_flops=False),
    )


def _endless(parts: Parts, state: TrainState) -> Iterator[tuple[LoadedBatch, int]]:
    """The batches of epoch after epoch with the seeds of their steps, but those that damaged files make too small."""
    for epoch in itertools.count():
        batches = parts.plan.batches(epoch)
        state.progress.epoch = epoch
        start_epoch(parts, state)
        seeds = step_seeds(parts.training.seed, state.progress.step, len(batches), 0)
        for batch, seed in zip(parts.load(batches), seeds, strict=False):
            state.progress.step_in_epoch = batch.step
            images, channels = len(batch.images), parts.loader.source.channels
            chunks = min(state.micro_batches.chunks(images), images)
            if not too_few_images(state.model, images, batch.extent, chunks, channels):
                yield batch, seed
