"""A run in small, that goes through all of a training in seconds: what would stop it after an hour stops it now.

    told = fast_dev_run("quickstart")
    print(told)      # 3 steps at 14, 21 and 28 px, a validation of 256 images, ...: all went through

Each phase of sizes lasts an epoch of a few steps, so that each size is trained; the schedules of the optimizer are
traversed in as many. Nothing is left behind.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from anysize.experiment.loaded import load_run
from anysize.experiment.together import resolve
from anysize.experiment.train import train
from anysize.ranks import main_process
from anysize.recipe import Recipe
from anysize.registry import UserError, counted, some_of
from anysize.reports import run_files
from anysize.reports.settings import TrackingSettings
from anysize.sizes.schedule import with_moving_phase
from anysize.sizes.settings import PhaseSettings, SizeSettings

_STEPS = 3  # an epoch, or one for each size of the mixture
_MOST_SIZES = 16  # of a mixture: the largest step is tried in any case
_BATCHES = 2  # of a validation, and of a calibration
_PICTURES = 2


def fast_dev_run(
    recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None = None, *, console: Console | None = None
) -> str:
    """Train a few batches of a recipe, validate, save, report and load what was saved, in a temporary folder.

    The largest step of the sizes is tried, too, as in every training. Trackers are not told.

    Args:
        recipe, overrides: as `train` takes them.
        console: where the training is shown; None: standard output.

    Returns:
        A sentence on what went through.

    Raises:
        UserError: as `train`; the report could not be written.

    Example (trains a few seconds on the embedded images)::

        print(anysize.fast_dev_run("quickstart"))
    """
    short = in_small(resolve(recipe, overrides))
    with tempfile.TemporaryDirectory(prefix="anysize-dev-run-") as folder:
        run = train(short, run=Path(folder) / "run", console=console, kept=False)
        if not main_process():
            return ""
        load_run(run, "last")
        load_run(run)
        lacking = [name for name in (run_files.METRICS, run_files.REPORT) if not (run / name).exists()]
        if lacking:
            raise UserError(f"the training went through, but not {' and '.join(lacking)}; a warning above says why")
        rows = run_files.read_rows(run / run_files.METRICS)
    sizes = sorted({int(size) for row in rows for size in json.loads(row["sizes"])})
    return (
        f"{counted(int(rows[-1]['step']), 'step')} at {some_of([*map(str, sizes)], _MOST_SIZES)} px, validation, "
        "checkpoints, their loading, and the report: all went through, and nothing is kept"
    )


def in_small(recipe: Recipe) -> Recipe:
    """A recipe of as many epochs as there are kinds of them, each of a few steps, with a validation of a few images.

    >>> small = in_small(Recipe())
    >>> small.training.epochs, small.training.limit_steps, small.training.limit_validation
    (1, 3.0, 2)
    """
    training, sizes, optimizer = recipe.training, recipe.sizes, recipe.optimizer
    sizes = with_moving_phase(sizes)
    epochs, phases = _phases(sizes)
    limit = float(max(_STEPS, _count(recipe)))
    if training.overfit_batches:
        limit = 0.0
    elif training.limit_steps >= 1:
        limit = min(limit, training.limit_steps)
    images = _BATCHES * (recipe.evaluation.batch_size or training.batch_size)
    return dataclasses.replace(
        recipe,
        tracking=TrackingSettings(),
        sizes=dataclasses.replace(sizes, phases=phases),
        training=dataclasses.replace(
            training,
            epochs=epochs,
            equal_flops=False,
            limit_steps=limit,
            overfit_batches=min(training.overfit_batches, _STEPS),
            limit_validation=_BATCHES,
            log_every=1,
        ),
        optimizer=dataclasses.replace(optimizer, epochs=optimizer.epochs or training.epochs, warmup_epochs=0.0),
        evaluation=dataclasses.replace(
            recipe.evaluation,
            calibration_images=min(recipe.evaluation.calibration_images or images, images),
            pictures=min(recipe.evaluation.pictures, _PICTURES),
        ),
    )


def _count(recipe: Recipe) -> int:
    """How many sizes the mixture has at most, as far as the settings tell."""
    sizes = recipe.sizes
    pointed = {size for point in sizes.points for size in point.weights}
    named = {"custom": len(sizes.weights), "points": len(pointed), "fixed": 1}
    named |= {"uniform": len(sizes.sizes), "window": len(sizes.sizes)}
    mixes = {sizes.mix, *(phase.mix for phase in sizes.phases)} - {""}
    return min(_MOST_SIZES, max(named.get(mix, 7) for mix in mixes))  # ImageNet's mixtures have seven


def _phases(sizes: SizeSettings) -> tuple[int, tuple[PhaseSettings, ...]]:
    """Epochs in which each phase has one, a ramp or a window two for its ends, points one each; the phases at these."""
    phases = sizes.phases
    epoch = 0 if phases and phases[0].epoch == 0 else 1
    short = []
    for phase in phases:
        short.append(dataclasses.replace(phase, epoch=epoch, epochs=0))
        moving = {"window": 2, "points": len(sizes.points)}
        epoch += 2 if phase.start or phase.stop else moving.get(phase.mix, 1)
    return epoch, tuple(short)
