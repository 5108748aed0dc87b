"""What stops a training before its end: signals, Ctrl-C, a time that is over.

with stop_on_signals() as stop:
    for step in steps:
        ...
        if stop:
            raise stop.interruption(saved)
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from anysize.ranks import mark_as_after_sigterm
from anysize.signals import ENDING, PATIENCE, OnceInterrupted, is_swallowed, send_again, watched_signals
from anysize.world import World


class Interrupted(Exception):
    """A run was asked to stop: everything was saved, and the same command goes on from there."""


class TimeOver(Interrupted):
    """The time that a run was given is over; it ended as it was meant to."""


class StopWaiting(Exception):
    """A signal came while a run waited for images: it saves, and is interrupted."""


class StopRequest:
    """Whether to stop: a signal or the first Ctrl-C came, or the time is over. The loop looks at it after every step.

    Time is over early enough to be saved before the end: by twice what the slowest save took, and twice the time since
    the last look. Where nothing was saved yet, a twentieth of the time is left for it, 20 seconds at most.

    Args:
        hours: the time that a run has; None: any.
        since: `time.monotonic()` when it began; None: now.
        slowest_save: tells the seconds of the slowest save so far, 0 before the first.

    >>> bool(StopRequest(hours=1)), bool(StopRequest(hours=1, since=time.monotonic() - 3600))
    (False, True)
    """

    def __init__(
        self, hours: float | None = None, since: float | None = None, slowest_save: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.signal: signal.Signals | None = None
        self._hours = hours
        self._since = time.monotonic() if since is None else since
        self._slowest_save = slowest_save
        self._looked: float | None = None
        self._over = False
        self._waits = False
        self._heard = False
        self._last_look, self._between_looks = self._since, 0.0

    def __bool__(self) -> bool:
        now = time.monotonic()
        self._last_look, self._between_looks = now, now - self._last_look
        self._heard = self.signal is not None
        return self.signal is not None or self._time_is_over()

    def interruption(self, saved: str, world: World | None = None) -> Interrupted:
        """The exception that ends a run where this asked to stop; `saved` says what was.

        The processes of `world` give the same reason, whichever of them was asked. Without it, this one's.
        """
        if (world or World()).agree(self.signal is not None) or self._hours is None:
            return Interrupted(saved)
        return TimeOver(f"--max-hours {self._hours:g} is over: {saved}")

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal end the waiting in this block, which is for something that may never come.

        Raises:
            StopWaiting: a signal came.
        """
        self._waits = True
        try:
            if self.signal is not None:
                raise StopWaiting
            yield
        finally:
            self._waits = False

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal that interrupts `frame`; what handles signals calls it.

        Raises:
            StopWaiting: the process waits for what may never come.
            KeyboardInterrupt: it is the second Ctrl-C.
        """
        swallowed = is_swallowed(frame)
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            if not swallowed:
                raise KeyboardInterrupt
            send_again(number)
        self.signal = signal.Signals(number)
        if self._waits and not swallowed:
            self._heard = True
            raise StopWaiting

    @property
    def heard(self) -> bool:
        """Whether the run has looked here since a signal came, and so is about to stop."""
        return self._heard

    def patience(self) -> float:
        """Seconds in which a run looks here, unless it waits for what never comes: with its slowest save, and steps."""
        return PATIENCE + 4 * self._between_looks + 2 * self._slowest_save()

    def _time_is_over(self) -> bool:
        if self._hours is None or self._over:
            return self._over
        now = time.monotonic()
        since_look = 0.0 if self._looked is None else now - self._looked
        saving = 2 * self._slowest_save() or min(20.0, 3600 * self._hours / 20)
        self._looked = now
        self._over = now + saving + 2 * since_look >= self._since + 3600 * self._hours
        return self._over


@contextlib.contextmanager
def stop_on_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Let SIGTERM, SIGHUP and Ctrl-C set `request` while training; a second Ctrl-C interrupts at once.

    SIGHUP, which comes when a terminal is closed, is left alone where it is ignored, as after nohup.
    A process that does not look at it in the time that it usually takes is ended: it waits for what never comes.
    Outside the main thread, where Python allows no handlers, signals keep their usual meaning.
    """
    request = StopRequest() if request is None else request  # one that does not ask to stop is false

    def handle(number: int, frame: FrameType | None) -> None:
        request.take(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    asked = (signal.SIGINT, signal.SIGTERM)
    numbers = [number for number in ENDING if number in asked or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        with watched_signals(request.patience, lambda: request.heard):
            yield request
    except Exception as error:
        if request.signal not in (None, signal.SIGINT):
            mark_as_after_sigterm(error)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            if request.signal is not None and isinstance(handler, OnceInterrupted):
                handler.came = True
