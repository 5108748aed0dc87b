"""The time of a call on a device, and the memory that it takes."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from anysize.sizes.shapes import Extent, sides_of

PIECE = 0.05
"""Seconds: a call that takes less is timed several times in a row."""


def wait_for(device: torch.device) -> Callable[[], object]:
    """What waits until a device has computed all that it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def latency_of(model: nn.Module, channels: int, size: Extent, device: torch.device, repeats: int = 7) -> float:
    """Seconds in which a model in evaluation answers one image of a size by itself: the median of several times.

    >>> latency_of(nn.Flatten(), channels=1, size=8, device=torch.device("cpu")) > 0
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    images = torch.zeros(1, channels, *sides_of(size), device=device)
    model.eval()
    try:
        with torch.inference_mode():
            seconds = time_calls(lambda: model(images), repeats, wait_for(device))
    finally:
        for module, mode in modes:
            module.training = mode
    return statistics.median(seconds)


def time_calls(run: Callable[[], object], repeats: int, wait: Callable[[], object]) -> list[float]:
    """Seconds of a call, `repeats` times; a call that takes less than `PIECE` is made several times in a row."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        return (time.perf_counter() - start) / calls

    seconds(1)  # memory, caches and kernels of a first call
    calls = max(1, min(1000, round(PIECE / max(seconds(1), 1e-6))))
    return [seconds(calls) for _ in range(repeats)]


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that the tensors made in `run` took up at once, temporaries inside operations included.

    >>> peak_bytes(lambda: torch.zeros(1000).exp(), torch.device("cpu"))
    8000
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it prints what it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak
