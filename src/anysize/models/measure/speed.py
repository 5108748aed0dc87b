"""How fast a model runs and what memory it takes: images a second by image size and batch size.

    anysize bench resnet50 --sizes 128,224 --batch 1,8

Random images and targets, nothing read from a disk. A training step is forward, loss, backward and a step of SGD with
momentum. Each figure is the median over several repetitions after a warm-up; a repetition that takes less than
`timing.PIECE` seconds runs several times in a row.
"""

import copy
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.models.blocks.auxiliary import logits_of
from anysize.models.checks import check_is_model
from anysize.models.expected import expected_preprocessing
from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import check_size
from anysize.models.measure.threads import torch_threads
from anysize.models.measure.timing import peak_bytes, time_calls, wait_for
from anysize.models.spec import create_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.models.surgery.quantization.fake import is_quantized
from anysize.registry import UserError
from anysize.world import autocast, pick_device

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """How a model is run.

    Args:
        train: measure training steps, too.
        fold: measure inference with batch norms folded into convolutions.
        channels_last: memory order of images and weights.
        precision: float32, or bfloat16 or float16 by autocast.
        device: auto is the first GPU where there is one.
        threads: of PyTorch on a CPU; 0: as many as it chooses.
        repeats: of which the median is taken.
    """

    train: bool = True
    fold: bool = False
    channels_last: bool = True
    precision: str = "float32"
    device: str = "auto"
    threads: int = 0
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; expected one of: {', '.join(PRECISIONS)}")
        for name, low in (("threads", 0), ("repeats", 1)):
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least {low}")

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory order of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        try:
            return pick_device(self.device)
        except UserError as error:  # which speaks of a recipe's training.device
            raise UserError(str(error).removeprefix("training.")) from None


