"""The processes that train one model together: what they agree on, and sums over them.

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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anysize.ranks import mark_as_of_all
from anysize.registry import UserError

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


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The precision of a forward pass: `float32` computes in what the weights are, others by torch's autocast.

    >>> with autocast(torch.device("cpu"), "bfloat16"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


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
