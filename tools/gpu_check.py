"""The check that a person with one GPU runs: tests that need it, then figures that need it, in one Markdown table.

    make gpu-check                                  # in a checkout that is set up
    PYTHONPATH=src python tools/gpu_check.py        # with a Python of one's own: 3.11 or later, torch 2.11 or later

It takes less than eight minutes. A part that lacks a package is a line of the table that names it, and the rest goes
on. Without a GPU the kernels are compiled for one, and all else runs on the CPU in a tiny version, which shows that it
runs and measures nothing. Exit status 1: a part failed that could run.
"""

import dataclasses
import importlib
import importlib.util
import itertools
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "src"), str(ROOT / "benchmarks"), str(ROOT / "tests" / "helpers")]

TESTS_MOST = 270  # seconds; with a GPU
NORMS = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))  # channels and side of what ResNet-50's norms see
BATCH = 64
NO_GPU = "There is no GPU here: the kernels were compiled, all else ran on the CPU in a tiny version and says nothing."


@dataclasses.dataclass
class Line:
    """A line of the table: what was done, what came out, what it is compared with, and the ratio of the two."""

    what: str
    ours: str
    theirs: str = ""
    ratio: float | None = None

    def __str__(self) -> str:
        return f"| {self.what} | {self.ours} | {self.theirs} | {'' if self.ratio is None else f'{self.ratio:.2f}'} |"


def main() -> int:
    if problem := unfit():
        print(problem)
        return 1
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    lines, failed, start = [], False, time.monotonic()
    for title, part in PARTS.items():
        print(f"\n== {title}", flush=True)
        try:
            lines += part(bool(gpu))
        except ImportError as error:
            lines.append(Line(title, f"left out: {error}"))
        except Exception as error:  # the other parts are worth having all the same
            failed = True
            lines.append(Line(title, f"FAILED, {type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"))
    print(f"\n### {gpu or 'No GPU'}\n")
    print(f"{versions()}; {time.monotonic() - start:.0f} s. {'' if gpu else NO_GPU}\n")
    print("| what | ours | theirs | ours / theirs |\n|---|---|---|---|", *lines, sep="\n")
    return int(failed)


def unfit() -> str:
    """Why nothing can run with this Python; empty if it can."""
    if sys.version_info < (3, 11):  # noqa: UP036  (a source tree runs with any Python)
        return f"this is Python {platform.python_version()}; expected 3.11 or later"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; install 2.11 or later"
    version = importlib.import_module("torch").__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 11):
        return f"this is torch {version}; expected 2.11 or later"
    return ""


def versions() -> str:
    """The versions that the figures depend on beside the card."""
    there = [name for name in ("torch", "triton") if importlib.util.find_spec(name)]
    names = [f"{name} {importlib.import_module(name).__version__}" for name in there]
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return ", ".join(
        [f"Python {platform.python_version()}", *names, f"anysize {git.stdout.strip() or 'without a commit'}"]
    )


def run_tests(gpu: bool) -> list[Line]:
    """The tests marked `cuda`."""
    if importlib.util.find_spec("pytest") is None:
        raise ImportError("No module named 'pytest'")
    importlib.import_module("anysize.experiment.train")  # says what the tests would lack
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "cuda", "--tb=short", "tests/cuda"]
    if not gpu:
        command += ["-k", "not compiled"]  # inductor's C++ would take longer than all the rest
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ANYSIZE_CHECK_DEVICE": "cuda" if gpu else "cpu"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            output, _ = process.communicate(timeout=TESTS_MOST if gpu else None)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    print(output)
    summary = (output.strip().splitlines() or ["no output"])[-1].strip("= ")
    if process.returncode:
        raise RuntimeError(summary)
    return [Line("tests marked `cuda`", summary)]


def compile_kernels(gpu: bool) -> list[Line]:
    """The Triton kernels, compiled for GPUs that are not there; with one the tests compile them."""
    if gpu:
        return []
    from ahead_of_time import CAPABILITIES, DTYPES, compile_step, example

    from anysize.norms.online.options import Options

    count, start = 0, time.perf_counter()
    for capability, dtype, channels_last, ecm in itertools.product(CAPABILITIES, DTYPES, (False, True), ("ls", "none")):
        count += len(compile_step(example(dtype, channels_last=channels_last), Options(ecm=ecm), capability))
    seconds = time.perf_counter() - start
    return [Line("Triton kernels for compute capability 8.0 and 9.0", f"{count} compiled in {seconds:.0f} s")]


