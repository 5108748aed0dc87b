"""Tasks: each owns target, loss, metrics and pictures. A new one is one new file that registers itself in `TASKS`."""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchvision.transforms import v2

import anysize.tasks
from anysize.data.augment.by_size import mixing_at
from anysize.data.loader import LoadedBatch
from anysize.registry import Registry
from anysize.tasks.records import Note, Shown, Summary

Outputs = Tensor | tuple[Tensor, ...]
"""The outputs of a model: logits, or in training a tuple of the logits and those of its auxiliary classifiers."""

Between = Callable[[Tensor, Tensor], Tensor]
"""How far two logits (N, K, ...) lie apart: (N, ...)."""

Forward = Callable[[Tensor], Outputs]
"""A model in evaluation: images (N, C, H, W) to outputs."""


def main_logits(outputs: Outputs) -> Tensor:
    """The logits that count, without those of auxiliary classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def loss_with_auxiliary(loss: Callable[[Tensor], Tensor], outputs: Outputs, weight: float) -> Tensor:
    """`loss` of the logits, plus `weight` times that of the logits of each auxiliary classifier.

    >>> loss_with_auxiliary(torch.mean, (torch.ones(2, 3), torch.full((2, 3), 10.0)), weight=0.4)
    tensor(5.)
    """
    total = loss(main_logits(outputs))
    for auxiliary in () if isinstance(outputs, Tensor) else outputs[1:]:
        total = total + weight * loss(auxiliary)
    return total


def averaged(forward: Forward, batch: LoadedBatch) -> Tensor:
    """Logits in float32 (B, ...) of the samples of a batch, averaged over the copies or crops of each."""
    outputs = main_logits(forward(batch.images)).float()
    return outputs.reshape(batch.copies, -1, *outputs.shape[1:]).mean(dim=0)  # copy-major


class Mean(MeanMetric):  # type: ignore[misc]
    """The mean of all values: NaN where one is, which torchmetrics would leave out.

    >>> mean = Mean()
    >>> mean.update(torch.tensor([1.0, float("nan")]))
    >>> mean.compute()
    tensor(nan)
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy=math.nan)


