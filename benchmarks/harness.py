"""What the benchmarks share: both sides run in turn in one process, medians over several rounds, the machine named."""

import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")


def print_environment() -> None:
    """Print what a figure depends on: processor, cores, threads, versions, load."""
    load = os.getloadavg()[0]
    print(f"machine: {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, load {load:.1f}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}), torchvision {torchvision.__version__}; GPU: {gpu}"
    )


def compare(
    sides: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: int = 1,
    *,
    at_least: float = 0.0,
    wait: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Median seconds of a call of each side.

    In each round every side runs once, in an order that turns around from round to round, so that a machine that slows
    down or warms up does so for all. Prints the median and the range.

    Args:
        sides: what to call, by name.
        repeats: rounds.
        warmup: calls of each side that are not timed.
        at_least: seconds. A side that takes less is called several times in a row, and the time shared out.
        wait: called before the clock is read, such as `torch.cuda.synchronize`.
    """

    def seconds_of(run: Callable[[], object], calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if wait:
            wait()
        return time.perf_counter() - start

    for _ in range(warmup):
        for run in sides.values():
            seconds_of(run, 1)
    calls = dict.fromkeys(sides, 1)
    for name, run in sides.items():
        while at_least and (took := seconds_of(run, calls[name])) < at_least:
            calls[name] = math.ceil(calls[name] * min(1.1 * at_least / took, 10))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats):
        for name in sorted(sides, reverse=bool(round_ % 2)):
            seconds[name].append(seconds_of(sides[name], calls[name]) / calls[name])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    width = max(map(len, sides))
    for name, times in seconds.items():
        count = f"{repeats} runs" if calls[name] == 1 else f"{repeats} runs of {calls[name]}"
        spread = f"{_duration(min(times))} to {_duration(max(times))}"
        print(f"  {name:{width}}  median {_duration(medians[name])}  ({spread}, {count})")
    return medians


def report(claim: str, ratio: float, target: float, *, at_least: bool = True, digits: int = 2) -> bool:
    """Print a ratio beside its target; return whether it is met."""
    met = ratio >= target if at_least else ratio <= target
    print(
        f"{claim}: {ratio:.{digits}f} (target: at {'least' if at_least else 'most'} {target:g}) "
        f"{'met' if met else 'NOT MET'}"
    )
    return met


def training_step(
    model: nn.Module,
    shape: tuple[int, ...],
    order: torch.memory_format = torch.channels_last,
    precision: str = "float32",
) -> Callable[[], None]:
    """Forward, loss, backward and step of a classifier of ten classes on random images of `shape` (N, C, H, W)."""
    torch.manual_seed(0)
    device = next(model.parameters()).device
    images = torch.randn(shape, device=device).to(memory_format=order)
    targets = torch.randint(10, shape[:1], device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32"):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()

    return step


def page_faults(run: Callable[[], object], calls: int = 3) -> float:
    """Page faults of a call, those that no disk takes part in: memory that is new to the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls


def memory_of(process: int | str) -> int:
    """Bytes of a process: its own, and its part of what is shared. Raises an `OSError` where it is gone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def peak_tensor_bytes(run: Callable[[], object]) -> int:
    """Most bytes that the tensors made in `run` took up at once.

    On a CPU the profiler reports each block that torch's allocator hands out or takes back, temporaries inside
    operations included; the libraries' own buffers are not tensors.
    """
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


def in_fresh_process(
    function: Callable[P, T], environment: Mapping[str, str], *arguments: P.args, **named: P.kwargs
) -> T:
    """What `function` returns in a Python process of its own that starts with these environment variables as well.

    The function is one of a module's own, and the module guards its `main` by `__name__`.
    """
    with (
        _environment(environment),
        concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments, **named).result()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _duration(seconds: float) -> str:
    return f"{seconds:.4f} s" if seconds >= 0.1 else f"{1000 * seconds:.3f} ms"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor() or platform.machine()
