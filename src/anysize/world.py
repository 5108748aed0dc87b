"""The processes that train one model together: what they agree on, sums over them, and signals to stop.

    world = World.here()                     # one process is a world of one; the caller knows no other case
    with world.together():                   # what fails in one process fails in all
        prepare()
    if world.agree(clock_says_save):         # any process's wish is everybody's, at the same step
        save()

Decisions go over a group of the CPUs, so that no process waits for its device to make one. Imports no more of the
project than `registry` and `ranks`.
"""

import contextlib
import dataclasses
import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anysize.ranks import mark_as_after_sigterm, mark_as_of_all
from anysize.registry import UserError
from anysize.signals import ENDING, PATIENCE, OnceInterrupted, is_swallowed, send_again, watched_signals

_GROUPS: dict[Any, Any] = {}
"""The group over the CPUs that belongs to the default one."""


@dataclasses.dataclass(frozen=True)
class World:
    """The processes of a run: this one is `rank` of `size`; `group` is theirs over the CPUs (None: the default one).

    >>> world = World.here()
    >>> world.main, world.agree(False), world.sum([1.5, 2.0]), world.share("same")
    (True, False, [1.5, 2.0], 'same')
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def here(cls, timeout: datetime.timedelta | None = None) -> "World":
        """The world of `torch.distributed`, where it is set up; otherwise this process alone.

        The first call is made by all processes. Beside GPUs it makes a group over the CPUs, whose exchanges wait for
        others as long as `timeout` says.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        default = dist.group.WORLD
        if default not in _GROUPS:
            _GROUPS.clear()
            _GROUPS[default] = None if dist.get_backend() == "gloo" else dist.new_group(timeout=timeout, backend="gloo")
        return cls(dist.get_rank(), dist.get_world_size(), _GROUPS[default])

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def post(self, *flags: bool) -> Callable[[], Sequence[bool]]:
        """Send this process's flags on their way; the function that is returned waits for those of any process.

        All processes post in the same order.
        """
        if self.size == 1:
            return lambda: flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group, async_op=True)
        assert work is not None  # as always for async_op in a member of the group

        def answer() -> Sequence[bool]:
            work.wait()
            return [bool(vote) for vote in votes.tolist()]

        return answer

    def agree(self, flag: bool) -> bool:
        """Whether any process has raised `flag`; waits for all of them."""
        return self.post(flag)()[0]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Numbers of the host added up over the processes, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total.tolist()]

    def add(self, *tensors: Tensor) -> None:
        """Add tensors of a device up over the processes, in place; the host does not wait for it."""
        if self.size == 1 or not tensors:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # a set has another order in each process
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            together = torch.cat([tensor.reshape(-1) for tensor in alike])  # one message in place of one a tensor
            dist.all_reduce(together)
            for tensor, part in zip(alike, torch.split(together, [each.numel() for each in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def maximum(self, tensor: Tensor) -> None:
        """Take the largest of each value over the processes, in place; the host does not wait for it."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def share(self, value: Any) -> Any:
        """The value of the main process, on every process."""
        return self.gather(value)[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on every process; an exception of one is raised on all, so that none waits for it for ever.

        Nothing in the block may wait for another process. A second Ctrl-C is not waited with.

        Raises:
            UserError: another process failed; the message names it. Errors that ask for a stop keep their kind.
        """
        if self.size == 1:
            yield
            return
        errors: list[Exception] = []
        try:
            yield
        except Exception as error:
            errors.append(error)
        said = self.gather([(_kind(error), str(error)) for error in errors])
        rank = next((rank for rank, failures in enumerate(said) if failures), None)
        if rank is not None and not errors:
            ((kind, text),) = said[rank]
            errors.append(kind(f"process {rank}: {text}"))
        if errors:
            mark_as_of_all(errors[0])
            raise errors.pop()  # no name is left that would keep it, and all in its traceback, alive


def _kind(error: Exception) -> type[Exception]:
    """The kind of an error for the other processes, which may not know one of the user's."""
    return type(error) if type(error).__module__.startswith("anysize.") else UserError


class Agreement:
    """Flags that are raised by any process, agreed upon step by step.

    Called once a step, it returns the flags that processes raised in the step before, which have had a step's time to
    arrive; a world of one learns of its own at once.

    >>> agreed = Agreement(World())
    >>> agreed(False, True), agreed.close()
    ((False, True), ())
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: Callable[[], Sequence[bool]] | None = None

    def __call__(self, *flags: bool) -> Sequence[bool]:
        """Raise flags; what all agree on."""
        answer, self._pending = self._pending, self._world.post(*flags)
        if self._world.size == 1:
            return self.close()
        return answer() if answer else [False] * len(flags)

    def close(self) -> Sequence[bool]:
        """Wait for what is still under way."""
        answer, self._pending = self._pending, None
        return answer() if answer else ()


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


def pick_device(name: str) -> torch.device:
    """The device of a process: `auto` is a GPU where there is one.

    `auto` and `cuda` are another GPU in each process of a machine, or the only one that a launcher shows it.

    Raises:
        UserError: an unknown device, or one that this machine has not.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0) if torch.cuda.device_count() > 1 else 0}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says which devices it knows, or that CUDA is not there
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch goes on with all that it knows
        if reason.startswith("Expected one of"):  # two dozen kinds of devices
            reason = "there is no such kind of device"
        raise UserError(
            f"training.device is {name!r}, which cannot be used: {reason}; expected auto, cpu, cuda or mps"
        ) from None
    return device