def sample_mixer(mixup: float, cutmix: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function that mixes images (N, C, H, W), and their classes (N,) or the shares of their classes (N, K), alike.

    Each image is mixed with the one before it, which takes a share 1 - lambda.

    Args:
        mixup, cutmix: alpha of the Beta distributions of lambda; 0 leaves them out; with both one is drawn for each
            batch. mixup blends the pixels (Zhang et al., arXiv 1710.09412), cutmix pastes a box (Yun et al., arXiv
            1905.04899).
        num_classes: K.

    >>> mix = sample_mixer(mixup=0.2, cutmix=0.0, num_classes=3)
    >>> mix(torch.zeros(2, 1, 4, 4), torch.tensor([0, 2]))[1].sum(1)
    tensor([1., 1.])
    """
    mixers = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
    mixers += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
    mixer = v2.RandomChoice(mixers) if mixers else None
    return lambda images, targets: (images, targets) if mixer is None else tuple(mixer(images, targets))


def image_side(images: Tensor) -> int:
    """The side in pixels of the square that has as many pixels as each of the images (N, C, H, W).

    >>> image_side(torch.zeros(2, 3, 16, 25))
    20
    """
    return math.isqrt(images[0, 0].numel())


def mixer_by_size(
    mixup: float, cutmix: float, num_classes: int, by_size: Mapping[str, Any], by_epoch: Mapping[str, Any]
) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """A `sample_mixer` that takes the epoch, too, and whose alphas follow the tables of `augment` (`augment_at`).

    >>> mix = mixer_by_size(0.0, 0.0, 3, {"mixup": ((2, 0.0), (4, 0.2))}, {})
    >>> mix(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]), 0)[1].tolist()
    [0, 2]
    """
    mixers: dict[tuple[float, float], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {}

    def mix(images: Tensor, targets: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        alphas = mixing_at(mixup, cutmix, (by_size, by_epoch), image_side(images), epoch)
        if alphas not in mixers:
            mixers[alphas] = sample_mixer(*alphas, num_classes)
        return mixers[alphas](images, targets)

    return mix


class Task(Protocol):
    """Training, evaluation, reports and `predict` ask this of a task, which is built from class names and options."""

    name: str
    best: str
    """Name of the metric, higher is better, that chooses the best checkpoint."""
    draws: ClassVar[tuple[str, ...]]
    """The folders that the pictures of `render` belong in."""
    targets: ClassVar[str]
    """The kind of targets it learns."""
    settings: ClassVar[tuple[str, ...]]
    """The recipe's settings it takes, such as "task.label_smoothing"; the last part is the name of the option."""

    def mix(self, images: Tensor, targets: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch of `epoch` (mixup, cutmix); draws from torch's generator."""
        ...

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The training loss of a batch: a scalar, a mean over its images or pixels; auxiliary classifiers count."""
        ...

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of what logits (N, K, ...) predict from what a teacher's do: (N, ...)."""
        ...

    def compare(self, between: Between, one: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        """How far two logits of a batch lie apart: a scalar, the mean over the images or pixels that `loss` is over."""
        ...

    def weight(self, targets: Tensor) -> Tensor:
        """How many images or pixels of a part of a batch its loss is the mean over: a whole number on its device."""
        ...

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Cheap metrics of one training batch as scalars on its device, without a transfer."""
        ...

    def metrics(self, device: torch.device) -> MetricCollection:
        """Fresh metrics over a whole data set, for `measure`."""
        ...

    def measure(
        self, metrics: MetricCollection, forward: Forward, batch: LoadedBatch, note: Note | None = None
    ) -> None:
        """Update the metrics with a batch; `note` is told what is predicted for each of its images."""
        ...

    def summary(self, metrics: MetricCollection) -> Summary:
        """The figures of all batches that the metrics have seen; `loss` is among the values."""
        ...

    def predictions(self, forward: Forward, batch: LoadedBatch) -> Iterator[Tensor]:
        """The output, float32, for each image of a batch: (classes,), or (classes, H, W) at the image's own size."""
        ...

    def decide(self, output: Tensor) -> Tensor:
        """What an output decides of its image: a class (), its labels (classes,), or the class of each pixel (H, W)."""
        ...

    def show(self, output: Tensor, target: Tensor) -> Shown:
        """The prediction for an image beside what is true of it."""
        ...

    def annotate(self, image: np.ndarray, output: Tensor) -> Shown:
        """The prediction for an image, uint8 (H, W, 3), of which nothing is known; its score is how sure it is."""
        ...

    def describe(self, output: Tensor) -> dict[str, Any]:
        """The prediction for an image as a row of a table."""
        ...

    def render(self, image: np.ndarray, output: Tensor) -> dict[str, Image.Image]:
        """The prediction for an image, uint8 (H, W, 3), as pictures, by the folder that they belong in."""
        ...


TASKS: Registry[Task] = Registry("task")


def create_task(name: str, classes: Sequence[str], **options: object) -> Task:
    """Build a task by name, for these classes.

    Raises:
        UserError: an unknown name.

    >>> create_task("classification", ["cat", "dog"], label_smoothing=0.1).best
    'top1'
    """
    task: Task = task_class(name)(classes, **options)
    return task


def task_class(name: str) -> Any:
    """The class of a task, which says of itself what it takes; raises a `UserError` for an unknown name."""
    _find_tasks()
    return TASKS[name]


def list_tasks() -> list[str]:
    """Names of the tasks that can be trained and evaluated.

    >>> "classification" in list_tasks()
    True
    """
    _find_tasks()
    return list(TASKS)


def task_for(targets: str) -> str:
    """The name of the task that learns such targets.

    >>> task_for("masks")
    'segmentation'
    """
    return next(name for name in list_tasks() if task_class(name).targets == targets)


def _find_tasks() -> None:
    for module in pkgutil.iter_modules(anysize.tasks.__path__):
        importlib.import_module(f"anysize.tasks.{module.name}")
