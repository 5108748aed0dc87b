"""Online norm against batch norm: time, whole networks, peak memory, two threads.

    python benchmarks/online_norm.py [--quick] [--only WORD]

Claims, one thread unless they say otherwise: forward and backward with affine weights take at most the fractions of
`nn.BatchNorm`'s time that `ROWS` lists, on the same input in the same memory format; layer scaling ("ls") and clamping
("ac") cost at most `OWN` times our own plain time; a training step of ResNet-20 takes at most `WHOLE` times batch
norm's, and no more memory at its peak; two threads are at least 1.6 times as fast as one at the large shape. Beside
them: the method as its definition says it, sample by sample in PyTorch, and the memory floor. That is five passes over
the tensor (read x, write the output; read x and the gradient, write the gradient of x) at the speed of a copy of it.

Each row is a process of its own, so that what one row leaves in the allocator does not speed up the next. On CUDA the
Triton backend takes the place of C++; the targets are for a CPU.

What profiling said (page faults are counted, and printed with each row): glibc asks the system for each new tensor of
more than 32 MB and gives it back. At (32, 256, 56, 56) that costs batch norm and ours alike 50,200 page faults a call,
about half of the C++ backend's time. `MALLOC_*` variables that keep the memory take them to zero; with glibc 2.36 only
after some calls, since an aligned block that was freed is a few bytes too short for the next tensor of its size until
its neighbours are free as well. Below 32 MB it depends on the largest block that the process has freed so far. Each row
begins by freeing one of 31 MB, as a process that has trained for a while would have. Without it the PyTorch backend at
(128, 500) has up to 2,000 page faults a call.
"""

import argparse
import dataclasses
import os
import resource
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.spec import create_model
from anysize.norms.factory import create_norm
from harness import (
    compare,
    in_fresh_process,
    page_faults,
    peak_tensor_bytes,
    print_environment,
    report,
    training_step,
)

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BACKENDS = ("triton", "torch") if CUDA else ("cpp", "torch")
WAIT = torch.cuda.synchronize if CUDA else None
KEEP = {  # glibc: take big blocks from the heap, and leave the heap as large as it was
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}
QUIET = {"KINETO_LOG_LEVEL": "99"}  # the profiler's
PIECE = 0.02  # seconds that a timed piece takes at least
Missed = list[str]


@dataclasses.dataclass(frozen=True)
class Row:
    """An input, and the times that our backends may take as fractions of batch norm's."""

    shape: tuple[int, ...]
    at_most: dict[str, float]
    channels_last: bool = False
    keep: bool = False
    rounds: int = 25
    dtype: torch.dtype = torch.float32

    @property
    def dims(self) -> int:
        """Of an image 2, of a vector 1."""
        return max(len(self.shape) - 2, 1)

    def __str__(self) -> str:
        notes = (", channels last" * self.channels_last, ", allocator keeps its memory" * self.keep)
        dtype = "" if self.dtype == torch.float32 else f", {str(self.dtype).removeprefix('torch.')}"
        return f"{self.shape}{dtype}{''.join(notes)}"


LARGE = (32, 256, 56, 56)
ROWS = (
    Row((128, 16, 32, 32), {"cpp": 0.35, "torch": 1.0}),
    Row((128, 64, 8, 8), {"cpp": 0.40, "torch": 1.4}),
    Row(LARGE, {"cpp": 0.75, "torch": 1.2}, rounds=7),
    Row(LARGE, {"cpp": 0.35}, keep=True, rounds=9),
    Row((128, 500), {"cpp": 1.0, "torch": 8}),
    Row((128, 64, 32, 32), {"cpp": 0.8, "torch": 1.5}, channels_last=True, rounds=15),
)
OWN = {"cpp": {"ls": 1.3, "ac": 1.6}, "torch": {"ls": 1.3, "ac": 2.2}}
WHOLE = {"cpp": 0.90, "torch": 1.0}
PEAKS = (("resnet20", 128, 32), ("resnet20", 2, 32), ("resnet18", 16, 64))
DECAY = {"alpha_fwd": 1023 / 1024, "alpha_bkw": 127 / 128}


