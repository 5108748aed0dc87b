"""The confusion matrix of masks against torchmetrics' MulticlassConfusionMatrix.

    python benchmarks/confusion_matrix.py [--repeats 7]

Claim: an update of a matrix of 21 classes with a mask of 512 x 512 pixels, 255 ignored, is at least as fast as
torchmetrics' and gives exactly the same counts. Both sides are metrics that are updated with class numbers, as uint8
(what the task hands over) and as int64 (torch's own class numbers); torchmetrics once as it is by default, which checks
its input, and once without checks. Ours checks too. The masks are of blobs, as segmentations are: neighbours mostly
belong to the same pair of classes, and counting them waits for the same counter; pixels at random do not.

What profiling said (a core of a 2.3 GHz Xeon): sorting out the void pixels by a mask and widening both maps to 64 bits
take 2.6 of torchmetrics' 3.4 ms. Ours counts void in rows that are cut off, and pairs of 16 bits: 0.3 ms, most of it
`torch.bincount`.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from anysize.tasks.confusion import MaskConfusion
from harness import compare, print_environment, report

CLASSES, SIDE, VOID = 21, 512, 255


def blobs(seed: int) -> Tensor:
    """Class numbers, uint8 (H, W), of smooth regions, with void along their borders."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(1, CLASSES, 12, 12, generator=generator)
    top = F.interpolate(fields, (SIDE, SIDE), mode="bicubic", align_corners=True)[0].topk(2, dim=0)
    return torch.where(top.values[0] - top.values[1] < 0.05, VOID, top.indices[0]).byte()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print_environment()
    truth = blobs(0)
    prediction = truth.roll(9, dims=1).where(truth.roll(9, dims=1) != VOID, 0)
    print(f"{CLASSES} classes, {SIDE} x {SIDE} pixels, {(truth == VOID).float().mean():.0%} void")
    ratios = []
    for dtype in (torch.uint8, torch.int64):
        maps = prediction.to(dtype), truth.to(dtype)
        ours = MaskConfusion(CLASSES, areas=(32**2, 96**2))
        theirs = {
            "torchmetrics": MulticlassConfusionMatrix(CLASSES, ignore_index=VOID),
            "torchmetrics, unchecked": MulticlassConfusionMatrix(CLASSES, ignore_index=VOID, validate_args=False),
        }
        for metric in (ours, *theirs.values()):
            metric.update(*maps)
        for name, metric in theirs.items():
            assert torch.equal(ours.compute()["matrix"], metric.compute()), f"{name} counts otherwise"
        print(f"{dtype}, the same counts:")
        sides = {"anysize, with IoU by object size": ours, **theirs}
        medians = compare(
            {name: lambda metric=metric, maps=maps: metric.update(*maps) for name, metric in sides.items()},
            repeats,
            at_least=0.05,
        )
        own = medians.pop("anysize, with IoU by object size")
        ratios.append(medians["torchmetrics, unchecked"] / own)
        print(
            f"  torchmetrics takes {medians['torchmetrics'] / own:.1f} times as long, unchecked {ratios[-1]:.1f} times"
        )
    report("updates a second over torchmetrics' without checks, the lower of the two", min(ratios), 1.0)


if __name__ == "__main__":
    main()
