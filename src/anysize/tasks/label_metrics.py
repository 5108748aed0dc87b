"""Metrics of multi-label predictions: average precision, precision, recall and F1, by size of object too.

average_precision(logits, targets).nanmean()      # mAP
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anysize.tasks.base import Mean
from anysize.tasks.records import OBJECT_SIZES, Table

OVERALL = "all labels and by object size"
BY_CLASS = "by class"
ALL_LABELS, TOP = "all labels", "top-3"
_TOP = 3


def average_precision(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Average precision of each class, float64 (K,) on the CPU; NaN for a class without a positive.

    AP = sum_n (R_n - R_(n-1)) P_n over the thresholds n from high to low, where P_n and R_n are precision and recall
    of the images whose logit is at least the threshold. Images with the same logit pass it together. That is
    scikit-learn's `average_precision_score` and torchmetrics' `MultilabelAveragePrecision(thresholds=None)`. Those
    count a class without a positive as 0; here `nanmean` leaves it out.

    Args:
        logits: (N, K), or anything else that ranks the images.
        targets: (N, K), nonzero for positives.
        counted: bool (N, K); an image that is False is left out for that class. None: all count.

    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    by_class = logits.T.cpu().contiguous(), targets.T.cpu().bool().contiguous()
    keep = None if counted is None else counted.T.cpu()
    results = []
    for number, (scores, positive) in enumerate(zip(*by_class, strict=True)):
        if keep is not None:
            scores, positive = scores[keep[number]], positive[keep[number]]
        results.append(_average_precision(scores, positive))
    return torch.tensor(results, dtype=torch.float64)


def _average_precision(scores: Tensor, positive: Tensor) -> float:
    if not positive.any():
        return float("nan")
    scores, order = scores.sort(descending=True)
    last = torch.ones_like(positive)  # of the images with the same score
    last[:-1] = scores[1:] != scores[:-1]
    found = positive[order].cumsum(0)[last].double()
    passed = last.nonzero().squeeze(1) + 1
    new = found.diff(prepend=found.new_zeros(1))
    return float((new * found / passed).sum() / found[-1])


class Counts(NamedTuple):
    """Right, false and missed labels of each class, int64 (K,)."""

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor

    @classmethod
    def of(cls, predicted: Tensor, targets: Tensor, negatives: Tensor | None = None) -> "Counts":
        """From bool (N, K); where `negatives` is given, only those can be false positives."""
        wrong = predicted & (~targets if negatives is None else negatives)
        return cls((predicted & targets).sum(0), wrong.sum(0), (~predicted & targets).sum(0))


def precision_recall_f1(counts: Counts) -> Tensor:
    """Precision, recall and F1 of each class, float64 (3, K): all 0 where no label was right, as the authors' code.

    >>> precision_recall_f1(Counts(*torch.tensor([[3, 0], [1, 0], [1, 2]])))[:, 0].tolist()
    [0.75, 0.75, 0.75]
    """
    right, wrong, missed = (count.double() for count in counts)
    return torch.stack([_share(right, right + wrong), _share(right, right + missed), _f1(right, wrong, missed)])


def averages(counts: Counts) -> dict[str, float]:
    """Precision, recall and F1 over all classes, as the literature abbreviates them.

    - CP, CR: means of the classes' precision and recall. A class without a right label has 0 in both.
    - CF1: their harmonic mean, 2 CP CR / (CP + CR): what papers on multi-label classification call CF1.
    - mean F1: the mean of the classes' F1, which is what ELASTIC's authors print as F_C. It is at most CF1.
    - OP, OR, OF1: of all labels of all classes in one pot; 0 where nothing is predicted (the authors' F_O is then NaN).

    >>> {name: round(value, 3) for name, value in averages(Counts(*torch.tensor([[3, 1], [1, 0], [1, 3]]))).items()}
    {'CP': 0.875, 'CR': 0.5, 'CF1': 0.636, 'mean F1': 0.575, 'OP': 0.8, 'OR': 0.5, 'OF1': 0.615}
    """
    precision, recall, f1 = precision_recall_f1(counts).mean(dim=1).tolist()
    overall = precision_recall_f1(Counts(*(count.sum()[None] for count in counts))).flatten().tolist()
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"CP": precision, "CR": recall, "CF1": harmonic, "mean F1": f1} | dict(
        zip(("OP", "OR", "OF1"), overall, strict=True)
    )


def top_labels(logits: Tensor, count: int = _TOP) -> Tensor:
    """Predictions of the top-3 protocol, bool (N, K): the `count` highest logits of an image that are also above 0.

    >>> top_labels(torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, -1.0, -2.0, -3.0]])).int().tolist()
    [[1, 1, 1, 0], [1, 0, 0, 0]]
    """
    highest = logits.topk(min(count, logits.shape[1]), dim=1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, highest, True) & (logits > 0)


def label_tables(logits: Tensor, targets: Tensor, classes: tuple[str, ...]) -> dict[str, Table]:
    """All figures of a data set by title, row and column, from logits (N, K) and targets uint8 (N, R, K).

    A label is predicted where its logit is above 0. "all labels" and "top-3" are over all classes.

    With R = 3 rows small, medium and large, an image counts for a class and a size as positive if it has an object of
    the class of that size (perhaps others too), as negative if it has no object of the class at all, and not at all if
    it has the class at other sizes alone: so a right label is never false. Recall is then that of the authors' counts,
    right / (right + missed) among the objects of a size. The negatives are the same for all sizes, so precision and AP
    also depend on how common a size is. The means are over the classes that have objects of the size.
    """
    predicted, true = logits > 0, targets.amax(1).bool()
    counts, ap = Counts.of(predicted, true), average_precision(logits, true)
    overall = {ALL_LABELS: {"mAP": float(ap.nanmean())} | averages(counts)}
    overall[TOP] = {"mAP": float("nan")} | averages(Counts.of(top_labels(logits), true))  # a ranking has no top-3
    if targets.shape[1] == len(OBJECT_SIZES):
        for size, positive in zip(OBJECT_SIZES, targets.bool().unbind(1), strict=True):
            ap_of_size = average_precision(logits, positive, positive | ~true)
            occurs = positive.any(0)
            of_size = Counts(*(count[occurs] for count in Counts.of(predicted, positive, negatives=~true)))
            overall[size] = {"mAP": float(ap_of_size.nanmean())} | averages(of_size)
    columns = {
        "AP": ap,
        **dict(zip(("precision", "recall", "F1"), precision_recall_f1(counts), strict=True)),
        "images": true.sum(0),
    }
    values = {column: figures.tolist() for column, figures in columns.items()}
    by_class = {name: {column: values[column][k] for column in values} for k, name in enumerate(classes)}
    return {OVERALL: overall, BY_CLASS: by_class}


class LabelMetrics(Metric):  # type: ignore[misc]
    """Keeps the logits and targets of all images; `compute` gives `label_tables`.

    40,504 images with 80 classes (MS-COCO 2014) take 23 MB.
    """

    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add images: logits (N, K), targets uint8 (N, R, K)."""
        self.logits.append(logits.float())
        self.targets.append(targets)

    def compute(self) -> dict[str, Table]:
        return label_tables(dim_zero_cat(self.logits).cpu(), dim_zero_cat(self.targets).cpu(), self.classes)


class MeanBinaryCrossEntropy(Mean):
    """Binary cross-entropy summed over classes, mean over images, whatever loss is trained, so that runs compare."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        true = targets.amax(1).float()
        super().update(F.binary_cross_entropy_with_logits(logits.float(), true, reduction="none").sum(1))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)


def _f1(right: Tensor, wrong: Tensor, missed: Tensor) -> Tensor:
    return _share(2 * right, 2 * right + wrong + missed)
