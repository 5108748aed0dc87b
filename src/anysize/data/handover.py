"""The way of a batch to the device that trains on it."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Handover:
    """Moves tensors to a device; on a GPU by a stream of its own, so that a copy overlaps the step under way.

    On the stream of the steps a copy would wait for the step before, although the host is ahead of it. What is handed
    over may be used at once: that stream waits for the copy. Tensors in pinned memory, as the loaders make them, are
    copied without the host waiting; torch keeps that memory until the copy is done, and uses it again.

    >>> tensor = torch.zeros(2)
    >>> Handover(torch.device("cpu"))([tensor])[0] is tensor
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        if self._copies is None:
            return [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        steps, moved = torch.cuda.current_stream(self._device), []
        for tensor in tensors:
            if tensor.device.type == "cpu":
                with torch.cuda.stream(self._copies):
                    tensor = tensor.to(self._device, non_blocking=True)
                tensor.record_stream(steps)  # or its memory would count as free for the next copy while a step reads it
            moved.append(tensor)
        steps.wait_stream(self._copies)
        return moved
