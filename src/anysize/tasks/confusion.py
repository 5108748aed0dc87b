"""One confusion matrix over a whole set of masks, and what is read off it: IoU by class, accuracy, IoU by object size.

matrix = confusion_matrix(prediction, truth, num_classes=21)
intersection_over_union(matrix).nanmean()
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from anysize.data.source import VOID
from anysize.registry import UserError
from anysize.tasks.records import OBJECT_SIZES


def confusion_matrix(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each pair of classes: int64 (K, K), a row a true class, a column a predicted one.

    Equal to torchmetrics' `MulticlassConfusionMatrix(num_classes, ignore_index=255)`, several times as fast: a pair is
    counted as a number of 16 bits, and void has rows of its own that are cut off, so that no pixel is sorted out.

    Args:
        predictions: class numbers, uint8 or int64, any shape.
        targets: class numbers of the same shape; 255 is void and does not count.
        num_classes: at most 255.

    Raises:
        UserError: shapes that differ, or a class number out of range.

    >>> confusion_matrix(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]), num_classes=2)
    tensor([[1, 1],
            [0, 0]])
    """
    if predictions.shape != targets.shape:
        raise UserError(
            f"predictions are {tuple(predictions.shape)} and targets {tuple(targets.shape)}; expected alike"
        )
    if not 1 <= num_classes <= VOID:
        raise UserError(f"there are {num_classes} classes; masks of 8 bits hold 1 to {VOID} beside void")
    predicted, true = _as_uint8(predictions, "predictions"), _as_uint8(targets, "targets")
    if predicted.numel() and (highest := int(predicted.amax())) >= num_classes:
        raise UserError(f"a prediction is class {highest}; expected 0 to {num_classes - 1}")
    rows = VOID + 1
    # 255 * K + K - 1 fits into 16 bits for up to 127 classes; narrow numbers are faster to make and to count
    narrow = torch.int16 if rows * num_classes <= 2**15 else torch.int32
    pairs = true.to(narrow).mul_(num_classes).add_(predicted)
    counts = torch.bincount(pairs.flatten(), minlength=rows * num_classes).view(rows, num_classes)
    if counts[num_classes:VOID].any():
        unknown = num_classes + int(counts[num_classes:VOID].any(dim=1).nonzero()[0])
        raise UserError(f"a mask holds class {unknown}; expected 0 to {num_classes - 1}, or {VOID} for void")
    return counts[:num_classes].clone()


def _as_uint8(classes: Tensor, what: str) -> Tensor:
    if classes.dtype == torch.uint8:
        return classes
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise UserError(f"{what} are {classes.dtype}; expected class numbers, such as logits.argmax(1)")
    if classes.numel():
        low, high = (int(value) for value in classes.aminmax())
        if low < 0 or high > VOID:
            raise UserError(f"{what} go from {low} to {high}; expected class numbers from 0, or {VOID} for void")
    return classes.byte()


def intersection_over_union(matrix: Tensor) -> Tensor:
    """IoU of each class, float32 (K,): its right pixels over those that are it in truth or prediction.

    NaN for a class that occurs in neither, so that `nanmean` leaves it out. (The published implementation of ELASTIC
    counts such a class as 0. On VOC's validation set all classes occur, and both agree.)

    >>> intersection_over_union(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    tensor([0.7500, 0.6667,    nan])
    """
    right = matrix.diagonal()
    return right / (matrix.sum(0) + matrix.sum(1) - right)


def class_accuracy(matrix: Tensor) -> Tensor:
    """Share of the pixels of each class that are predicted as it, float32 (K,); NaN for a class that has none."""
    return matrix.diagonal() / matrix.sum(1)


def pixel_accuracy(matrix: Tensor) -> Tensor:
    """Share of all pixels that are predicted rightly; NaN where there are none."""
    return matrix.diagonal().sum() / matrix.sum()


class MaskConfusion(Metric):  # type: ignore[misc]
    """The confusion matrix of all images, and the IoU of objects by their size.

    An object is here all pixels of one class in one image, since masks of classes do not tell instances apart: three
    cows are one object, of their common area. Its IoU is that within its image: pixels of the class in truth and
    prediction, over pixels of the class in either. Its size is its true area in pixels of the mask as stored:
    small below `areas[0]`, medium below `areas[1]`, else large. A class that an image does not truly hold is no object
    of it; pixels falsely taken for it count in the matrix alone. Nor is the background an object.

    `compute` gives `matrix` int64 (K, K), and by size `object_iou` float32 (3,), means (NaN where there are none), and
    `objects` int64 (3,), their numbers.

    Args:
        num_classes: at most 255.
        areas: the two limits in pixels.
        background: class that is no object; None: each is.

    >>> metric = MaskConfusion(2, areas=(3, 100))
    >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
    >>> metric.compute()["object_iou"], metric.compute()["objects"]
    (tensor([0.5000,    nan,    nan]), tensor([1, 0, 0]))
    """

    full_state_update = False
    matrix: Tensor
    iou_sums: Tensor
    objects: Tensor

    def __init__(self, num_classes: int, areas: Sequence[float], background: int | None = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.background = background
        self.register_buffer("limits", torch.tensor(list(areas), dtype=torch.float32), persistent=False)
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("iou_sums", torch.zeros(len(OBJECT_SIZES)), dist_reduce_fx="sum")
        self.add_state("objects", torch.zeros(len(OBJECT_SIZES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image: class numbers (H, W) of both, 255 for void in `target`."""
        matrix = confusion_matrix(prediction, target, self.num_classes)
        self.matrix += matrix
        areas = matrix.sum(1)
        present = areas > 0
        if self.background is not None:
            present[self.background] = False
        size = torch.bucketize(areas.float(), self.limits, right=True)  # an area that equals a limit is above it
        iou = intersection_over_union(matrix).where(present, 0)
        self.iou_sums.index_add_(0, size, iou)
        self.objects.index_add_(0, size, present.long())

    def compute(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix, "object_iou": self.iou_sums / self.objects, "objects": self.objects}
