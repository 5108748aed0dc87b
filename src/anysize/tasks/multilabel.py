"""Multi-label classification: any number of classes an image, binary cross-entropy, mAP and F1, also by object size."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from anysize.data.augment.by_size import MIXING
from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.base import TASKS, Between, Forward, Outputs, averaged, loss_with_auxiliary, mixer_by_size
from anysize.tasks.between import binary_divergence
from anysize.tasks.label_metrics import ALL_LABELS, OVERALL, LabelMetrics, MeanBinaryCrossEntropy
from anysize.tasks.records import OBJECT_SIZES, Judged, Note, Shown, Summary
from anysize.tasks.views import with_views

_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _CLIP = 4.0, 0.0, 0.05
_TINY = 1e-12
_SHOWN = 5  # labels at least of an image


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits and targets (N, K), 0 to 1: summed over the classes, mean over the images.

    >>> binary_cross_entropy(torch.zeros(2, 4), torch.ones(2, 4)) / 4
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum") / len(logits)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = _GAMMA_NEGATIVE,
    gamma_positive: float = _GAMMA_POSITIVE,
    clip: float = _CLIP,
) -> Tensor:
    """Asymmetric loss of logits and targets (N, K): summed over the classes, mean over the images.

    A target between 0 and 1, of mixed images, costs its share of a positive and the rest of a negative.

    With p = sigmoid(logit) and p_m = max(p - clip, 0), each positive costs -(1 - p)^gamma_positive log(p) and each
    negative -p_m^gamma_negative log(1 - p_m) (Ridnik et al., arXiv 2009.14119). So the many easy negatives cost little,
    those below `clip` nothing. The gradient is that of the whole expression; the authors' training code can leave
    out that of the powers. Without powers and clip it is binary cross-entropy:

    >>> logits, targets = torch.randn(2, 3), torch.tensor([[1, 0, 0], [0, 1, 1]])
    >>> loss = asymmetric_loss(logits, targets, gamma_negative=0, gamma_positive=0, clip=0)
    >>> torch.testing.assert_close(loss, binary_cross_entropy(logits, targets))
    """
    logits = logits.float()
    shifted = (logits.sigmoid() - clip).clamp(min=0)
    log_not = torch.log1p(-shifted) if clip else F.logsigmoid(-logits)
    # A power below 1 has no finite gradient at 0. There the logarithm is 0 too, so the bound changes no value.
    negative = shifted.clamp(min=_TINY).pow(gamma_negative) * log_not
    positive = logits.neg().sigmoid().clamp(min=_TINY).pow(gamma_positive) * F.logsigmoid(logits)
    return -torch.lerp(negative, positive, targets.float()).sum() / len(logits)


class MultiLabel:
    """Logits (N, K) against labels, uint8 (N, R, K): rows of small, medium and large objects, or one row.

    A label is true if any of its rows is, and predicted if its logit is above 0. The loss is summed over the classes
    and the mean over the images is taken: with 80 classes, 80 times torch's mean, as the authors of ELASTIC train.

    Args:
        classes: their names.
        loss: "bce" (also if empty) or "asymmetric".
        gamma_negative, gamma_positive, clip: of the asymmetric loss.
        auxiliary_weight: of the loss of each auxiliary classifier, in models that have some in training.
        mixup, cutmix, by_size, by_epoch: as of `mixer_by_size`; where something is mixed, labels become shares between
            0 and 1, in one row.

    Raises:
        UserError: another loss, or options of the asymmetric loss with another one.

    >>> task = MultiLabel(["cat", "dog"])
    >>> round(task.loss(torch.zeros(3, 2), torch.ones(3, 1, 2, dtype=torch.uint8)).item(), 4)
    1.3863
    """

    name = "multilabel"
    best = "map"
    draws: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[str] = "labels"
    settings: ClassVar[tuple[str, ...]] = (
        "task.loss",
        "task.gamma_negative",
        "task.gamma_positive",
        "task.clip",
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
        loss: str = "",
        gamma_negative: float = _GAMMA_NEGATIVE,
        gamma_positive: float = _GAMMA_POSITIVE,
        clip: float = _CLIP,
        auxiliary_weight: float = 0.4,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        by_size: Mapping[str, Any] | None = None,
        by_epoch: Mapping[str, Any] | None = None,
        flip: bool = False,
        translate: int = 0,
    ) -> None:
        self.classes = tuple(classes)
        mixed = mixup or cutmix or any(name in (by_size or {}) for name in MIXING)
        mixer = mixer_by_size(mixup, cutmix, len(self.classes), by_size or {}, by_epoch or {})
        self._mix = mixer if mixed else None
        self.auxiliary_weight = auxiliary_weight
        self._views = functools.partial(with_views, flip=flip, translate=translate)
        self._loss: Callable[[Tensor, Tensor], Tensor] = binary_cross_entropy
        options = (gamma_negative, gamma_positive, clip)
        if loss == "asymmetric":
            self._loss = lambda logits, true: asymmetric_loss(logits, true, *options)
        elif loss not in ("", "bce"):
            raise UserError(f"task.loss is {loss!r}; expected bce or asymmetric")
        elif options != (_GAMMA_NEGATIVE, _GAMMA_POSITIVE, _CLIP):
            raise UserError(
                "task.gamma_negative, task.gamma_positive or task.clip is set, and the loss is binary cross-entropy, "
                'which has none of them; set task.loss = "asymmetric", or leave them out'
            )

    def mix(self, images: Tensor, targets: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        if self._mix is None:
            return images, targets
        images, shares = self._mix(images, targets.amax(1), epoch)
        return images, shares[:, None]

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        true = targets.amax(1)
        return loss_with_auxiliary(lambda logits: self._loss(logits, true), outputs, self.auxiliary_weight)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return binary_divergence(student, teacher, temperature)

    def compare(self, between: Between, one: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        return between(one, other).mean()

    def weight(self, targets: Tensor) -> Tensor:
        return torch.full((), len(targets), device=targets.device)

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        predicted, true = outputs > 0, targets.amax(1) > 0.5  # of mixed images the labels of the larger share
        right = (predicted & true).sum()
        return {"of1": 2 * right / (predicted.sum() + true.sum()).clamp(min=1)}

    def metrics(self, device: torch.device) -> MetricCollection:
        metrics = {"labels": LabelMetrics(self.classes), "loss": MeanBinaryCrossEntropy()}
        return MetricCollection(metrics, compute_groups=False).to(device)

    def measure(
        self, metrics: MetricCollection, forward: Forward, batch: LoadedBatch, note: Note | None = None
    ) -> None:
        outputs = averaged(self._views(forward), batch)
        targets = batch.targets[: len(outputs)]
        metrics.update(outputs, targets)
        if note:
            true, predicted = targets.amax(1) > 0, outputs > 0
            sure = outputs.abs().sigmoid().where(true != predicted, 0).amax(1)
            losses = F.binary_cross_entropy_with_logits(outputs, true.float(), reduction="none").sum(1)
            columns = (each.tolist() for each in (true, predicted, -losses, sure))
            for truth, answer, score, probability in zip(*columns, strict=True):
                note(Judged(self._names(truth), self._names(answer), score, probability or None))

    def _names(self, labels: Sequence[bool]) -> str:
        return ";".join(name for name, there in zip(self.classes, labels, strict=True) if there)

    def summary(self, metrics: MetricCollection) -> Summary:
        tables = metrics["labels"].compute()
        overall = tables[OVERALL]
        values = {name.lower(): overall[ALL_LABELS][name] for name in ("mAP", "CF1", "OF1")}
        values |= {f"map_{size}": overall[size]["mAP"] for size in OBJECT_SIZES if size in overall}
        return Summary(values | {"loss": float(metrics["loss"].compute())}, tables)

    def predictions(self, forward: Forward, batch: LoadedBatch) -> Iterator[Tensor]:
        return iter(averaged(self._views(forward), batch))

    def decide(self, output: Tensor) -> Tensor:
        return output > 0

    def show(self, output: Tensor, target: Tensor) -> Shown:
        """The labels that are predicted or true, the most probable first.

        The score is minus the image's binary cross-entropy, summed over the classes: unlike F1 or average precision it
        also ranks images without a label, and tells a sure mistake from a close one.
        """
        probabilities, true = output.sigmoid().tolist(), target.amax(0).tolist()
        predicted = (output > 0).tolist()
        lines: list[tuple[str, float | None, str]] = []
        for k in sorted(range(len(self.classes)), key=lambda k: -probabilities[k]):
            if predicted[k] or true[k]:
                kind = ("right" if true[k] else "wrong") if predicted[k] else "missed"
                lines.append((self.classes[k], probabilities[k], kind))
        score = -binary_cross_entropy(output[None], target.amax(0)[None]).item()
        return Shown(score, lines, number="probability")

    def annotate(self, image: np.ndarray, output: Tensor) -> Shown:
        """The predicted labels, the most probable first, or the next ones where there are few."""
        probabilities, predicted = output.sigmoid(), output > 0
        order = probabilities.argsort(descending=True, stable=True).tolist()[: max(_SHOWN, int(predicted.sum()))]
        lines: list[tuple[str, float | None, str]] = [
            (self.classes[k], probabilities[k].item(), "predicted" if predicted[k] else "other") for k in order
        ]
        return Shown(probabilities.max().item(), lines, number="probability")

    def describe(self, output: Tensor) -> dict[str, Any]:
        """The predicted labels, the most probable first and separated by semicolons, then the probability of each."""
        probabilities = output.sigmoid().tolist()
        order = output.argsort(descending=True).tolist()
        labels = ";".join(self.classes[k] for k in order if output[k] > 0)
        return {"labels": labels} | {f"p({name})": p for name, p in zip(self.classes, probabilities, strict=True)}

    def render(self, image: np.ndarray, output: Tensor) -> dict[str, Image.Image]:
        """None: labels are no picture."""
        return {}


TASKS.register("multilabel")(MultiLabel)
