"""What the benchmarks share: both sides run in turn in one process, medians over several rounds, the machine named."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torchvision


def print_environment() -> None:
    """Print what a figure depends on: processor, cores, threads, versions, load."""
    load = os.getloadavg()[0]
    print(f"machine: {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, load {load:.1f}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}), torchvision {torchvision.__version__}; GPU: {gpu}"
    )


def compare(sides: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each side.

    In each round every side runs once, in an order that turns around from round to round, so that a machine that slows
    down or warms up does so for all. Prints the median and the range.
    """
    for _ in range(warmup):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats):
        for name in sorted(sides, reverse=bool(round_ % 2)):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    width = max(map(len, sides))
    for name, times in seconds.items():
        print(f"  {name:{width}}  median {medians[name]:.4f} s  ({min(times):.4f} to {max(times):.4f}, {repeats} runs)")
    return medians


def report(claim: str, ratio: float, target: float, *, at_least: bool = True) -> None:
    """Print a ratio beside its target."""
    met = ratio >= target if at_least else ratio <= target
    print(
        f"{claim}: {ratio:.2f} (target: at {'least' if at_least else 'most'} {target:g}) {'met' if met else 'NOT MET'}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
