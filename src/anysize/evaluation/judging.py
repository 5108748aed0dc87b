"""Scores that choose how much of a calibration a network takes, an image each: by labels, or without.

With labels an image's score is that of the task: for one class an image whether it is right, else what
`Judged.score` says. Without labels it is how much of what the network decides at the wanted size is what it decides of
the same picture at the size it was trained for, where it sees best. There it decides with the statistics of training.
That favours the network as it is: a doubtful gain is left, and at the size of training nothing is taken.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.evaluation.evaluate import evaluate_batches, evaluating, on_device, share_of
from anysize.evaluation.finite import is_finite
from anysize.registry import NotFinite
from anysize.sizes.batch import Batch
from anysize.tasks.base import Task
from anysize.tasks.records import Judged
from anysize.world import World

Score = Callable[[], np.ndarray]
"""Judges a model with the statistics that it has when called: a number an image, (N,), the same in all processes."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """Judges a model on held-out images.

    `batches` lists all images of the loader at a size; `told` passes loaded batches on and says how far they are.
    """

    task: Task
    loader: PlanLoader
    batches: Callable[[int], list[Batch]]
    device: torch.device
    world: World
    told: Callable[[Iterator[LoadedBatch], Sequence[Batch], int], Iterator[LoadedBatch]]

    def by_labels(self, model: nn.Module, size: int) -> Score:
        """The task's score of each image at `size`; NaN for all where the network gives no finite answers."""

        def score() -> np.ndarray:
            judged: dict[int, Judged] = {}
            try:
                evaluate_batches(
                    model, self.task, self._load(size), self.device, self.world, self.loader.source.describe, judged
                )
            except NotFinite:
                return np.full(len(self.loader.source), np.nan)
            answers = [judged[image] for image in sorted(judged)]
            if self.task.best == "top1":
                return np.array([answer.truth == answer.predicted for answer in answers], dtype=np.float64)
            return np.array([answer.score for answer in answers])

        return score

    def decisions(self, model: nn.Module, size: int) -> dict[int, Tensor]:
        """What a network decides of each image at `size`, by image."""
        decided: dict[int, Tensor] = {}
        with self.world.together(), evaluating(model):
            for batch in self._load(size):
                outputs = self.task.predictions(model, on_device(batch, self.device))
                for image, output in zip(batch.indices.tolist(), outputs, strict=True):
                    decided[image] = self.task.decide(output).cpu()
        return {image: held for own in self.world.gather(decided) for image, held in own.items()}

    def by_agreement(self, model: nn.Module, size: int, decided: Mapping[int, Tensor]) -> Score:
        """The share of what was `decided` of each image that is decided at `size`, too."""

        def score() -> np.ndarray:
            same: dict[int, float] = {}
            with self.world.together(), evaluating(model):
                for batch in self._load(size):
                    outputs = self.task.predictions(model, on_device(batch, self.device))
                    for image, output in zip(batch.indices.tolist(), outputs, strict=True):
                        agreed = (self.task.decide(output).cpu() == decided[image]).float().mean().item()
                        same[image] = agreed if is_finite(output) else np.nan
            of_all = {image: held for own in self.world.gather(same) for image, held in own.items()}
            return np.array([of_all[image] for image in sorted(of_all)])

        return score

    def _load(self, size: int) -> Iterator[LoadedBatch]:
        batches = share_of(self.batches(size), self.world)
        return self.told(self.loader.load(batches), batches, size)
