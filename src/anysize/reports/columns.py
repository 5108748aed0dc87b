"""The columns of `metrics.csv` and `evaluation.csv` on screen: labels, units, percentages, errors.

Columns `train_METRIC` and `validation_METRIC` come from the task; nothing here knows which task it was.
"""

import math
import re
from collections.abc import Iterable, Sequence

from anysize.tasks.records import OBJECT_SIZES

SPLITS = ("train", "validation")
HOW_VALIDATED = ("validation_calibrated", "validation_size")  # say how validation was done, are no metrics
# The columns of an evaluation that are no metrics.
EVALUATION_FACTS = (
    "checkpoint",
    "split",
    "settings",
    "size",
    "calibrated",
    "strength",
    "part",
    "choice",
    "images",
    "images_per_second",
    "latency",
    "flops",
    "prepared_flops",
)

_FRACTION = re.compile(
    r"top\d+|error\d*|([co]|mean )?f1|[co][pr]|ap|precision|recall|(.*_)?(map|iou)(_.*)?|(.*[_ ])?accuracy|share.*"
    r"|waiting",
    re.IGNORECASE,
)
_LABELS = {
    "lr": "learning rate",
    "images_per_second": "images/s",
    "flops": "FLOPs",
    "prepared_flops": "FLOPs to get there",
    "error": "top-1 error",
    "train": "training",
    "map": "mAP",
    "iou": "IoU",
    "mean_iou": "mean IoU",
    "cf1": "CF1",
    "of1": "OF1",
    **{f"map_{size}": f"mAP {size}" for size in OBJECT_SIZES},
    **{f"iou_{size}": f"IoU {size}" for size in OBJECT_SIZES},
    "seconds": "training time",
    "waiting": "waiting for images",
    "latency": "time of an image",
}
_UNITS = {
    "flops": ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "kFLOPs"), (1, "FLOPs")),
    "latency": ((1e-3, "ms"),),
    "images": ((1e6, "million"), (1e3, "thousand"), (1, "")),
    "seconds": ((3600, "h"), (60, "min"), (1, "s")),
}


def split_of(column: str) -> tuple[str, str]:
    """Split and metric of a column; the split is empty where the column has none.

    >>> split_of("validation_mean_iou"), split_of("top1")
    (('validation', 'mean_iou'), ('', 'top1'))
    """
    split, _, metric = column.partition("_")
    return (split, metric) if split in SPLITS and metric else ("", column)


def metrics_of(columns: Iterable[str]) -> list[str]:
    """The metrics (without split) that occur as `train_*` or `validation_*`, the loss first.

    >>> metrics_of(["epoch", "train_top1", "validation_loss", "validation_top1", "validation_calibrated"])
    ['loss', 'top1']
    """
    found = dict.fromkeys(split_of(c)[1] for c in columns if split_of(c)[0] and c not in HOW_VALIDATED)
    return sorted(found, key=lambda metric: metric != "loss")


def main_metric(metrics: Iterable[str]) -> str:
    """The metric by which models are judged: top-1 where there is one, else the first that is not the loss.

    >>> main_metric(["loss", "top5", "top1"]), main_metric(["loss", "mean_iou"]), main_metric(["loss"])
    ('top1', 'mean_iou', 'loss')
    """
    metrics = list(metrics)
    return min(metrics, key=lambda metric: (metric != "top1", metric == "loss"), default="loss")


def is_fraction(column: str) -> bool:
    """True for metrics from 0 to 1 that are shown as percentages."""
    return _FRACTION.fullmatch(split_of(column)[1]) is not None


def lower_is_better(column: str) -> bool:
    """True for losses and errors."""
    return re.search(r"loss|error", column) is not None


def best_places(column: str, values: Sequence[float]) -> list[int]:
    """The places of the best value of a column, of all that are equal; none where there is but one value.

    >>> best_places("top1", [0.5, 0.75, 0.75]), best_places("loss", [0.5, float("nan")]), best_places("top1", [0.5])
    ([1, 2], [0], [])
    """
    known = [value for value in values if math.isfinite(value)]
    if len(values) < 2 or not known:
        return []
    top = min(known) if lower_is_better(column) else max(known)
    return [place for place, value in enumerate(values) if value == top]


def error_of(metric: str) -> str | None:
    """The error that goes with a top-k accuracy, `error` for top-1 and `errorK` for others; None for other metrics.

    >>> error_of("top1"), error_of("top5"), error_of("mean_iou")
    ('error', 'error5', None)
    """
    k = re.fullmatch(r"top(\d+)", metric)
    return None if k is None else "error" if k[1] == "1" else f"error{k[1]}"


def has_own_figure(metric: str) -> bool:
    """False for metrics that figures of training leave out: accuracies whose error is drawn, and those by object size.

    >>> [metric for metric in ("loss", "top1", "error", "map", "map_small") if has_own_figure(metric)]
    ['loss', 'error', 'map']
    """
    return error_of(metric) is None and not metric.endswith(tuple(f"_{size}" for size in OBJECT_SIZES))


def label(column: str) -> str:
    """A column's name for people.

    >>> label("validation_top1"), label("train_error5"), label("validation_mean_iou"), label("lr")
    ('validation top-1', 'training top-5 error', 'validation mean IoU', 'learning rate')
    """
    split, metric = split_of(column)
    name = re.sub(r"^error(\d+)$", r"top-\1 error", re.sub(r"^top(\d+)$", r"top-\1", metric))
    name = _LABELS.get(metric.lower(), name.replace("_", " "))
    return f"{'training' if split == 'train' else split} {name}".strip()


def unit_of(column: str, largest: float) -> tuple[float, str]:
    """Divisor and axis label with the unit in which values up to `largest` read well.

    >>> unit_of("flops", 3e15), unit_of("validation_top1", 0.8), unit_of("seconds", 90.0), unit_of("images", 50.0)
    ((1000000000000000.0, 'PFLOPs'), (0.01, 'validation top-1 (%)'), (60, 'training time (min)'), (1, 'images'))
    """
    if is_fraction(column):
        return 0.01, f"{label(column)} (%)"
    if column == "size":
        return 1, "image size (px)"
    if column not in _UNITS:
        return 1, label(column)
    divisor, unit = next((u for u in _UNITS[column] if largest >= u[0]), _UNITS[column][-1])
    return divisor, unit if column == "flops" else f"{label(column)} ({unit})" if unit else label(column)


def show(column: str, value: float | None) -> str:
    """A value for people.

    >>> show("train_top1", 0.8125), show("loss", 0.51234), show("flops", 2.5e15), show("seconds", 3725.0)
    ('81.2%', '0.512', '2.50 PFLOPs', '1:02:05')
    >>> show("flops", 3.448e18), show("flops", 11_100), show("flops", 0)
    ('3,448 PFLOPs', '11.1 kFLOPs', '0 FLOPs')
    """
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else str(value)
    metric = split_of(column)[1]
    if is_fraction(column):
        return f"{100 * value:.1f}%"
    if metric in ("flops", "prepared_flops"):
        divisor, unit = unit_of("flops", value)
        value /= divisor
        few = value < 999.5 and divisor > 1  # else the exponent would be written
        return (f"{value:#.3g}".removesuffix(".") if few else f"{value:,.0f}") + f" {unit}"
    if metric == "seconds":
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    if metric == "latency":
        return f"{1000 * value:.3g} ms"
    if metric in ("images_per_second", "images", "objects", "epoch", "step", "size"):
        return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    return f"{value:.3f}" if metric != "lr" and 0.01 <= abs(value) < 1000 else f"{value:.3g}"
