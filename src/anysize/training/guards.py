"""Guards stop a run before it does harm: numbers that are not finite, too little memory, unsuitable precision."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from anysize.machine import is_out_of_memory
from anysize.registry import NotFinite, UserError, counted, some_of
from anysize.training.checkpoint.files import Checkpoint
from anysize.training.checkpoint.store import LAST, best_names, earlier_names, sound_checkpoints

MEMORY_ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)
"""What running out of memory may be raised as; `is_out_of_memory` tells it apart."""


class OutOfMemory(UserError):
    """A step does not fit into memory; `images` are those of its batch."""

    images = 0


class Diverged(NotFinite):
    """The loss or the gradient is not finite; the weights were not touched by it."""


def way_on(checkpoints: Path, sane: int) -> str:
    """How a run that has diverged goes on: from the newest save that was made before step `sane`, or from the start.

    A save is looked at whole: it takes as long as reading it.
    """

    def of_before(checkpoint: Checkpoint) -> bool:
        progress = checkpoint.state.get("progress")
        return isinstance(progress, dict) and progress["step"] < sane

    lower = "lower optimizer.lr or set optimizer.clip_norm, and"
    sound = sound_checkpoints(checkpoints, [LAST, *earlier_names(checkpoints), *best_names(checkpoints)], of_before)
    if not sound:
        return f"{lower} start over with --resume never: no save is left that is older than the divergence"
    resume = "" if sound[0] == LAST else f" --resume {sound[0]}, a save that is older than the divergence"
    return f"{lower} go on with --allow-changes{resume}"


def diverged(
    name: str, value: float, epoch: int, step: int, size: int, samples: Sequence[str], where: str | None, advice: str
) -> Diverged:
    """The error that names where in training something was not finite.

    Args:
        name, value: what was computed.
        epoch, step: when; epochs count from 0, steps from 1.
        size: image size, pixels.
        samples: names of those of the batch.
        where: the first tensor of the model that is not finite, such as the running statistics of a norm.
        advice: of `way_on`.
    """
    first = f"; the first of the model that is not finite is {where}" if where else ""
    return Diverged(
        f"the {name} is {value} at epoch {epoch + 1}, step {step} (image size {size}), samples {some_of(samples)}"
        f"{first}; the weights were not updated: look at these samples, or {advice}"
    )


@contextlib.contextmanager
def out_of_memory_says(size: str, samples: int, copies: int, chunks: int) -> Iterator[None]:
    """Turn running out of memory into a message that names the shape that did not fit.

    Raises:
        OutOfMemory: the shape, and how to make it smaller.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        short = OutOfMemory(
            f"out of memory in the largest step of this run: {counted(samples, 'sample')} x {counted(copies, 'copy')} "
            f"at {size} in "
            f"{counted(chunks, 'chunk')} ({reason}); raise training.chunks, set training.micro_batches to auto, or "
            "lower "
            "training.batch_size"
        )
        short.images = samples * copies
        raise short from error


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse mixed precision where the processor would emulate it.

    Raises:
        UserError: no bfloat16 (or float16) arithmetic, where mixed precision is 5 to 20 times slower than float32.
    """
    if precision in ("float32", "auto"):
        return
    if device.type == "cuda":
        if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic; use float16 or float32")
        return
    if device.type == "cpu" and not cpu_has(precision):
        raise UserError(
            f"training.precision is {precision}, but this processor has no {precision} arithmetic and would emulate "
            "it, 5 to 20 times slower than float32; use training.precision float32"
        )


def cpu_has(precision: str) -> bool:
    """Whether the processor multiplies in this precision, as torch reports it."""
    capabilities = torch.cpu.get_capabilities()
    flags = {
        "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
        "float16": ("avx512_fp16", "amx_fp16", "fp16", "fp16_arith"),
    }[precision]
    return any(capabilities.get(flag, False) for flag in flags)
