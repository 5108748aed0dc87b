"""Classification: one class an image, cross-entropy, top-1 and top-5 accuracy."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from anysize.tasks.base import TASKS, Outputs, loss_with_auxiliary


class MeanCrossEntropy(MeanMetric):  # type: ignore[misc]
    """Mean cross-entropy over images, without label smoothing, so that runs compare."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(F.cross_entropy(outputs.float(), targets, reduction="none"))


class Classification:
    """Logits (N, classes) against class indices (N,).

    Args:
        num_classes: number of classes.
        label_smoothing: share of each target spread evenly over all classes (torch's definition: the true class keeps
            1 - e + e / classes). Applies to mixed targets too.
        mixup, cutmix: alpha of their Beta distributions; 0 leaves them out; with both one is drawn for each batch.
        auxiliary_weight: of the loss of each auxiliary classifier, in models that have some in training. 0.4 is that of
            DARTS and of Inception v3, 0.3 that of GoogLeNet's paper.

    >>> task = Classification(num_classes=3)
    >>> round(task.loss(torch.zeros(2, 3), torch.tensor([0, 2])).item(), 4)
    1.0986
    """

    name = "classification"
    best = "top1"

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        auxiliary_weight: float = 0.4,
    ) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        mixers = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        mixers += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
        self._mixer = v2.RandomChoice(mixers) if mixers else None

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self._mixer is None:
            return images, targets
        images, targets = self._mixer(images, targets)
        return images, targets

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

        return loss_with_auxiliary(cross_entropy, outputs, self.auxiliary_weight)

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


TASKS.register("classification")(Classification)
