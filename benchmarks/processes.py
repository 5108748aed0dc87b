"""Two processes with one core each against one process with one thread.

    python benchmarks/processes.py [--repeats 5]

Claim: two processes over gloo train at least 1.7 times as many images a second as one: the gradients are added up by
`DistributedDataParallel` while they are computed, and what the processes agree upon in each step travels beside it.
ResNet-20 at 32 px, 64 images a process and step, on the images of the package. The figure is that of `metrics.csv`:
the steps of the last epoch, loading included, validation not.

Both sides are the command line, the second through torchrun; they run in turn. Where two cores of a machine share a
core's arithmetic, or its memory, two processes cannot be twice as fast: `--floor` says what two processes that know
nothing of each other reach on it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from harness import print_environment, report

TRAIN = [
    "train", "quickstart-fixed", "--model.name", "resnet20", "--sizes.base", "32", "--training.equal_flops", "false",
    "--training.epochs", "2", "--training.batch_size", "64", "--training.validate_every", "10", "--data.limit", "6400",
    "--evaluation.pictures", "0", "--optimizer.warmup_epochs", "0",
]  # fmt: skip
ALONE = [sys.executable, "-m", "anysize"]
PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "anysize"]


def start(launcher: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Begin the training, with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, *TRAIN, "--out", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def speed(*launchers: list[str]) -> float:
    """Images a second of trainings that run at the same time, together."""
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / str(number) for number in range(len(launchers))]
        for training in [start(launcher, folder) for launcher, folder in zip(launchers, folders, strict=True)]:
            if training.wait():
                raise SystemExit(f"{' '.join(training.args)} failed")
        return sum(pd.read_csv(folder / "metrics.csv")["images_per_second"].iloc[-1] for folder in folders)


def main() -> None:
    """Train in turn, print medians and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--floor", action="store_true", help="also two processes that do not know each other")
    options = parser.parse_args()
    print_environment()
    sides = {"one process": [ALONE], "two processes": [PAIR]} | ({"two alone": [ALONE, ALONE]} if options.floor else {})
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, launchers in sides.items():
            speeds[name].append(speed(*launchers))
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    for name, each in speeds.items():
        print(f"  {name:13}  median {medians[name]:,.0f} images/s  ({min(each):,.0f} to {max(each):,.0f})")
    if options.floor:
        ratio = medians["two alone"] / medians["one process"]
        print(f"  two processes that do not know each other: {ratio:.2f} times one")
    report("images a second of two processes over those of one", medians["two processes"] / medians["one process"], 1.7)


if __name__ == "__main__":
    main()
