"""Segmentation: a class for each pixel, cross-entropy, mean IoU from one confusion matrix over the whole set."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from anysize.data.formats.file_lists import BACKGROUND
from anysize.data.loader import LoadedBatch
from anysize.data.palette import colorize, distinct_colors, legend, legend_of, overlay, painted, palette_image
from anysize.data.source import VOID
from anysize.registry import UserError
from anysize.tasks import dense_inference
from anysize.tasks.base import TASKS, Between, Forward, Mean, Outputs, loss_with_auxiliary
from anysize.tasks.between import softmax_divergence
from anysize.tasks.confusion import (
    MaskConfusion,
    class_accuracy,
    confusion_matrix,
    intersection_over_union,
    pixel_accuracy,
)
from anysize.tasks.records import OBJECT_SIZES, Judged, Note, Shown, Summary, Table

_OVERLAP = 1 / 3
MEAN = "mean of the classes"


def pixel_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K, h, w) and classes uint8 (N, H, W): the mean over the pixels that are not void.

    Logits of another size than the targets are brought to it bilinearly. 0 if all pixels are void. The softmax of
    log-probabilities is the probabilities, so networks that end in a log-softmax need no other loss.

    >>> pixel_cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 3], [255, 255]]], dtype=torch.uint8))
    tensor(1.3863)
    """
    logits = dense_inference.match_size(logits.float(), targets.shape[-2:])
    # A GPU adds pixels up within the loss in no fixed order.
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(logits, targets.long(), ignore_index=VOID, reduction=reduction).sum()
    return total / (targets != VOID).sum().clamp(min=1)


