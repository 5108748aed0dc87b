"""Mean average precision of a data set as large as MS-COCO 2014's validation set.

    python benchmarks/mean_average_precision.py [--repeats 5]

Claim: mAP over 40,504 images and 80 classes takes less than 3 s, and the process never more than 1 GB. Beside it, on
the same logits: torchmetrics' MultilabelAveragePrecision without binning, scikit-learn's average_precision_score where
it is installed, and all that the multi-label task computes at the end of an evaluation (mAP, precision, recall and F1,
also by object size: four rankings). The results agree to the precision of float32, in which torchmetrics adds up.

The peak is that of the resident memory of a process of its own that imports the library, makes the logits and computes
everything. Most of it is there after the imports, before the first tensor.
"""

import argparse
import importlib.util
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from anysize.tasks.label_metrics import LabelMetrics, average_precision
from harness import compare, in_fresh_process, print_environment, report

IMAGES, CLASSES = 40_504, 80
LABELS_AN_IMAGE = 2.9  # MS-COCO's


def example() -> tuple[Tensor, Tensor]:
    """Logits (N, K) of a middling network, and labels (N, 3, K) by object size."""
    generator = torch.Generator().manual_seed(0)
    share = LABELS_AN_IMAGE / CLASSES / 3  # of a size; few images have a class at several
    targets = (torch.rand(IMAGES, 3, CLASSES, generator=generator) < share).byte()
    logits = torch.randn(IMAGES, CLASSES, generator=generator) + 3 * targets.amax(1) - 3
    return logits, targets


def everything(logits: Tensor, targets: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """What the task computes at the end of an evaluation, from batches."""
    metric = LabelMetrics(tuple(f"class {k}" for k in range(CLASSES)))
    for part in zip(logits.split(256), targets.split(256), strict=True):
        metric.update(*part)
    return metric.compute()


def peak() -> tuple[float, float]:
    """Most resident memory (GB) of this process so far, and after mAP and all tables."""
    before = most_resident()
    logits, targets = example()
    average_precision(logits, targets.amax(1))
    everything(logits, targets)
    return before, most_resident()


def most_resident() -> float:
    """Most resident memory (GB) of this program; `getrusage` on Linux also counts what the process was before exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def sklearn_side(logits: Tensor, true: Tensor) -> Callable[[], float]:
    from sklearn.metrics import average_precision_score

    return lambda: float(average_precision_score(true.numpy(), logits.numpy(), average="macro"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    from torchmetrics.functional.classification import multilabel_average_precision

    torch.set_num_threads(1)
    print_environment()
    logits, targets = example()
    true = targets.amax(1)
    print(f"{IMAGES:,} images, {CLASSES} classes, {true.sum() / IMAGES:.1f} labels an image")
    sides: dict[str, Callable[[], object]] = {
        "anysize, mAP": lambda: average_precision(logits, true).nanmean().item(),
        "anysize, all tables": lambda: everything(logits, targets),
        "torchmetrics, mAP": lambda: multilabel_average_precision(logits, true.long(), CLASSES, thresholds=None).item(),
    }
    if importlib.util.find_spec("sklearn"):
        sides["scikit-learn, mAP"] = sklearn_side(logits, true)
    values = {name: run() for name, run in sides.items() if name.endswith("mAP")}
    print("  " + ", ".join(f"{name} {value:.7f}" for name, value in values.items()))
    assert all(abs(value - values["anysize, mAP"]) < 1e-5 for value in values.values()), "the results differ"
    medians = compare(sides, repeats)
    report("seconds for mAP", medians["anysize, mAP"], 3, at_least=False)
    report("seconds for mAP and all tables", medians["anysize, all tables"], 3, at_least=False)
    before, most = in_fresh_process(peak, {})
    print(f"resident memory: {before:.2f} GB after the imports, {most:.2f} GB at most")
    report("peak resident memory in GB", most, 1, at_least=False)


if __name__ == "__main__":
    main()
