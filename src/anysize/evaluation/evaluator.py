"""The evaluator: a model at an image size, as it is or calibrated for it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from anysize.data.augment.transform import Transform
from anysize.data.kinds.base import TargetKind
from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.source import Source
from anysize.evaluation.evaluate import evaluate_batches, share_of
from anysize.evaluation.judging import Judge
from anysize.evaluation.settings import EvaluationSettings
from anysize.evaluation.shapes import EvaluatedShape
from anysize.models.measure.input_size import needs_two_images
from anysize.norms.by_size.model import fixed_norm_size, norm_sizes
from anysize.norms.calibration import calibrated, has_running_statistics
from anysize.norms.choice import FULL, NONE, Choice, choose
from anysize.norms.strength import Statistics, having_statistics, statistics
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError, counted
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.stopping import StopRequest, StopWaiting
from anysize.tasks.base import Task
from anysize.tasks.records import Judged, Summary
from anysize.world import World


@dataclasses.dataclass
class Evaluator:
    """Measures a model on the validation images at any size, calibrating on training images where asked to.

    The calibration images are the first of a fixed shuffle of the training images, augmented as in training, so that
    an evaluation gives the same figure whenever it is run.
    """

    settings: EvaluationSettings
    kind: TargetKind
    task: Task
    preprocessing: Preprocessing
    validation: Source
    training_loader: Callable[[], PlanLoader]
    """Opens the training images, or others to calibrate with, where they are wanted."""
    device: torch.device
    train_transform: Callable[[], Transform]
    """Makes the augmentation of training, for settings.copies."""
    training_batch: int
    """Images of a training step, from which the batch size of evaluation follows where the settings name none."""
    seed: int = 0
    workers: int = 0
    augment_epoch: int = 0
    """The epoch whose augmentation images to calibrate with have, and those of settings.copies."""
    world: World = dataclasses.field(default_factory=World)
    """The processes that share the images of an evaluation, and those of a calibration."""
    say: Callable[[str], None] = lambda text: None
    """Told how far an evaluation or a calibration is, at each batch."""
    labelled: bool = True
    """Whether the images to calibrate with have their targets, which then judge the calibration."""
    shape: EvaluatedShape = dataclasses.field(default_factory=EvaluatedShape)
    """The shape that images are shown in."""

    def __post_init__(self) -> None:
        settings = self.settings
        if int(settings.crops) > 1 and settings.copies > 1:
            raise UserError(
                f"evaluation.crops is {settings.crops} and evaluation.copies {settings.copies}; expected one of them "
                "to be 1"
            )
        self.transform()  # says now, not after an epoch, what it does not take

    def transform(self) -> Transform:
        """Preprocessing of the validation images, in crops where the settings say so."""
        settings = self.settings
        return self.kind.eval_transform(self.preprocessing, int(settings.crops), settings.copies, self.shape.own)

    def batch_size(self, size: int) -> int:
        """Images a step at `size`, about as much memory at each."""
        base = self.settings.batch_size or self.training_batch * self.kind.evaluation_batch
        return SizeMix.fixed(size, self.preprocessing.image_size, "B+").batches(base)[0].batch_size

    def calibration_batches(self, model: nn.Module, size: int) -> list[Batch]:
        """Training images at `size`, two a batch at least, as many in all as the settings say.

        They have the shapes that images are evaluated in. A batch of one image is left out where `model` has norms that
        it tells nothing, and so are the images that judge the calibration.
        """
        numbers = np.arange(len(self.loader.source))
        if self.settings.calibration_strength == "chosen":
            numbers = np.setdiff1d(numbers, self.judging_images)
        length = len(numbers)
        plan = BatchPlan(
            length,
            SizeSchedule.constant(SizeMix.fixed(size)),
            batch_size=min(max(2, self.batch_size(size)), length),
            seed=self.seed,
            drop_last=False,
            shapes=self.shape.of_all,
        )
        wanted = self.settings.calibration_images or length
        batches: list[Batch] = []
        for batch in plan.batches(epoch=0):
            left = wanted - sum(map(_length, batches))
            if left < 1:
                break
            batches.append(dataclasses.replace(batch, indices=numbers[batch.indices[:left]]))
        if self.shape.own:
            chosen = np.concatenate([batch.indices for batch in batches])
            found = self.shape.batches(self.loader.source.subset(chosen), size, max(2, self.batch_size(size)))
            batches = [dataclasses.replace(batch, indices=chosen[batch.indices]) for batch in found]
        batches = [dataclasses.replace(batch, epoch=self.augment_epoch) for batch in batches]
        several = [batch for batch in batches if _length(batch) > 1]
        channels = self.preprocessing.channels
        if len(batches) > len(several) > 0 and needs_two_images(model, size, channels, calibrated=True):
            return several
        return batches

    def fits(self, model: nn.Module, plan: BatchPlan, epochs: int) -> bool:
        """Whether statistics of training are those of the base size, or of each: otherwise they want calibration.

        Those of a few shapes are not those of each image's own, and squares not those of another shape. Norms by size
        fit in any shape: calibrated they would be those of one size alone, and these would be what `best` keeps.
        """
        if norm_sizes(model):
            return True
        alike = not self.shape.own and plan.shapes == self.shape.of_all
        return alike and plan.schedule.sizes(epochs) == {self.preprocessing.image_size}

    @contextlib.contextmanager
    def calibrated(self, model: nn.Module, size: int, stop: StopRequest | None = None) -> Iterator[Choice]:
        """Within this context `model` has statistics of images at `size`, as the settings say, then its own again.

        Yields what was taken of the calibration, which is true where that is anything. A model without running
        statistics is left as it is. Where the settings leave the choice to held-out images it takes three to five
        passes over them; without labels also one at the size of training. A model with norms by size has plain ones
        meanwhile, those for `size`.
        """
        with fixed_norm_size(model, size), self._calibrated(model, size, stop) as choice:
            yield choice

    @contextlib.contextmanager
    def _calibrated(self, model: nn.Module, size: int, stop: StopRequest | None) -> Iterator[Choice]:
        if not has_running_statistics(model):
            yield Choice(*NONE, {})
            return
        if self.settings.calibration_strength == "chosen" and not len(self.judging_images):
            few = counted(len(self.loader.source), "image")
            yield Choice(*NONE, statistics(model), criterion=f"{few} to calibrate with, too few to judge by")
            return
        measured = self._measured(model, size, stop)
        if self.settings.calibration_strength == "chosen":
            choice = self._chosen(model, size, measured, stop)
        else:
            choice = Choice(*FULL, measured)
        with having_statistics(model, choice.statistics):
            yield choice

    def _measured(self, model: nn.Module, size: int, stop: StopRequest | None) -> Statistics:
        """The statistics of the full calibration for `size`."""
        batches = share_of(self.calibration_batches(model, size), self.world)
        whole = self.loader.load(batches, in_full=True)  # a figure does not depend on how training reads its images
        loaded = self._told(whole, batches, f"calibrating at {size} px", stop)
        with calibrated(model, loaded, world=self.world, describe=self.loader.source.describe):
            return statistics(model)

    def _chosen(self, model: nn.Module, size: int, measured: Statistics, stop: StopRequest | None) -> Choice:
        told = functools.partial(self._told, stop=stop)
        judge = Judge(
            self.task,
            self.judging_loader,
            functools.partial(self.batches_of, self.judging_loader.source),
            self.device,
            self.world,
            lambda loaded, batches, at: told(loaded, batches, f"judging the calibration at {at} px"),
        )
        if self.labelled:
            how = f"{'top1' if self.task.best == 'top1' else 'score'} of held-out images"  # mAP has none by image
            return choose(model, measured, judge.by_labels(model, size), criterion=how)
        own = self.preprocessing.own_size
        decided = judge.decisions(model, own)
        how = f"agreement with {own} px"
        return choose(model, measured, judge.by_agreement(model, size, decided), criterion=how)

    @functools.cached_property
    def judging_images(self) -> np.ndarray:
        """The training images, by their numbers, that judge a calibration and are held out from it."""
        length = len(self.loader.source)
        held = min(self.settings.judging_images, length // 4)
        return np.sort(np.random.default_rng(self.seed).permutation(length)[:held])

    @functools.cached_property
    def judging_loader(self) -> PlanLoader:
        """Loads these images as in evaluation."""
        source = self.loader.source.subset(self.judging_images)
        transform = self.kind.eval_transform(self.preprocessing, 1, 1, self.shape.own)
        return PlanLoader(source, transform, device=self.device, workers=self.workers)

    @functools.cached_property
    def loader(self) -> PlanLoader:
        """Loads the images to calibrate with."""
        return self.training_loader()

    def evaluate(
        self,
        model: nn.Module,
        size: int,
        stop: StopRequest | None = None,
        judged: dict[int, Judged] | None = None,
    ) -> Summary:
        """Metrics on the validation images at `size`, with `images` and `images_per_second` among the values.

        `judged` gets what is predicted for each image, by its number.

        Raises:
            Interrupted: a signal asked to stop.
            NotFinite: outputs are NaN or infinite.
        """
        batches = share_of(self.validation_batches(size), self.world)
        loaded = self._told(self.validation_loader.load(batches), batches, f"evaluating at {size} px", stop)
        return evaluate_batches(model, self.task, loaded, self.device, self.world, self.validation.describe, judged)

    def in_shape(self, shape: EvaluatedShape) -> "Evaluator":
        """The same evaluator with images in another shape; both load the images that calibrate from one source."""
        return dataclasses.replace(self, shape=shape, training_loader=lambda: self.loader)

    def alone(self) -> "Evaluator":
        """The same evaluator for this process alone, with all images."""
        return self if self.world.size == 1 else dataclasses.replace(self, world=World())

    @functools.cached_property
    def validation_loader(self) -> PlanLoader:
        """Loads the validation images as the settings say: as they are, in crops, or in augmented copies."""
        transform = self.train_transform() if self.settings.copies > 1 else self.transform()
        return PlanLoader(self.validation, transform, device=self.device, workers=self.workers)

    def validation_batches(self, size: int) -> list[Batch]:
        """The validation images at `size` in order, or at their own shapes those of one after those of another."""
        batches = self.batches_of(self.validation, size)
        epoch, copies = self.augment_epoch, self.settings.copies
        return [dataclasses.replace(batch, epoch=epoch, copies=copies) for batch in batches]

    def batches_of(self, source: Source, size: int) -> list[Batch]:
        """All images of a source at `size`, each once, in the shapes that images are evaluated in."""
        return self.shape.batches(source, size, self.batch_size(size))

    def _told(
        self, loaded: Iterable[LoadedBatch], batches: Sequence[Batch], doing: str, stop: StopRequest | None
    ) -> Iterator[LoadedBatch]:
        """The `loaded` ones of these batches; says how far they are, until a signal asks to stop."""
        done, total = 0, sum(map(_length, batches))
        for batch in _until(loaded, stop):
            self.say(f"{doing}: {done:,} of {counted(total, 'image')}")
            yield batch
            done += len(batch.indices)


def _length(batch: Batch) -> int:
    return len(batch.indices)


def _until(batches: Iterable[LoadedBatch], stop: StopRequest | None) -> Iterator[LoadedBatch]:
    if stop is None:
        yield from batches
        return
    loaded = iter(batches)
    while True:
        try:
            with stop.waiting():
                batch = next(loaded, None)
        except StopWaiting:
            batch = None
        if stop:
            raise stop.interruption("saved; the validation starts again")
        if batch is None:
            return
        yield batch
