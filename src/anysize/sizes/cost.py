"""What training costs, known before it starts: FLOPs and memory of a step by image size, steps and FLOPs of a run.

Models are measured on the meta device, which computes shapes alone: nothing is allocated, and a ResNet-50 takes a
fraction of a second. A multiply-add counts as 2 FLOPs, of convolutions and matrix products alone, as in
`torch.utils.flop_counter`; the backward pass of grouped convolutions, which it overrates, is counted here.
"""

import contextlib
import contextvars
import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anysize.sizes.mix import SizeBatch, SizeMix
from anysize.sizes.plan import BatchPlan
from anysize.sizes.schedule import SizeSchedule

# Images that a model is measured with: batch norm refuses a single value a channel.
_IMAGES = 2

_COUNTING = contextvars.ContextVar("counting", default=False)


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image: forward and backward."""

    forward: int
    backward: int = 0

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy `model` to the meta device, where it computes shapes alone; no weight is copied.

    >>> meta_copy(nn.Linear(3, 4))(torch.empty(2, 3, device="meta")).shape
    torch.Size([2, 4])
    """
    memo: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def count_flops(model: nn.Module, size: int, channels: int = 3, *, backward: bool = True) -> Flops:
    """FLOPs of one image (channels, size, size) through `model` in training; the backward pass is measured, too.

    With `backward=False` those of the forward pass in evaluation, in which auxiliary classifiers are left out.

    What activation checkpointing (`checkpoint_segments`) computes a second time is not counted.

    >>> count_flops(nn.Conv2d(3, 8, 3, padding=1), size=10)  # no gradient is wanted of the image
    Flops(forward=43200, backward=43200)
    """
    try:
        return _count_flops(meta_copy(model), size, channels, backward)
    except (NotImplementedError, RuntimeError):  # it reads values, or has no kernel there: it is run for real
        return _count_flops(copy.deepcopy(model), size, channels, backward)