def time_norms(gpu: bool) -> list[Line]:
    """Forward and backward of online norm by its kernels, and of torch's batch norm, which is cuDNN's on a GPU."""
    import torch

    from anysize.norms.factory import create_norm
    from harness import compare
    from online_norm import BACKENDS, WAIT, Row, both_passes, inputs, online

    fast, lines = BACKENDS[0], []
    shapes = [(BATCH, channels, side, side) for channels, side in NORMS] if gpu else [(2, 8, 6, 6)]
    for dtype, shape in itertools.product((torch.bfloat16, torch.float32), shapes):
        row = Row(shape, {}, channels_last=dtype == torch.bfloat16, dtype=dtype)
        print(row)
        x, grad = inputs(row)
        norms = {"batch": create_norm("batch", shape[1]), "none": online(row, fast), "ls": online(row, fast, "ls")}
        sides = {name: both_passes(norm, x, grad) for name, norm in norms.items()}
        seconds = compare(sides, 9 if gpu else 1, 3, at_least=0.02 if gpu else 0, wait=WAIT)
        lines += [
            Line(
                f"norm of {row}: online ({fast}, ecm {ecm}), batch",
                f"{1e3 * seconds[ecm]:.3f} ms",
                f"{1e3 * seconds['batch']:.3f} ms",
                seconds[ecm] / seconds["batch"],
            )
            for ecm in ("none", "ls")
        ]
    return lines


def train_with_norms(gpu: bool) -> list[Line]:
    """A training step of ResNet-50 with online norm and with batch norm: time and peak memory."""
    from harness import compare, peak_tensor_bytes
    from online_norm import BACKENDS, WAIT, resnet_step

    batch, size = (BATCH, 224) if gpu else (2, 32)
    name = f"ResNet-50, {size} px, batch {batch}, bfloat16: online norm, batch norm"

    def peak(side: str) -> int:
        def train() -> None:
            step = resnet_step("resnet50", batch, size, side, precision="bfloat16")
            step()
            step()

        return peak_tensor_bytes(train)

    fast = BACKENDS[0]
    bytes_of = {side: peak(side) for side in ("batch", fast)}
    sides = {side: resnet_step("resnet50", batch, size, side, precision="bfloat16") for side in ("batch", fast)}
    seconds = compare(sides, 15 if gpu else 1, 3 if gpu else 1, wait=WAIT)
    return [
        Line(
            f"{name}, a step", f"{1e3 * seconds[fast]:.1f} ms", f"{1e3 * seconds['batch']:.1f} ms",
            seconds[fast] / seconds["batch"],
        ),
        memory(name, bytes_of[fast], bytes_of["batch"]),
    ]  # fmt: skip


def time_loop(gpu: bool) -> list[Line]:
    """The trainer's loop and a bare one, each over the same batches: speed and peak memory."""
    from harness import compare, peak_tensor_bytes
    from online_norm import WAIT
    from training_loop import Case, loops

    device = "cuda" if gpu else "cpu"
    size, batch, steps = (224, BATCH, 20) if gpu else (32, 2, 2)
    case = Case("resnet50", size=size, batch=batch, steps=steps, device=device, precision="bfloat16")
    sides = loops(case)
    seconds = compare(sides, 5 if gpu else 1, wait=WAIT)
    bytes_of = {side: peak_tensor_bytes(run) for side, run in sides.items()}
    name = f"ResNet-50, {size} px, batch {batch}, bfloat16: the trainer's loop, a bare loop"
    ours, theirs = (case.images / seconds[side] for side in ("anysize", "bare loop"))
    return [
        Line(f"{name}, speed", f"{ours:,.0f} images/s", f"{theirs:,.0f} images/s", ours / theirs),
        memory(name, bytes_of["anysize"], bytes_of["bare loop"]),
    ]


def memory(name: str, ours: int, theirs: int) -> Line:
    """The line of a comparison of peak memory, in bytes."""
    return Line(f"{name}, peak memory", f"{ours / 1e6:,.0f} MB", f"{theirs / 1e6:,.0f} MB", ours / theirs)


PARTS = {
    "tests marked `cuda`": run_tests,
    "Triton kernels, ahead of time": compile_kernels,
    "online norm against batch norm": time_norms,
    "ResNet-50 with online norm": train_with_norms,
    "the trainer's loop against a bare one": time_loop,
}

if __name__ == "__main__":
    sys.exit(main())
