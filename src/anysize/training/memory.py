"""Steps that are made to fit into memory: training.micro_batches.

What counts as too little memory is what can be caught: errors of CUDA and of Apple's MPS, Python's `MemoryError`, and
torch's "can't allocate memory" on a CPU. Linux promises a process more memory than there is, and kills it when it uses
it; where that happens, nothing is caught.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

from anysize.machine import is_out_of_memory
from anysize.models.measure.largest_batch import give_back
from anysize.norms.synchronised import each_alone
from anysize.training.distill import passes_of_size
from anysize.training.guards import MEMORY_ERRORS, OutOfMemory
from anysize.training.parts import Parts
from anysize.training.shapes import try_largest_step
from anysize.training.state import TrainState

T = TypeVar("T")


def fit_into_memory(parts: Parts, state: TrainState) -> None:
    """Try the largest step of the run, on all processes; with training.micro_batches cut batches until it fits.

    Raises:
        UserError: out of memory; names the shape. Or steps of one image where batch norm needs two.
    """
    micro = state.micro_batches
    while True:
        short = False
        with parts.world.together(), parts.no_sync(), each_alone():
            try:
                try_largest_step(
                    state.model, parts.forward, parts.autocast, parts.plan, parts.length, parts.training,
                    channels=parts.loader.source.channels, device=parts.device, memory_format=parts.memory_format,
                    chunks=micro.chunks, second=parts.second,
                    all_passes=functools.partial(passes_of_size, parts, state) if parts.second else None,
                )  # fmt: skip
            except OutOfMemory as error:
                if not micro.auto:
                    raise
                micro.check_can_halve(error.images)
                short = True
        if not parts.world.agree(short):
            return
        _halve(parts, state)


def within_memory(parts: Parts, state: TrainState, images: int, compute: Callable[[], T]) -> T:
    """What `compute`, forward and backward passes on a batch, returns: with training.micro_batches in smaller parts
    where it runs out of memory.

    In one process alone: another one has gone on to add gradients up, and waits for those of this one.

    Raises:
        UserError: out of memory with the smallest parts.
    """
    micro, control, copies = state.micro_batches, state.control, state.copies
    if not micro.auto or parts.world.size > 1:
        return compute()
    while True:
        buffers = [(buffer, buffer.clone()) for buffer in state.model.buffers()]
        unit, factors, steps = control.unit, dict(copies.factors), dict(copies.steps)
        try:
            return compute()
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        # Behind `except`, where the error no longer holds what the failed pass had made.
        micro.check_can_halve(images)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        control.unit, copies.factors, copies.steps = unit, factors, steps
        _halve(parts, state)


def _halve(parts: Parts, state: TrainState) -> None:
    """Give back what the failed pass holds, and let there be smaller parts from here on, which is said."""
    state.micro_batches.halve()
    state.optimizer.torch.zero_grad(set_to_none=True)
    give_back(parts.device)
    parts.log.message(
        f"too little memory: from step {state.progress.step + 1} on a batch is cut into {state.micro_batches.most} "
        "parts, whose gradients are added up (training.micro_batches)"
    )
    if state.micro_batches.batch_norm and parts.world.main:
        parts.log.warning("batch norm takes its statistics from these smaller parts, not from the whole batch")
