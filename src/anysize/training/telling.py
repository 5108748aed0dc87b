"""What steps and epochs have taken, and what is told of them: the live line, rows of `metrics.csv` and `steps.csv`."""

import functools
import math
from collections import Counter
from typing import Any

from anysize.training.parts import Parts
from anysize.training.state import Progress, TrainState
from anysize.training.step_rows import is_due

_NOT_SHOWN = ("loss", "gradient_norm")  # in the live line: the first has a place of its own


def record(progress: Progress, seconds: float) -> None:
    """Count the time of a step."""
    progress.seconds += seconds
    progress.epoch_seconds += seconds


def record_waiting(parts: Parts, state: TrainState, seconds: float) -> None:
    """Count what of the time of a step was waiting for images; where that is much, it is said once."""
    waited = parts.loader.waiting.take()
    state.progress.epoch_waiting += waited
    state.rows.waited += waited
    if (share := parts.watch(seconds, waited)) and (remedies := parts.loader.remedies()):
        parts.log.warning(f"{share:.0%} of the last minute went by waiting for images: {', or '.join(remedies)}")


def share_waited(progress: Progress, waited: float) -> float:
    """The share of the epoch's time in which so many seconds were waited."""
    return min(1.0, waited / max(progress.epoch_seconds, 1e-9))


def show(parts: Parts, state: TrainState, size: int) -> None:
    """Hand the step to the live line, with the metrics of the last log point."""
    progress, recorder = state.progress, state.recorder
    spent = functools.partial(parts.length.flops_at, progress.epoch, progress.step_in_epoch)
    parts.log.step(
        progress.epoch + 1,
        progress.step_in_epoch,
        parts.length.steps[progress.epoch],
        size,
        loss=recorder.last.get("loss", math.nan),
        metrics={name: functools.partial(recorder.mean, name) for name in recorder.last if name not in _NOT_SHOWN},
        lr=progress.lr,
        images_per_second=lambda: recorder.count_of_all / max(progress.epoch_seconds, 1e-9),
        waiting=lambda: share_waited(progress, progress.epoch_waiting),
        seconds_left=lambda: (parts.length.flops - spent()) * progress.seconds / max(spent(), 1),
    )


def step_row(parts: Parts, state: TrainState) -> dict[str, Any] | None:
    """What the host knows of the row of `steps.csv` that ends with the step that was just made; None if none does."""
    progress = state.progress
    if not is_due(progress.step, parts.length, parts.training.log_every):
        return None
    done = progress.step_in_epoch / parts.length.steps[progress.epoch]
    counted = state.rows.take(progress.seconds)
    return {
        "step": progress.step,
        "epoch": round(progress.epoch + done, 6),
        "images": counted.pop("images"),
        "flops": parts.length.flops_at(progress.epoch, progress.step_in_epoch),
        "seconds": counted.pop("seconds"),
        "lr": progress.lr,
        **counted,
    }


def tell_steps(parts: Parts, state: TrainState, *, now: bool = False) -> None:
    """Add the rows that have arrived to `steps.csv`, at the latest `now`; their means have six digits."""
    rows = [
        {name: float(f"{value:.6g}") if name in state.recorder.sums else value for name, value in row.items()}
        for row in state.recorder.take()
    ]
    if rows or now:
        parts.log.steps(rows, now=now)


def epoch_row(parts: Parts, state: TrainState) -> dict[str, Any]:
    """The row of `metrics.csv` for the epoch that was just trained."""
    progress, recorder = state.progress, state.recorder
    samples = Counter[int]()
    for part, _, of_part in parts.plan.counts(progress.epoch):
        samples[part.size] += of_part
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        **{f"train_{name}": recorder.mean(name) for name in recorder.sums},
        "lr": progress.lr,
        "images": progress.images,
        "images_per_second": progress.epoch_images / max(progress.epoch_seconds, 1e-9),
        # While one process waits for images, the others wait for it.
        "waiting": share_waited(progress, max(parts.world.gather(progress.epoch_waiting))),
        "flops": progress.flops,
        "seconds": progress.seconds,
        "sizes": {size: count / sum(samples.values()) for size, count in samples.items() if count},
    }