class MeanPixelCrossEntropy(Mean):
    """Mean cross-entropy over the pixels of all images that are not void."""

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add one image: logits (K, H, W), classes uint8 (H, W)."""
        valid = (target != VOID).sum()
        super().update(pixel_cross_entropy(output[None], target[None]), weight=valid.float())


class Segmentation:
    """Logits (N, K, H, W) against the classes of pixels, uint8 (N, H, W); 255 is void and counts nowhere.

    Evaluation is at each image's own size: the whole image, or sliding windows, perhaps at several scales and mirrored
    (`dense_inference.segment`).

    Args:
        classes: their names. If the first is "background", it is no object in the figures by object size.
        areas: areas in pixels of the mask as stored, below which an object is small and medium; COCO's by default.
        scales, flip, window, overlap: of evaluation, as in `dense_inference.segment`.
        base: image size in pixels that `window` refers to; 0: windows are as large at every size.
        auxiliary_weight: of the loss of each auxiliary head, in models that have some in training. 0.4 is PSPNet's;
            torchvision's reference training has 0.5.

    Raises:
        UserError: areas that do not rise, no scale, a scale, window or overlap out of range, or an overlap of no
            windows.

    >>> task = Segmentation(["background", "cat"], scales=(0.5, 1.0), flip=True)
    >>> task.best
    'mean_iou'
    """

    name = "segmentation"
    best = "mean_iou"
    draws: ClassVar[tuple[str, ...]] = ("masks", "overlays")
    targets: ClassVar[str] = "masks"
    settings: ClassVar[tuple[str, ...]] = (
        "task.auxiliary_weight",
        "data.areas",
        "evaluation.scales",
        "evaluation.flip",
        "evaluation.window",
        "evaluation.overlap",
        "sizes.base",
    )

    def __init__(
        self,
        classes: Sequence[str],
        areas: Sequence[float] = (32.0**2, 96.0**2),
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int = 0,
        overlap: float = _OVERLAP,
        base: int = 0,
        auxiliary_weight: float = 0.4,
    ) -> None:
        if len(areas) != 2 or not 0 < areas[0] <= areas[1]:
            raise UserError(f"data.areas is {tuple(areas)}; expected two rising areas in pixels, such as 1024, 9216")
        dense_inference.check(scales, window, overlap)
        if overlap != _OVERLAP and not window:
            raise UserError(
                f"evaluation.overlap is {overlap:g}, but evaluation.window is 0: whole images have no windows that "
                "overlap; set evaluation.window, or remove it"
            )
        self.classes = tuple(classes)
        self.areas = tuple(areas)
        self.auxiliary_weight = auxiliary_weight
        self._predict = functools.partial(
            dense_inference.predictions,
            scales=tuple(scales),
            flip=flip,
            window=window,
            overlap=overlap,
            base=base,
        )

    def mix(self, images: Tensor, targets: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        return images, targets

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        return loss_with_auxiliary(lambda logits: pixel_cross_entropy(logits, targets), outputs, self.auxiliary_weight)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return softmax_divergence(student, teacher, temperature)

    def compare(self, between: Between, one: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        """Both are brought to the size of the targets, whose void pixels count nowhere."""
        one, other = (dense_inference.match_size(each.float(), targets.shape[-2:]) for each in (one, other))
        valid = targets != VOID
        return torch.where(valid, between(one, other), 0.0).sum() / valid.sum().clamp(min=1)

    def weight(self, targets: Tensor) -> Tensor:
        return (targets != VOID).sum()

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        predicted = dense_inference.match_size(outputs, targets.shape[-2:]).argmax(1)
        right = (predicted == targets).sum()  # void is no class that can be predicted
        return {"pixel_accuracy": right / (targets != VOID).sum().clamp(min=1)}

    def metrics(self, device: torch.device) -> MetricCollection:
        background = 0 if self.classes[0] == BACKGROUND else None
        confusion = MaskConfusion(len(self.classes), self.areas, background)
        metrics = {"confusion": confusion, "loss": MeanPixelCrossEntropy()}
        return MetricCollection(metrics, compute_groups=False).to(device)

    def measure(
        self, metrics: MetricCollection, forward: Forward, batch: LoadedBatch, note: Note | None = None
    ) -> None:
        for output, target in zip(self._predict(forward, batch), batch.targets, strict=True):
            height, width = output.shape[-2:]  # masks of several sizes are padded to one at the right and the bottom
            own = target[:height, :width]
            metrics["confusion"].update(output.argmax(0), own)
            metrics["loss"].update(output, own)
            if note:
                note(self._judged(confusion_matrix(output.argmax(0), own, len(self.classes)).cpu()))

    def _judged(self, matrix: Tensor) -> Judged:
        """An image by its confusion matrix: its classes, and their mean IoU."""
        truth, predicted = (
            ";".join(self.classes[k] for k in (matrix.sum(axis) > 0).nonzero().flatten().tolist()) for axis in (1, 0)
        )
        score = float(intersection_over_union(matrix).nanmean())
        return Judged(truth, predicted, 1.0 if math.isnan(score) else score)

    def summary(self, metrics: MetricCollection) -> Summary:
        """Classes that occur neither in truth nor in prediction are left out of the means."""
        found = metrics["confusion"].compute()
        matrix = found["matrix"]
        iou, accuracy = intersection_over_union(matrix), class_accuracy(matrix)
        share = matrix.sum(1) / matrix.sum()
        rows: dict[str, Tensor] = dict(zip(self.classes, torch.stack([iou, accuracy, share], dim=1), strict=True))
        rows[MEAN] = torch.stack([iou.nanmean(), accuracy.nanmean(), share.mean()])
        columns = ("IoU", "accuracy", "share of pixels")
        by_class: Table = {name: dict(zip(columns, row.tolist(), strict=True)) for name, row in rows.items()}
        sizes = zip(OBJECT_SIZES, found["object_iou"].tolist(), found["objects"].tolist(), strict=True)
        by_size: Table = {size: {"IoU": mean, "objects": count} for size, mean, count in sizes}
        values = {"mean_iou": by_class[MEAN]["IoU"], "pixel_accuracy": float(pixel_accuracy(matrix))}
        values |= {f"iou_{size}": row["IoU"] for size, row in by_size.items()}
        values["loss"] = float(metrics["loss"].compute())
        return Summary(values, {"by class": by_class, "by object size": by_size}, self._confusion(matrix))

    def _confusion(self, matrix: Tensor) -> Table:
        """The numbers of a confusion matrix that are not 0, by the names of the classes."""
        found: Table = {}
        for true, predicted in matrix.nonzero().tolist():
            found.setdefault(self.classes[true], {})[self.classes[predicted]] = int(matrix[true, predicted])
        return found

    def predictions(self, forward: Forward, batch: LoadedBatch) -> Iterator[Tensor]:
        return self._predict(forward, batch)

    def decide(self, output: Tensor) -> Tensor:
        return output.argmax(0).byte()

    def show(self, output: Tensor, target: Tensor) -> Shown:
        """Truth and prediction in `distinct_colors`, and the IoU of each class in this image, the highest first.

        A class is right where truth and prediction meet anywhere, wrong where it is predicted alone, else missed. The
        score is the mean IoU of the classes that occur in truth or prediction.
        """
        predicted, true = output.argmax(0).byte().cpu(), target.byte().cpu()
        matrix = confusion_matrix(predicted, true, len(self.classes))
        iou, in_truth = intersection_over_union(matrix), matrix.sum(1) > 0
        present = iou.isfinite().nonzero().flatten().tolist()
        lines: list[tuple[str, float | None, str]] = []
        for k in sorted(present, key=lambda k: -float(iou[k])):
            kind = "wrong" if not in_truth[k] else "right" if iou[k] > 0 else "missed"
            lines.append((self.classes[k], float(iou[k]), kind))
        colors = distinct_colors()
        panels = {"truth": colorize(true.numpy(), colors), "prediction": colorize(predicted.numpy(), colors)}
        named = legend(self.classes, np.unique([predicted.numpy(), true.numpy()]).tolist(), colors)
        return Shown(float(iou.nanmean()) if present else 1.0, lines, panels, named, "IoU in this image")

    def annotate(self, image: np.ndarray, output: Tensor) -> Shown:
        """The image under the predicted classes, and their shares of the pixels, the largest first."""
        probabilities, mask = output.softmax(0).max(0)
        pixels = mask.flatten().bincount(minlength=len(self.classes))
        present = [k for k in pixels.argsort(descending=True, stable=True).tolist() if pixels[k]]
        lines: list[tuple[str, float | None, str]] = [
            (self.classes[k], float(pixels[k] / pixels.sum()), "predicted") for k in present
        ]
        panels = {"prediction": painted(image, mask.byte().numpy(), self.classes)}
        colors = legend_of(self.classes, sorted(present))
        return Shown(float(probabilities.mean()), lines, panels, colors, "share of the pixels")

    def describe(self, output: Tensor) -> dict[str, Any]:
        """The predicted classes, the largest first and separated by semicolons, then each one's share of the pixels."""
        pixels = output.argmax(0).flatten().bincount(minlength=len(self.classes))
        order = pixels.argsort(descending=True, stable=True).tolist()
        shares = {
            f"share({name})": share for name, share in zip(self.classes, (pixels / pixels.sum()).tolist(), strict=True)
        }
        return {"classes": ";".join(self.classes[k] for k in order if pixels[k]), **shares}

    def render(self, image: np.ndarray, output: Tensor) -> dict[str, Image.Image]:
        """The mask in VOC's palette, as its evaluation server takes it, and the image with the mask over it."""
        mask = output.argmax(0).byte().cpu().numpy()
        return {"masks": palette_image(mask), "overlays": Image.fromarray(overlay(image, mask))}


TASKS.register("segmentation")(Segmentation)
