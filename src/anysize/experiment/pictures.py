"""Predictions on fixed validation images, the worst first, for the report of a run."""

import heapq
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.source import Source
from anysize.data.statistics import spread
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.finite import check_all_finite, is_finite
from anysize.reports import run_files
from anysize.reports.predictions import Predictions, write_predictions
from anysize.tasks.records import Shown

IMAGES = 256
"""Validation images that the worst are chosen from."""


def picture_predictions(folder: Path, evaluator: Evaluator, model: nn.Module, size: int, *, calibrated: bool) -> None:
    """Write `predictions/` into a run folder: the worst of `IMAGES` validation images at `size`, spread evenly.

    The images are the same for every run on a data set. `calibrated` says, for the report, how `model` was prepared.
    """
    wanted = evaluator.settings.pictures
    if not wanted:
        return
    kind = evaluator.kind
    chosen = spread(len(evaluator.validation), IMAGES)
    source = evaluator.validation.subset(chosen)
    loader = PlanLoader(source, evaluator.transform(), device=evaluator.device)
    worst: list[tuple[float, int, Shown]] = []  # a heap: the best of the worst is on top
    seen = 0
    unsound: list[int] = []
    with evaluating(model):
        for batch in loader.load(sequential_batches(len(source), size, evaluator.batch_size(size))):
            batch = on_device(batch, evaluator.device)
            for row, output in enumerate(evaluator.task.predictions(model, batch)):
                index = int(batch.indices[row])
                seen += 1
                if not is_finite(output):
                    unsound.append(index)
                    continue
                shown = evaluator.task.show(output.cpu(), kind.target_of(batch, row).cpu())
                entry = (-shown.score, index, shown)
                if len(worst) < wanted:
                    heapq.heappush(worst, entry)
                else:
                    heapq.heappushpop(worst, entry)
    check_all_finite(unsound, seen, source.describe, model)
    worst.sort(key=lambda entry: (-entry[0], entry[1]))
    images = [(source.describe(index), displayed(source, index), shown) for _, index, shown in worst]
    predictions = Predictions(size, calibrated, seen, images)
    run_files.go_on_without(folder / run_files.PREDICTIONS, lambda: write_predictions(folder, predictions))


def displayed(source: Source, index: int) -> np.ndarray:
    """An image as people see it: uint8 (H, W, 3)."""
    pixels: Tensor = source.image(index)
    if len(pixels) == 1:
        pixels = pixels.expand(3, -1, -1)
    return np.ascontiguousarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())
