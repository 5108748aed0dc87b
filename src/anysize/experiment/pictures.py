"""Predictions on fixed validation images, the worst first, for the report of a run."""

import heapq
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anysize.data.loader import PlanLoader
from anysize.data.source import Source
from anysize.data.spread import spread
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.finite import check_all_finite, is_finite
from anysize.reports import run_files
from anysize.reports.predictions import Predictions, write_predictions
from anysize.tasks.records import Judged, Shown

IMAGES = 256
"""Validation images that the worst are chosen from."""


def picture_predictions(
    folder: Path,
    evaluator: Evaluator,
    model: nn.Module,
    size: int,
    *,
    calibrated: bool,
    judged: Mapping[int, Judged] | None = None,
) -> None:
    """Write `predictions/` into a run folder: the worst of `IMAGES` validation images at `size`, spread evenly.

    The images are the same for every run on a data set. `calibrated` says, for the report, how `model` was prepared.
    Where it is known what is predicted for each image (`judged`, by its number), the worst of all are shown, and beside
    them half as many of the mistakes that the network is most certain of.
    """
    wanted = evaluator.settings.pictures
    if not wanted:
        return
    kind = evaluator.kind
    certain: list[int] = []
    if judged:
        worst_of_all, certain = worst_and_certain(judged, wanted)
        chosen = np.array([*worst_of_all, *certain])
    else:
        chosen = spread(len(evaluator.validation), IMAGES)
    source = evaluator.validation.subset(chosen)
    loader = PlanLoader(source, evaluator.transform(), device=evaluator.device)
    worst: list[tuple[float, int, Shown]] = []  # a heap: the best of the worst is on top
    surest: dict[int, Shown] = {}
    first_certain, seen = len(chosen) - len(certain), 0
    unsound: list[int] = []
    with evaluating(model):
        for batch in loader.load(evaluator.batches_of(source, size)):
            batch = on_device(batch, evaluator.device)
            for row, output in enumerate(evaluator.task.predictions(model, batch)):
                index = int(batch.indices[row])
                seen += 1
                if not is_finite(output):
                    unsound.append(index)
                    continue
                shown = evaluator.task.show(output.cpu(), kind.target_of(batch, row).cpu())
                entry = (-shown.score, index, shown)
                if index >= first_certain:
                    surest[index] = shown
                elif len(worst) < wanted:
                    heapq.heappush(worst, entry)
                else:
                    heapq.heappushpop(worst, entry)
    check_all_finite(unsound, seen, source.describe, model)
    worst.sort(key=lambda entry: (-entry[0], entry[1]))
    images = [(source.describe(index), displayed(source, index), shown) for _, index, shown in worst]
    sure = [(source.describe(index), displayed(source, index), surest[index]) for index in sorted(surest)]
    predictions = Predictions(size, calibrated, len(judged) if judged else seen, images, sure)
    run_files.go_on_without(folder / run_files.PREDICTIONS, lambda: write_predictions(folder, predictions))


def worst_and_certain(judged: Mapping[int, Judged], wanted: int) -> tuple[list[int], list[int]]:
    """The images with the lowest scores, and of the others half as many mistakes that have the highest probability.

    >>> answers = {0: Judged("a", "a", 0.9, 0.9), 1: Judged("a", "b", 0.1, 0.4), 2: Judged("a", "b", 0.2, 0.8)}
    >>> worst_and_certain(answers, 1)
    ([1], [])
    >>> worst_and_certain(answers | {3: Judged("a", "b", 0.3, 0.6)}, 2)
    ([1, 2], [3])
    """
    worst = sorted(judged, key=lambda image: (judged[image].score, image))[:wanted]
    mistakes = {
        image: each.probability
        for image, each in judged.items()
        if each.probability is not None and each.truth != each.predicted and image not in worst
    }
    certain = sorted(mistakes, key=lambda image: (-mistakes[image], image))[: wanted // 2]
    return worst, certain


def displayed(source: Source, index: int) -> np.ndarray:
    """An image as people see it: uint8 (H, W, 3)."""
    pixels: Tensor = source.image(index)
    if len(pixels) == 1:
        pixels = pixels.expand(3, -1, -1)
    return np.ascontiguousarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())
