"""How much of a training is waiting for images: the time in which a device stands still until a batch is there."""

import collections
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

_T = TypeVar("_T")
_SHARE, _SECONDS = 0.1, 60.0


class Waiting:
    """Adds up the time for which a device waits for the items of an iterable.

    A GPU may still be at the steps before while the host waits: there it is the time between two events, one on either
    side of the wait, which are read once they are past, so that nothing waits for them.

    >>> waiting = Waiting(torch.device("cpu"))
    >>> [waiting.take() >= 0.02 for _ in waiting.over(map(time.sleep, [0.02]))]
    [True]
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: collections.deque[tuple[torch.cuda.Event, torch.cuda.Event]] = collections.deque()

    def over(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items in order; what is done with them in between is not counted."""
        rest = iter(items)
        while True:
            began, before = time.perf_counter(), self._mark()
            try:
                item = next(rest)
            except StopIteration:
                return
            if before is None:
                self._seconds += time.perf_counter() - began
            elif after := self._mark():
                self._events.append((before, after))
            yield item

    def take(self) -> float:
        """The seconds that have come together since the last call, as far as they are known."""
        while self._events and self._events[0][1].query():  # type: ignore[no-untyped-call]
            before, after = self._events.popleft()
            self._seconds += before.elapsed_time(after) / 1000
        taken, self._seconds = self._seconds, 0.0
        return taken

    def _mark(self) -> torch.cuda.Event | None:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


class WaitingWatch:
    """Finds, once, that of a minute of training more than a tenth went by waiting.

    >>> watch = WaitingWatch()
    >>> [watch(30, waited) for waited in (2, 3, 9, 1, 30, 30)]
    [0.0, 0.0, 0.0, 0.16666666666666666, 0.0, 0.0]
    """

    def __init__(self) -> None:
        self._seconds = self._waited = 0.0
        self._told = False

    def __call__(self, seconds: float, waited: float) -> float:
        """Count seconds of training and those of them that were waited; the share, where it is to be told now."""
        self._seconds += seconds
        self._waited += waited
        if self._told or self._seconds < _SECONDS:
            return 0.0
        share = self._waited / self._seconds
        self._seconds = self._waited = 0.0
        self._told = share > _SHARE
        return share if self._told else 0.0