def _count_flops(model: nn.Module, size: int, channels: int, backward: bool) -> Flops:
    model.train(backward)
    device = next((parameter.device for parameter in model.parameters()), torch.device("meta"))
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with _counting(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        output = model(torch.zeros(_IMAGES, channels, size, size, device=device))
        forward = counter.get_total_flops()
        if backward:
            parts = (output,) if isinstance(output, Tensor) else output  # auxiliary classifiers return logits, too
            torch.autograd.backward([part.sum() for part in parts])
    return Flops(forward // _IMAGES, (counter.get_total_flops() - forward) // _IMAGES)


def counting_flops() -> bool:
    """Whether a model is being run by `count_flops`, so that nothing should be computed twice to save memory."""
    return _COUNTING.get()


@contextlib.contextmanager
def _counting() -> Iterator[None]:
    token = _COUNTING.set(True)
    try:
        yield
    finally:
        _COUNTING.reset(token)


def _convolution_backward(
    grad: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """The gradients of input and weight take as much as the forward pass each; torch's own count ignores `groups`."""
    images, _channels, *positions = inputs if transposed else grad
    return 2 * images * math.prod(positions) * math.prod(weight) * sum(wanted[:2])


def activation_bytes(model: nn.Module, size: int, channels: int = 3) -> int:
    """Bytes that one image leaves in memory between forward and backward, the image itself included.

    Counts each storage that autograd saves once, parameters and buffers not. In the model's own precision: automatic
    mixed precision needs about half.

    >>> activation_bytes(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), size=10)  # image and output of the ReLU
    4400
    """
    model = meta_copy(model).train()
    kept = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = model(torch.empty(_IMAGES, channels, size, size, device="meta"))
    bytes_saved = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in kept)
    del output
    return bytes_saved // _IMAGES


def estimate_memory(
    model: nn.Module, batches: Iterable[SizeBatch], channels: int = 3, *, optimizer_slots: int = 1
) -> int:
    """Bytes that training takes at least: weights, gradients, optimizer, and the activations of the largest step.

    Args:
        model: measured in its own precision.
        batches: the sizes with their batch sizes (of one process) and copies, such as `plan.sizes(epoch)`.
        channels: of the images.
        optimizer_slots: values that the optimizer keeps a weight: 1 for SGD with momentum, 2 for Adam.

    What comes on top are the library's workspaces and the gradients of the activations in flight.

    >>> estimate_memory(nn.Conv2d(3, 8, 1, bias=False), SizeMix.named("B+", base=32).batches(64))
    788256
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    step = max(batch.batch_size * batch.copies * activation_bytes(model, batch.size, channels) for batch in batches)
    return weights + trained * (1 + optimizer_slots) + step


@dataclasses.dataclass(frozen=True)
class SizeCost:
    """What one size (with one batch size and number of copies) takes of a run, over all processes."""

    size: int
    batch_size: int
    copies: int
    steps: int
    samples: int
    flops: Flops

    @property
    def images(self) -> int:
        """Images trained: samples times copies."""
        return self.samples * self.copies

    @property
    def forward_flops(self) -> int:
        """FLOPs of all forward passes at this size."""
        return self.images * self.flops.forward

    @property
    def backward_flops(self) -> int:
        """FLOPs of all backward passes at this size."""
        return self.images * self.flops.backward

    @property
    def total_flops(self) -> int:
        """FLOPs of all passes at this size."""
        return self.images * self.flops.total


@dataclasses.dataclass(frozen=True)
class PlanCost:
    """What a run costs over all processes, by size, and what the same epochs at the base size alone would cost."""

    sizes: tuple[SizeCost, ...]
    base: SizeCost

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return sum(part.steps for part in self.sizes)

    @property
    def samples(self) -> int:
        """Samples of the run, each copy of one not counted anew."""
        return sum(part.samples for part in self.sizes)

    @property
    def images(self) -> int:
        """Images of the run: samples times copies."""
        return sum(part.images for part in self.sizes)

    @property
    def total_flops(self) -> int:
        """FLOPs of the run."""
        return sum(part.total_flops for part in self.sizes)

    @property
    def ratio(self) -> float:
        """FLOPs of the run over those of as many epochs at the base size."""
        return self.total_flops / self.base.total_flops


def plan_cost(plan: BatchPlan, epochs: int, flops: Callable[[int], Flops], base: int | None = None) -> PlanCost:
    """Cost of `epochs` epochs of `plan`, without listing a batch.

    Args:
        plan: of any rank; the cost is that of all ranks.
        epochs: length of the run.
        flops: FLOPs of one image by size, such as `lambda size: count_flops(model, size)`; asked once a size.
        base: size (pixels) of the run to compare with; by default that of the last epoch's mixture.

    Raises:
        UserError: as `BatchPlan`.

    >>> plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=64)
    >>> cost = plan_cost(plan, epochs=200, flops=lambda size: Flops(forward=size**2))
    >>> cost.steps, round(cost.ratio, 3)
    (196200, 1.286)
    """
    base = base or plan.schedule.at(epochs - 1).mix.base
    fixed = dataclasses.replace(plan, schedule=SizeSchedule.constant(SizeMix.fixed(base)))
    parts, base_parts = _count(plan, epochs), _count(fixed, epochs)
    by_size = {size: flops(size) for size in {part.size for part in (*parts, *base_parts)}}

    def costs(counts: dict[SizeBatch, tuple[int, int]]) -> tuple[SizeCost, ...]:
        return tuple(
            SizeCost(part.size, part.batch_size, part.copies, steps, samples, by_size[part.size])
            for part, (steps, samples) in counts.items()
        )

    return PlanCost(costs(parts), costs(base_parts)[0])


def _count(plan: BatchPlan, epochs: int) -> dict[SizeBatch, tuple[int, int]]:
    """Steps and samples of a run by size, batch size and copies; epochs of the same sizes are counted once."""
    first: dict[tuple[SizeBatch, ...], int] = {}
    repeats: Counter[tuple[SizeBatch, ...]] = Counter()
    for epoch in range(epochs):
        sizes = plan.sizes(epoch)
        repeats[sizes] += 1
        first.setdefault(sizes, epoch)
    total: dict[SizeBatch, tuple[int, int]] = {}
    for sizes, times in repeats.items():
        for part, steps, samples in plan.counts(first[sizes]):
            key = dataclasses.replace(part, share=0.0)  # the same size may have other shares in another phase
            done = total.get(key, (0, 0))
            total[key] = done[0] + times * steps, done[1] + times * samples
    return total


__all__ = [
    "Flops", "PlanCost", "SizeCost", "activation_bytes", "count_flops", "counting_flops", "estimate_memory",
    "meta_copy", "plan_cost",
]  # fmt: skip
