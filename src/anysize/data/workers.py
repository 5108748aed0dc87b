"""Worker processes of the loaders: how many, what each does first, and one sentence where they cannot deliver.

torch passes batches through shared memory, `/dev/shm` on Linux. A worker that finds no room there, or no free file
descriptor, drops the batch, and the main process would wait for it for ever: here it hands over the reason instead.
"""

import contextlib
import dataclasses
import errno
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from anysize.machine import lost_worker, of_lost_worker, plainly, shared_room, usable_cores
from anysize.registry import UserError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class _Undelivered:
    """What a worker hands over in place of a batch that cannot be: the reason."""

    reason: str


def worker_count(wanted: int) -> int:
    """The number of worker processes for a setting, of which -1 leaves the choice open.

    Raises:
        UserError: some are wanted in a daemonic process, which may not start any.

    >>> worker_count(3)
    3
    """
    daemonic = bool(multiprocessing.current_process().daemon)
    if wanted < 0:
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # the others have loaders, too
        return 0 if daemonic else min(8, max(1, cores))
    if wanted and daemonic:
        raise UserError(
            f"{wanted} processes are to load images (data.workers), and this process is daemonic, which may start no "
            "other; set data.workers to 0, or start this process with daemon=False"
        )
    return wanted


def start_worker(worker: int) -> None:
    """Let signals to the process group reach the main process alone, which saves and ends its workers.

    And let it know of what this worker cannot deliver.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    sys.excepthook = _of_thread
    # The hook of multiprocessing for what a queue cannot pickle; in this process alone.
    multiprocessing.queues.Queue._on_queue_feeder_error = _tell  # type: ignore[attr-defined]


def _of_thread(kind: type[BaseException], error: BaseException, where: types.TracebackType | None) -> None:
    """Tell of an error that a thread of a worker did not catch; that the main process was killed is none."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, where)


def _tell(queue: "multiprocessing.queues.Queue[Any]", error: Exception, item: tuple[Any, Any]) -> None:
    reason = re.sub(r"unable to allocate shared memory\(shm\) for file <.*?>: ", "", str(error))
    with contextlib.suppress(ValueError):  # closed: nobody waits any more
        queue.put((item[0], _Undelivered(f"{type(error).__name__}: {reason}")))


def delivered(loader: DataLoader[_T | UserError]) -> Iterator[_T]:
    """The items of a loader whose workers begin with `start_worker`.

    Raises:
        UserError: its workers cannot be started, cannot deliver, or are gone; or what they hand over is one.
    """
    with plainly("loading images"), _starting(loader.num_workers), _anew(loader):
        for item in loader:
            if isinstance(item, UserError):
                raise item
            if isinstance(item, _Undelivered):
                raise UserError(
                    f"a process that loads images could not hand over a batch ({item.reason}): {_remedy(item.reason)}"
                )
            yield item


@contextlib.contextmanager
def _starting(workers: int) -> Iterator[None]:
    """Say what it means where torch cannot start workers, or take from them what they have."""
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise lost_worker("ended in the middle of a batch") from error
    except (OSError, RuntimeError) as error:
        known = isinstance(error, OSError) or "ancdata" in str(error) or "open files" in str(error)
        if not workers or not known or "Original Traceback" in str(error):  # of the data set's own code
            raise
        _make_whole(error)
        reason = str(error).partition(". ")[0]  # torch goes on with remedies in code
        raise UserError(
            f"{workers} processes that load images cannot be started or heard ({reason}): {_remedy(reason, error)}"
        ) from error


@contextlib.contextmanager
def _anew(loader: DataLoader[Any]) -> Iterator[None]:
    """Say what it may mean that a worker which was started anew, and runs the program's script again, is gone."""
    try:
        yield
    except RuntimeError as error:
        context: Any = loader.multiprocessing_context
        if not context or context.get_start_method() == "fork" or not (lost := of_lost_worker(error)):
            raise
        raise UserError(
            f"{lost}; where this comes at once: images from object storage are loaded by processes that each run the "
            'script of the program from its beginning, so that what it does belongs under `if __name__ == "__main__":`'
        ) from error


def _make_whole(error: BaseException) -> None:
    """Give an iterator of torch's that failed half made what its end asks for, or that fails again, and is shown."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        half: Any = frame.f_locals.get("self")
        if hasattr(half, "_workers") and not hasattr(half, "_workers_status"):
            half._workers_status = [True] * len(half._workers)


def _remedy(reason: str, error: BaseException | None = None) -> str:
    room = shared_room()
    if "open files" in reason or "ancdata" in reason:
        return f"raise the limit of open files (ulimit -n), or lower data.workers (0 needs none; {room})"
    if "temporary directory" in reason:
        return "set TMPDIR to a folder that can be written, or lower data.workers (0 needs none)"
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM):
        return f"memory or the number of processes is short (ulimit -u; {room}): lower data.workers (0 needs none)"
    return (
        f"shared memory is short or cannot be used ({room}): make it larger (docker run --shm-size 2g), or lower "
        "data.workers (0 needs none) or training.batch_size"
    )
