"""Whether keeping big blocks of memory, or huge pages, makes training on a CPU faster.

    python benchmarks/allocator.py [--quick] [--only WORD]

Question: glibc gives blocks of more than 32 MB back to the system as soon as they are freed, and trims its heap, so
that a step pays page faults for its activations again and again. Does it pay to set glibc's thresholds when training
starts (`mallopt`), or to let torch ask for transparent huge pages (`THP_MEM_ALLOC_ENABLE=1`), or both? Asked of whole
training steps (forward, loss, backward, SGD) of networks of several sizes, with batch norm and with online norm, on all
cores, channels last. There is no target: the table is what the decision rests on.

Each measurement is a process of its own, forked from one that has imported torch and done nothing yet. The settings
take turns, in an order that turns around from round to round. Beside images a second stand the peak resident memory and
what it was at the start, the page faults of a step, and the memory in huge pages at the end, which tell whether a
setting took hold.

What profiling said: counted, not timed, a step of these networks has 7,000 to 70,000 page faults, and with `mallopt`
fewer than ten once the heap has grown to its size.
"""

import argparse
import ctypes
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from anysize.models.spec import create_model
from anysize.training.allocator import MALLOPT
from harness import print_environment, training_step

SETTINGS = {"default": (), "mallopt": ("mallopt",), "huge pages": ("thp",), "both": ("mallopt", "thp")}
NORMS = {"batch": {}, "online": {"norm": "online"}}


class Net(NamedTuple):
    """A network, its batch and how long it is measured."""

    model: str
    batch: int
    channels: int
    size: int
    rounds: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, {self.size} px"


NETS = (
    Net("resnet14", 64, 1, 28, rounds=3, seconds=1.0),  # the quickstart's
    Net("resnet20", 128, 3, 32, rounds=3, seconds=1.2),
    Net("resnet18", 16, 3, 128, rounds=3, seconds=1.5),
    Net("resnet50", 8, 3, 224, rounds=1, seconds=4.0),
)


class Measured(NamedTuple):
    """What one process saw."""

    steps: list[float]  # seconds
    start: float  # MB resident
    peak: float
    faults: float  # a step
    huge: float  # MB in huge pages


def measure(net: Net, norm: str, settings: tuple[str, ...], seconds: float) -> Measured:
    """Train for `seconds`, at least two steps after a first one."""
    before = _resident("Rss")
    if "thp" in settings:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # torch reads it when it first allocates
    if "mallopt" in settings:
        libc = ctypes.CDLL(None)
        for parameter, value in MALLOPT:
            if not libc.mallopt(parameter, value):
                raise RuntimeError(f"mallopt({parameter}, {value}) was refused")
    model = create_model(net.model, in_channels=net.channels, **NORMS[norm]).to(memory_format=torch.channels_last)
    step = training_step(model, (net.batch, net.channels, net.size, net.size))
    step()
    steps: list[float] = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    while len(steps) < 2 or sum(steps) < seconds:
        start = time.perf_counter()
        step()
        steps.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    faults = (usage.ru_minflt - faults) / len(steps)
    return Measured(steps, before, usage.ru_maxrss / 1e3, faults, _resident("AnonHugePages"))


def _resident(kind: str) -> float:
    """MB of this process's memory, of one kind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{kind}:"))


def compare_settings(net: Net, quick: bool) -> dict[tuple[str, str], float]:
    """Images a second by norm and setting, as a fraction of the default's; prints a table."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "anysize.models.spec", "harness"])
    seen: dict[tuple[str, str], list[Measured]] = {(norm, setting): [] for norm in NORMS for setting in SETTINGS}
    for round_ in range(1 if quick else net.rounds):
        for norm, setting in sorted(seen, reverse=bool(round_ % 2)):
            with context.Pool(1) as pool:
                arguments = (net, norm, SETTINGS[setting], net.seconds / 4 if quick else net.seconds)
                seen[norm, setting].append(pool.apply(measure, arguments))
    speeds, ratios = {}, {}
    print(f"\n{net}")
    for (norm, setting), runs in seen.items():
        steps = [seconds for run in runs for seconds in run.steps]
        speeds[norm, setting] = net.batch / statistics.median(steps)
        ratios[norm, setting] = speeds[norm, setting] / speeds[norm, "default"]
        peak = f"peak {max(run.peak for run in runs):.0f} MB from {runs[0].start:.0f}"
        between = [net.batch / statistics.median(run.steps) for run in runs]
        print(
            f"  {norm:6} norm, {setting:10}  {speeds[norm, setting]:8.1f} images/s"
            f"  ({min(between):.1f} to {max(between):.1f}, {len(steps)} steps in {len(runs)} processes)"
            f"  {ratios[norm, setting]:.3f} of default;  {peak},"
            f" {statistics.median(run.faults for run in runs):.0f} faults a step, {runs[-1].huge:.0f} MB huge",
            flush=True,
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, measures little")
    parser.add_argument("--only", default="", help="only the networks whose names have this in them")
    arguments = parser.parse_args()
    if platform.libc_ver()[0] != "glibc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        sys.exit("mallopt's thresholds are glibc's: nothing to measure with another allocator")
    print_environment()
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    print(f"glibc {platform.libc_ver()[1]}; huge pages: {pages.read_text().strip() if pages.exists() else 'none'}")
    ratios = [compare_settings(net, arguments.quick) for net in NETS if arguments.only in str(net)]
    print("\nimages a second over the default's, geometric mean over the networks:")
    for norm in NORMS:
        means = {setting: statistics.geometric_mean([each[norm, setting] for each in ratios]) for setting in SETTINGS}
        print(f"  {norm} norm:", ", ".join(f"{setting} {mean:.3f}" for setting, mean in means.items()))


if __name__ == "__main__":
    main()
