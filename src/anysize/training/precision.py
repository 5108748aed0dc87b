"""The precision that `training.precision = "auto"` comes to: on a CPU a step is measured in both."""

import time

import torch
from torch import Tensor, nn

from anysize.registry import counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.shapes import in_pixels, sides_of
from anysize.training.guards import cpu_has
from anysize.training.length import RunLength
from anysize.training.settings import TrainingSettings
from anysize.training.shapes import distinct_shapes, unchanged_buffers
from anysize.world import autocast

_IMAGES = 8  # of a measured step at most: the first step of a run should not have to wait long
_REPETITIONS = 2
WORTH = 1.1  # bfloat16 rounds: it has to be so many times as fast


def choose_precision(
    model: nn.Module,
    plan: BatchPlan,
    length: RunLength,
    training: TrainingSettings,
    channels: int,
    device: torch.device,
) -> tuple[str, str]:
    """float32 or bfloat16, and a sentence on why."""
    if device.type == "cuda":
        chosen = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        has = "has" if chosen == "bfloat16" else "has no"
        return chosen, f"training.precision auto is {chosen}: {torch.cuda.get_device_name(device)} {has} bfloat16"
    if device.type != "cpu" or not cpu_has("bfloat16"):
        return "float32", "training.precision auto is float32: this processor has no bfloat16 arithmetic"
    largest = max(distinct_shapes(plan, length, lambda images: training.chunks), key=lambda shape: shape.pixels)
    images, extent = min(largest.images, _IMAGES), largest.extent
    order = torch.channels_last if training.channels_last else torch.contiguous_format
    batch = torch.zeros(images, channels, *sides_of(extent)).contiguous(memory_format=order)
    seconds = {"float32": float("inf"), "bfloat16": float("inf")}
    model.train()
    with unchanged_buffers(model):
        for repetition in range(_REPETITIONS + 1):  # in turn, and the first does not count
            for precision, least in seconds.items():
                taken = step_seconds(model, batch, precision)
                seconds[precision] = min(least, taken) if repetition else least
    model.zero_grad(set_to_none=True)
    ratio = seconds["float32"] / seconds["bfloat16"]
    chosen = "bfloat16" if ratio >= WORTH else "float32"
    return chosen, (
        f"training.precision auto is {chosen}: a step with {counted(images, 'image')} of {in_pixels(extent)} takes "
        f"{1e3 * seconds['float32']:.3g} ms in float32 and {1e3 * seconds['bfloat16']:.3g} ms in bfloat16, which is "
        f"taken from {WORTH:g} times as fast on"
    )


def step_seconds(model: nn.Module, images: Tensor, precision: str) -> float:
    """The time of a forward and a backward pass on the CPU."""
    start = time.perf_counter()
    with autocast(images.device, precision):
        outputs = model(images)
    parts = (outputs,) if isinstance(outputs, Tensor) else outputs  # auxiliary classifiers return logits, too
    torch.autograd.backward([part.float().square().mean() for part in parts])
    return time.perf_counter() - start
