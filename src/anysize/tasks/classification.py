"""Classification: one class an image, cross-entropy, top-1 and top-5 accuracy."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.sizes.multiples import Multiples
from anysize.tasks.base import (
    TASKS,
    Between,
    Forward,
    Mean,
    Outputs,
    averaged,
    image_side,
    loss_with_auxiliary,
    mixer_by_size,
)
from anysize.tasks.between import softmax_divergence
from anysize.tasks.records import Judged, Note, Shown, Summary
from anysize.tasks.views import with_views

_SHOWN = 5  # classes with the highest probabilities


class MeanCrossEntropy(Mean):
    """Mean cross-entropy over images, without label smoothing, so that runs compare."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(F.cross_entropy(outputs.float(), targets, reduction="none"))


class _Smoothing:
    """The label smoothing of a step; where no table says otherwise it is a constant, which the loss knows."""

    def __init__(self, value: float, by_size: Mapping[str, float], by_epoch: Mapping[str, float]) -> None:
        self._value, self._multiples = value, Multiples("task.label_smoothing", by_size, by_epoch)
        self.constant = 0.0 if self._multiples.given else value
        if self._multiples.given and not value:
            raise UserError(
                f"{self._multiples.given}: multiplies task.label_smoothing, which is 0; set that, or leave it out"
            )
        self._multiples.check_largest("task.label_smoothing", value)

    def __call__(self, targets: Tensor, classes: int, size: int, epoch: int) -> Tensor:
        """The targets (N) or (N, classes) of a step, smoothed (N, classes) where tables say how much."""
        if not self._multiples.given:
            return targets
        share = self._value * self._multiples.at(size, epoch)
        shares = F.one_hot(targets, classes).float() if targets.ndim == 1 else targets
        return shares * (1 - share) + share / classes


