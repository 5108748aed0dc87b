"""Evaluating a model of a recipe at a size: batches, calibration, metrics."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from anysize.data.loader import LoadedBatch, PlanLoader, sequential_batches
from anysize.data.preprocess import EvalTransform
from anysize.data.source import Source
from anysize.evaluation.evaluate import evaluate_batches
from anysize.experiment import build
from anysize.norms.calibration import calibrated
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.sizes.mix import SizeMix
from anysize.sizes.plan import Batch, BatchPlan
from anysize.sizes.schedule import SizeSchedule
from anysize.tasks.base import Task
from anysize.training.guards import Interrupted, StopRequest


@dataclasses.dataclass
class Evaluator:
    """Measures a model on the validation images at any size, calibrating on training images where asked to.

    The calibration images are the first of a fixed shuffle of the training images, augmented as in training, so that
    an evaluation gives the same figure whenever it is run.
    """

    recipe: Recipe
    preprocessing: Preprocessing
    task: Task
    validation: Source
    loader: PlanLoader
    device: torch.device

    def batch_size(self, size: int) -> int:
        """Images a step at `size`, about as much memory at each."""
        base = self.recipe.evaluation.batch_size or 4 * self.recipe.training.batch_size
        return SizeMix.fixed(size, self.preprocessing.image_size, "B+").batches(base)[0].batch_size

    def calibration_batches(self, size: int) -> Iterator[LoadedBatch]:
        """Training images at `size`."""
        images = len(self.loader.source)
        plan = BatchPlan(
            images,
            SizeSchedule.constant(SizeMix.fixed(size)),
            batch_size=min(self.batch_size(size), images),
            seed=self.recipe.training.seed,
            drop_last=False,
        )
        wanted = self.recipe.evaluation.calibration_images or images
        batches, count = [], 0
        for batch in plan.batches(epoch=0):
            if count >= wanted:
                break
            batches.append(batch)
            count += len(batch.indices)
        return iter(self.loader.load(batches))

    def calibrated(self, model: nn.Module, size: int) -> contextlib.AbstractContextManager[int]:
        """Within this context `model` has statistics of images at `size`; then its own again."""
        return calibrated(model, self.calibration_batches(size))

    def evaluate(self, model: nn.Module, size: int, stop: StopRequest | None = None) -> dict[str, float]:
        """Metrics on the validation images at `size`.

        Raises:
            Interrupted: a signal asked to stop.
        """
        batches = self.validation_loader.load(self._validation_batches(size))
        return evaluate_batches(model, self.task, _until(batches, stop), self.device)

    @functools.cached_property
    def validation_loader(self) -> PlanLoader:
        """Loads the validation images as the recipe says: as they are, in crops, or in augmented copies."""
        settings = self.recipe.evaluation
        crops = int(settings.crops)
        if crops > 1 and settings.copies > 1:
            raise UserError(
                f"evaluation.crops is {crops} and evaluation.copies {settings.copies}; expected one of them to be 1"
            )
        transform = self.loader.transform if settings.copies > 1 else EvalTransform(self.preprocessing, crops=crops)
        workers = build.worker_count(self.recipe.data)
        return PlanLoader(self.validation, transform, device=self.device, workers=workers)

    def _validation_batches(self, size: int) -> list[Batch]:
        batches = sequential_batches(len(self.validation), size, self.batch_size(size))
        return [dataclasses.replace(batch, copies=self.recipe.evaluation.copies) for batch in batches]


def _until(batches: Iterable[LoadedBatch], stop: StopRequest | None) -> Iterator[LoadedBatch]:
    for batch in batches:
        if stop:
            raise Interrupted("saved; the validation starts again")
        yield batch