def bench(
    model: nn.Module | str, sizes: Sequence[int] = (), batches: Sequence[int] = (1, 8), *,
    in_channels: int | None = None, on_row: Callable[[dict[str, Any]], object] = lambda row: None, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """Measure a model at every size with every batch size.

    Args:
        model: a model, which is not changed, or a name that `create_model` takes.
        sizes: sides of the images, pixels; by default the one that a named model was published for.
        batches: images a step.
        in_channels: by default what a named model was published with, or 3.
        on_row: called with each row as it is measured.
        options: those of `BenchOptions`.

    Returns:
        A row a mode (inference, training; `folded` or not), size and batch size: `milliseconds` a step (median) with
        `fastest` and `slowest`, `images_per_second`, `memory` in bytes, `flops` of a step and `flops_per_second`. A
        multiply-add counts as 2 FLOPs; what activation checkpointing computes twice counts once. `memory` is the
        weights, in training with gradients and momentum, and the most that all other tensors of a step took up at once:
        measured, on a GPU by its allocator, on a CPU by the profiler, which sees each block that PyTorch's allocator
        hands out, but not what libraries allocate for themselves.

    Raises:
        UserError: an unknown name, device or option, or a size that the model does not take.

    >>> table = bench("resnet8", sizes=[16], batches=[2], repeats=1)
    >>> table[["mode", "size", "batch", "flops"]].values.tolist()
    [['inference', 16, 2, 12503552], ['training', 16, 2, 37068288]]
    """
    how = BenchOptions(**options)
    if isinstance(model, str):
        expected = expected_preprocessing(model)
        in_channels = in_channels or expected.channels
        sizes = sizes or [expected.image_size]
        model = create_model(model, in_channels=in_channels)
    elif not sizes:
        raise UserError("sizes are not given; expected the sides of the images, such as sizes=[224]")
    check_is_model("bench", model)
    if not _are_numbers(sizes):
        raise UserError(f"sizes are {sizes!r}; expected sides of images from 1 pixel, such as [128, 224]")
    if not _are_numbers(batches):
        raise UserError(f"batches are {batches!r}; expected numbers of images from 1, such as [1, 8]")
    for size in sizes:
        check_size(model, size, in_channels or 3, training=how.train)
    rows = []
    with torch_threads(how.threads or torch.get_num_threads()):
        for mode, size, batch in itertools.product(("inference", "training")[: 1 + how.train], sizes, batches):
            rows.append(_row(model, mode, (batch, in_channels or 3, size, size), how))
            on_row(rows[-1])
    return pd.DataFrame(rows)


Ready = Callable[[tuple[int, int, int, int]], tuple[Callable[[], object], int | None]]
"""Makes ready what computes a network at a shape (N, C, H, W): a call of it, and the bytes of what is there before, or
None where its memory cannot be measured."""


def bench_runtimes(
    runtimes: Mapping[str, Ready], sizes: Sequence[int], batches: Sequence[int] = (1, 8), *, channels: int = 3,
    repeats: int = 5, on_row: Callable[[dict[str, Any]], object] = lambda row: None,
) -> pd.DataFrame:  # fmt: skip
    """Measure inference by several runtimes in turn, `repeats` rounds, so that their ratio holds on a busy machine.

    Returns:
        A row a size, batch size and runtime: as of `bench`, with `runtime`, and `times` the speed of the first.

    Raises:
        UserError: what is no number of pixels or images, or what a runtime refuses.

    >>> images = lambda shape: ((lambda: torch.zeros(shape).exp()), 0)
    >>> bench_runtimes({"a": images}, [8], [2], repeats=1)[["runtime", "batch", "memory", "times"]].values.tolist()
    [['a', 2, 3072, 1.0]]
    """
    if not _are_numbers(sizes):
        raise UserError(f"sizes are {sizes!r}; expected sides of images from 1 pixel, such as [128, 224]")
    if not _are_numbers(batches):
        raise UserError(f"batches are {batches!r}; expected numbers of images from 1, such as [1, 8]")
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; expected at least 1")
    rows: list[dict[str, Any]] = []
    for size, batch in itertools.product(sizes, batches):
        calls = {name: ready((batch, channels, size, size)) for name, ready in runtimes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, (run, _) in calls.items():
                seconds[name] += time_calls(run, 1, lambda: None)
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        for name, (run, taken) in calls.items():
            row = {
                "runtime": name,
                "size": size,
                "batch": batch,
                "milliseconds": 1000 * medians[name],
                "fastest": 1000 * min(seconds[name]),
                "slowest": 1000 * max(seconds[name]),
                "images_per_second": batch / medians[name],
                "times": medians[next(iter(calls))] / medians[name],
                "memory": None if taken is None else taken + peak_bytes(run, torch.device("cpu")),
            }
            rows.append(row)
            on_row(row)
    return pd.DataFrame(rows)


def torch_ready(model: nn.Module, threads: int = 0) -> Ready:
    """PyTorch, as it is, for `bench_runtimes`: on a CPU, weights and images channels last."""
    copied = copy.deepcopy(model).eval().cpu().to(memory_format=torch.channels_last)
    weights = sum(tensor.nbytes for tensor in (*copied.parameters(), *copied.buffers()))

    def ready(shape: tuple[int, int, int, int]) -> tuple[Callable[[], object], int | None]:
        images = torch.randn(shape).to(memory_format=torch.channels_last)

        def run() -> None:
            with torch.inference_mode(), torch_threads(threads or torch.get_num_threads()):
                copied(images)

        return run, weights + images.nbytes

    return ready


def _are_numbers(values: object) -> bool:
    """Whether `values` are whole numbers from 1, at least one."""
    return isinstance(values, Sequence) and {isinstance(value, int) and value > 0 for value in values} == {True}


def _row(model: nn.Module, mode: str, shape: tuple[int, int, int, int], how: BenchOptions) -> dict[str, Any]:
    """One row of the table; the model is built anew, so that rows do not disturb one another."""
    batch, channels, _, size = shape
    device = how.torch_device
    wait = wait_for(device)
    try:
        if mode == "training":
            flops = batch * count_flops(model, size, channels).total
            run, weights = _training(model, shape, how)
        else:
            flops = batch * count_flops(model, size, channels, backward=False).forward
            run, weights = _inference(model, shape, how)
        seconds = time_calls(run, how.repeats, wait)
        memory = weights + peak_bytes(run, device)
    except (RuntimeError, ValueError) as error:  # too little memory, one value a channel for batch norm
        raise UserError(f"{mode} at {size} px with batch {batch}: {str(error).splitlines()[0]}") from error
    median = statistics.median(seconds)
    return {
        "mode": mode,
        "folded": how.fold and mode == "inference",
        "size": size,
        "batch": batch,
        "milliseconds": 1000 * median,
        "fastest": 1000 * min(seconds),
        "slowest": 1000 * max(seconds),
        "images_per_second": batch / median,
        "memory": memory,
        "flops": flops,
        "flops_per_second": flops / median,
    }


def _placed(model: nn.Module, shape: tuple[int, ...], how: BenchOptions) -> tuple[nn.Module, Tensor, int]:
    """A copy of the model and random images, where and as they are wanted, and the bytes of both."""
    images = torch.randn(shape, device=how.torch_device).to(memory_format=how.memory_format)
    ready = copy.deepcopy(model).to(how.torch_device).to(memory_format=how.memory_format)
    return ready, images, images.nbytes + sum(tensor.nbytes for tensor in (*ready.parameters(), *ready.buffers()))


def _inference(model: nn.Module, shape: tuple[int, ...], how: BenchOptions) -> tuple[Callable[[], object], int]:
    """A forward pass, and the bytes of what is there before."""
    if how.fold and is_quantized(model):
        raise UserError(
            f"{type(model).__name__} rounds its values, which folding would leave out; leave --fold out, or measure "
            "what anysize export writes of it"
        )
    ready, images, taken = _placed(fold_batch_norm(model) if how.fold else model, shape, how)
    ready.eval()

    def run() -> None:
        with torch.inference_mode(), autocast(how.torch_device, how.precision):
            ready(images)

    return run, taken


def _training(model: nn.Module, shape: tuple[int, ...], how: BenchOptions) -> tuple[Callable[[], object], int]:
    """A training step, and the bytes of what is there before: weights, momentum and images."""
    ready, images, taken = _placed(model, shape, how)
    ready.train()
    optimizer = torch.optim.SGD(ready.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        with autocast(how.torch_device, how.precision):
            outputs = ready(images)
        losses = [F.cross_entropy(part.float(), part.detach().argmin(1)) for part in logits_of(outputs)]
        torch.autograd.backward(losses)
        optimizer.step()
        optimizer.zero_grad()  # last, so that every step starts from the same memory

    run()  # from now on there is momentum
    return run, taken + sum(parameter.nbytes for parameter in ready.parameters() if parameter.requires_grad)