class Classification:
    """Logits (N, classes) against class indices (N,).

    Args:
        classes: their names.
        label_smoothing: share of each target spread evenly over all classes (torch's definition: the true class keeps
            1 - e + e / classes). Applies to mixed targets too.
        label_smoothing_by_size, label_smoothing_by_epoch: multiples of it at sizes and epochs (`multiple_at`).
        mixup, cutmix, by_size, by_epoch: as of `mixer_by_size`.
        auxiliary_weight: of the loss of each auxiliary classifier, in models that have some in training. 0.4 is that of
            DARTS and of Inception v3, 0.3 that of GoogLeNet's paper.
        flip, translate: the views of an image in evaluation, as of `with_views`.

    >>> task = Classification(["cat", "dog", "fish"])
    >>> round(task.loss(torch.zeros(2, 3), torch.tensor([0, 2])).item(), 4)
    1.0986
    """

    name = "classification"
    best = "top1"
    draws: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[str] = "class"
    settings: ClassVar[tuple[str, ...]] = (
        "task.label_smoothing",
        "task.label_smoothing_by_size",
        "task.label_smoothing_by_epoch",
        "task.auxiliary_weight",
        "augment.mixup",
        "augment.cutmix",
        "augment.by_size",
        "augment.by_epoch",
        "evaluation.flip",
        "evaluation.translate",
    )

    def __init__(
        self,
        classes: Sequence[str],
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        auxiliary_weight: float = 0.4,
        by_size: Mapping[str, Any] | None = None,
        by_epoch: Mapping[str, Any] | None = None,
        flip: bool = False,
        translate: int = 0,
        label_smoothing_by_size: Mapping[str, float] | None = None,
        label_smoothing_by_epoch: Mapping[str, float] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.num_classes = num_classes = len(self.classes)
        self._smoothing = _Smoothing(label_smoothing, label_smoothing_by_size or {}, label_smoothing_by_epoch or {})
        self.auxiliary_weight = auxiliary_weight
        self._mix = mixer_by_size(mixup, cutmix, num_classes, by_size or {}, by_epoch or {})
        self._views = functools.partial(with_views, flip=flip, translate=translate)

    def mix(self, images: Tensor, targets: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        images, targets = self._mix(images, targets, epoch)
        return images, self._smoothing(targets, self.num_classes, image_side(images), epoch)

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, targets, label_smoothing=self._smoothing.constant)

        return loss_with_auxiliary(cross_entropy, outputs, self.auxiliary_weight)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return softmax_divergence(student, teacher, temperature)

    def compare(self, between: Between, one: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        return between(one, other).mean()

    def weight(self, targets: Tensor) -> Tensor:
        return torch.full((), len(targets), device=targets.device)

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        if targets.ndim == 2:  # mixed targets: the class with the largest share
            targets = targets.argmax(dim=1)
        return {"top1": (outputs.argmax(dim=1) == targets).float().mean()}

    def metrics(self, device: torch.device) -> MetricCollection:
        def accuracy(k: int) -> Metric:
            return MulticlassAccuracy(num_classes=self.num_classes, top_k=k, average="micro", validate_args=False)

        metrics: dict[str, Metric] = {"top1": accuracy(1), "loss": MeanCrossEntropy()}
        if self.num_classes > 5:
            metrics["top5"] = accuracy(5)
        return MetricCollection(metrics, compute_groups=False).to(device)

    def measure(
        self, metrics: MetricCollection, forward: Forward, batch: LoadedBatch, note: Note | None = None
    ) -> None:
        outputs = averaged(self._views(forward), batch)
        targets = batch.targets[: len(outputs)]
        metrics.update(outputs, targets)
        if note:
            probabilities = outputs.softmax(1)
            highest, top = probabilities.max(1)
            scores = probabilities.gather(1, targets[:, None])[:, 0]
            columns = (each.tolist() for each in (targets, top, scores, highest))
            for true, predicted, score, probability in zip(*columns, strict=True):
                note(Judged(self.classes[true], self.classes[predicted], score, probability))

    def summary(self, metrics: MetricCollection) -> Summary:
        return Summary({name: float(value) for name, value in metrics.compute().items()})

    def predictions(self, forward: Forward, batch: LoadedBatch) -> Iterator[Tensor]:
        return iter(averaged(self._views(forward), batch))

    def decide(self, output: Tensor) -> Tensor:
        return output.argmax()

    def show(self, output: Tensor, target: Tensor) -> Shown:
        """The most probable classes, and the true one; the score is the true one's probability."""
        probabilities, true = output.softmax(0), int(target)
        top = probabilities.topk(min(_SHOWN, self.num_classes)).indices.tolist()
        kinds = {**dict.fromkeys(top, "wrong"), true: "right" if top[0] == true else "missed"}
        lines: list[tuple[str, float | None, str]] = [
            (self.classes[i], probabilities[i].item(), kind) for i, kind in kinds.items()
        ]
        return Shown(probabilities[true].item(), lines, number="probability", one=True)

    def annotate(self, image: np.ndarray, output: Tensor) -> Shown:
        """The most probable classes, the first of which is predicted."""
        probabilities = output.softmax(0)
        top = probabilities.topk(min(_SHOWN, self.num_classes)).indices.tolist()
        lines: list[tuple[str, float | None, str]] = [
            (self.classes[i], probabilities[i].item(), "other" if place else "predicted") for place, i in enumerate(top)
        ]
        return Shown(probabilities.max().item(), lines, number="probability")

    def describe(self, output: Tensor) -> dict[str, Any]:
        """The most probable class and its probability, then those of all."""
        probabilities = output.softmax(0).tolist()
        top = int(output.argmax())
        each = {f"p({name})": value for name, value in zip(self.classes, probabilities, strict=True)}
        return {"class": self.classes[top], "probability": probabilities[top], **each}

    def render(self, image: np.ndarray, output: Tensor) -> dict[str, Image.Image]:
        """None: a class is no picture."""
        return {}


TASKS.register("classification")(Classification)