class SampleBySample(nn.Module):
    """Online norm as its definition reads, in PyTorch; plain, with affine weights."""

    def __init__(self, channels: int, alpha_fwd: float = 0.999, alpha_bkw: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.constants = (alpha_fwd, alpha_bkw, eps)
        for name in ("m", "var", "u", "v"):
            self.register_buffer(name, torch.full((channels, 1), float(name == "var")))

    def forward(self, x: Tensor) -> Tensor:
        planes = x.reshape(*x.shape[:2], -1)
        state = (self.m, self.var, self.u, self.v)
        return _Samples.apply(planes, self.weight[:, None], self.bias[:, None], *state, *self.constants).view_as(x)


class _Samples(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, m, var, u, v, a, b, eps) -> Tensor:  # type: ignore[no-untyped-def]
        y, roots = torch.empty_like(x), []
        for n, sample in enumerate(x):
            roots.append((var + eps).sqrt())
            y[n] = (sample - m) / roots[n]
            variance, mean = torch.var_mean(sample, 1, correction=0, keepdim=True)
            var.mul_(a).add_((1 - a) * variance + a * (1 - a) * (mean - m) ** 2)
            m.add_((1 - a) * (mean - m))
        ctx.save_for_backward(y, weight)
        ctx.rest = (roots, u, v, b)
        return weight * y + bias

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        (y, weight), (roots, u, v, b) = ctx.saved_tensors, ctx.rest
        result = torch.empty_like(y)
        for n in range(len(y)):
            inner = weight * outer[n] - (1 - b) * v * y[n]
            v.add_((inner * y[n]).mean(1, keepdim=True))
            result[n] = inner / roots[n] - (1 - b) * u
            u.add_(result[n].mean(1, keepdim=True))
        grad_weight, grad_bias = (outer * y).sum((0, 2))[:, None], outer.sum((0, 2))[:, None]
        return result, grad_weight, grad_bias, *[None] * 7


def measure_row(row: Row, quick: bool) -> Missed:
    """Forward and backward of one input."""
    torch.set_num_threads(1)
    print(f"\n{row}", flush=True)
    torch.empty(31 << 20, dtype=torch.uint8)  # freed at once: glibc's thresholds rise with it, to their highest
    x, grad = inputs(row)
    norms = {"batch": create_norm("batch", row.shape[1], row.dims)}
    for backend in BACKENDS:
        norms[backend] = online(row, backend)
        norms |= {f"{backend} {ecm}": online(row, backend, ecm) for ecm in ("ls", "ac")}
    norms["sample by sample"] = SampleBySample(row.shape[1])
    sides: dict[str, Callable[[], object]] = {name: both_passes(norm, x, grad) for name, norm in norms.items()}
    copied = torch.empty_like(grad)
    sides["copy"] = lambda: copied.copy_(grad)
    medians = compare(sides, 2 if quick else row.rounds, 3, at_least=PIECE / 4 if quick else PIECE, wait=WAIT)
    if not CUDA:
        counts = ", ".join(f"{name} {page_faults(run):.0f}" for name, run in sides.items())
        print(f"  page faults a call: {counts}")
    floor = 2.5 * medians["copy"]
    print(f"  memory floor {1000 * floor:.3f} ms, at {2 * grad.nbytes / medians['copy'] / 1e9:.1f} GB/s of a copy")
    print("  over the floor:", ", ".join(f"{side} {medians[side] / floor:.2f}" for side in ("batch", *BACKENDS)))
    missed = judge(f"{row}: sample by sample / batch norm", medians["sample by sample"] / medians["batch"], None)
    for backend in BACKENDS:
        missed += judge(f"{row}: {backend} / batch norm", medians[backend] / medians["batch"], row.at_most.get(backend))
        for ecm, target in OWN.get(backend, dict.fromkeys(("ls", "ac"))).items():
            missed += judge(f"{row}: {backend}, {ecm} / plain", medians[f"{backend} {ecm}"] / medians[backend], target)
    return missed


def inputs(row: Row) -> tuple[Tensor, Tensor]:
    """An input and a gradient of the output, a little off centre."""
    torch.manual_seed(0)
    order = torch.channels_last if row.channels_last else torch.contiguous_format
    x, grad = (
        (torch.randn(row.shape, device=DEVICE) + mean).to(row.dtype, memory_format=order) for mean in (0.25, 0.125)
    )
    return x.requires_grad_(), grad


def online(row: Row, backend: str, ecm: str = "none") -> nn.Module:
    """Our norm for the inputs of a row."""
    return create_norm("online", row.shape[1], row.dims, backend=backend, ecm=ecm)


def both_passes(norm: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed: forward, and backward to x, weight and bias."""
    norm.to(DEVICE)

    def run() -> tuple[Tensor, ...]:
        out = norm(x)
        return out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), grad)

    return run


def check_agreement() -> Missed:
    """Raise unless all sides of online norm do the same to two batches of eight samples of each row."""
    for row in ROWS:
        x, grad = inputs(dataclasses.replace(row, shape=(16, *row.shape[1:])))
        expected: list[tuple[Tensor, ...]] = []
        for norm in (SampleBySample(row.shape[1]), *(online(row, backend) for backend in BACKENDS)):
            seen = [both_passes(norm, x[start : start + 8], grad[start : start + 8])() for start in (0, 8)]
            expected = expected or seen
            torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3)
    print("the backends and the sample-by-sample loop agree on all shapes")
    return []


def measure_step(channels_last: bool, quick: bool) -> Missed:
    """A training step of ResNet-20, batch 128, 32 px."""
    torch.set_num_threads(1)
    name = f"ResNet-20, batch 128, 32 px, {'channels last' if channels_last else 'contiguous'}"
    print(f"\n{name}: training step, online norm with layer scaling", flush=True)
    sides = {side: resnet_step("resnet20", 128, 32, side, channels_last) for side in ("batch", *BACKENDS)}
    medians = compare(sides, 2 if quick else 7, wait=WAIT)
    missed = []
    for backend in BACKENDS:
        missed += judge(f"{name}: {backend} / batch norm", medians[backend] / medians["batch"], WHOLE.get(backend))
    return missed


def resnet_step(
    model: str, batch: int, size: int, side: str, channels_last: bool = True, precision: str = "float32"
) -> Callable[[], None]:
    """A training step with batch norm, or with online norm on the backend `side`."""
    norm = {} if side == "batch" else {"norm": "online", "norm_options": {**DECAY, "backend": side}}
    order = torch.channels_last if channels_last else torch.contiguous_format
    network = create_model(model, **norm).to(DEVICE, memory_format=order)
    return training_step(network, (batch, 3, size, size), order, precision)


def measure_memory() -> Missed:
    """Peak memory of a training step, each side in a process of its own."""
    print("\npeak memory, from before the model is built to the end of its second training step, channels last")
    missed = []
    for model, batch, size in PEAKS:
        name = f"{model}, batch {batch}, {size} px"
        live: dict[str, int] = {}
        for side in ("batch", *BACKENDS):
            live[side], resident = in_fresh_process(peak, QUIET, model, batch, size, side)
            print(f"  {name}, {side}: tensors {live[side] / 1e6:.2f} MB, growth of the process {resident / 1e6:.0f} MB")
        for backend in BACKENDS:
            missed += judge(
                f"{name}: peak memory, {backend} / batch norm", live[backend] / live["batch"], 1.0, digits=4
            )
    return missed


def peak(model: str, batch: int, size: int, side: str) -> tuple[int, int]:
    """Most bytes of tensors alive at once, model and optimizer included, and bytes the resident memory grew by.

    The first is exact, and the same in each run. Resident memory has all else in it as well (code, the libraries'
    buffers, what glibc keeps), hence it is only shown.
    """
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def train() -> None:
        step = resnet_step(model, batch, size, side)
        step()
        step()

    most = peak_tensor_bytes(train)
    return most, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure_threads(keep: bool, quick: bool) -> Missed:
    """One thread and two at the large shape."""
    row = Row(LARGE, {}, keep=keep)
    print(f"\n{row}: two threads against one", flush=True)
    x, grad = inputs(row)
    norms = {"batch": create_norm("batch", LARGE[1]), **{backend: online(row, backend) for backend in BACKENDS}}

    def on(threads: int, run: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            torch.set_num_threads(threads)
            run()

        return both

    runs = {name: both_passes(norm, x, grad) for name, norm in norms.items()}
    sides = {f"{name}, {threads}": on(threads, run) for name, run in runs.items() for threads in (1, 2)}
    medians = compare(sides, 2 if quick else 9, 3)
    missed = []
    for name in norms:
        speed_up = medians[f"{name}, 1"] / medians[f"{name}, 2"]
        claim = f"{row}: {name}, two threads' speed over one's"
        missed += judge(claim, speed_up, None if name == "batch" else 1.6, at_least=True)
    return missed


def judge(claim: str, ratio: float, target: float | None, *, at_least: bool = False, digits: int = 2) -> Missed:
    """Print a ratio, beside its target if it has one; return the claim if it is missed."""
    if target is None or CUDA:
        print(f"{claim}: {ratio:.{digits}f}")
        return []
    return [] if report(claim, ratio, target, at_least=at_least, digits=digits) else [claim]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, measures little")
    parser.add_argument("--only", default="", help="only the rows whose names have this in them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    quick = arguments.quick
    parts: dict[str, tuple[Any, ...]] = {"agreement": (check_agreement, {})}
    for row in ROWS:
        if not (CUDA and row.keep):
            parts[str(row)] = (measure_row, KEEP if row.keep else {}, row, quick)
    for order in ("channels last", "contiguous"):
        parts[f"step of ResNet-20, {order}"] = (measure_step, {}, order == "channels last", quick)
    if not CUDA and (os.cpu_count() or 1) > 1:
        for keep in (False, True):
            parts[f"two threads{', allocator keeps its memory' * keep}"] = (
                measure_threads,
                KEEP if keep else {},
                keep,
                quick,
            )
    missed: Missed = []
    for name, (function, environment, *given) in parts.items():
        if arguments.only in name:
            missed += in_fresh_process(function, environment, *given)
    if arguments.only in "peak memory":
        missed += measure_memory()
    print("\ntargets missed:", *(missed or ["none"]), sep="\n  ")


if __name__ == "__main__":
    main()
