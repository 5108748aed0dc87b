"""Checkpoints written beside the training: what they hold is copied, and a thread writes the copy.

A step changes weights and moments in place, so they are copied first, into memory that is kept from one save to the
next: one more copy of the weights and of the optimizer's state on the host. The thread converts, hashes, writes and
syncs, for most of which it does not hold Python's lock. `torch.distributed.checkpoint.async_save` would do the same,
but its description of the files is pickled, and it renames no folder into place.
"""

import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from anysize.machine import is_short, sentence
from anysize.training.checkpoint.files import Checkpoint, write_checkpoint

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes checkpoints one after the other, with `background` while the caller goes on. Use as a context manager.

    A process that is killed in the middle of a write leaves what was there before. What goes wrong in a write is
    raised by the next `write` or `wait`; `failed` says that there is something to raise. Where memory does not
    suffice for a copy, or no thread can be started, writes are made at once from then on, which is said.

    Args:
        background: write in a thread.
        kept, check: as `write_checkpoint` takes them; `check` is also called before anything is copied.

    >>> import tempfile
    >>> folder, weight = Path(tempfile.mkdtemp()) / "last", torch.zeros(2)
    >>> with CheckpointWriter(background=True) as writer:
    ...     writer.write(folder, Checkpoint({"model": {"weight": weight}}, {}))
    ...     _ = weight.add_(1)  # as a step does
    >>> from anysize.training.checkpoint.files import read_checkpoint
    >>> read_checkpoint(folder).model["weight"]
    tensor([0., 0.])
    """

    def __init__(self, *, background: bool = False, kept: int = 1, check: Callable[[], object] = lambda: None) -> None:
        self.check = check
        self.slowest = 0.0
        """Seconds that the slowest write took, from the call to the synced files."""
        self._kept = kept
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._under_way: Future[None] | None = None

    def write(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        keep: Path | None = None,
        *,
        kept: int = 0,
        changes: bool = True,
    ) -> None:
        """`write_checkpoint`, once the write before is done; tensors that `changes` says will change are copied.

        `kept` is as many as the writer keeps, if it is 0.

        Raises:
            LostFolder: nothing may be written any more.
            UserError: this write, or in the background the one before, could not be made.
        """
        self.wait()
        self.check()
        start, kept = time.monotonic(), kept or self._kept
        if self._thread is None:
            self._write(folder, checkpoint, keep, kept, start)
            return
        arrived = None
        try:
            copied = checkpoint
            if changes:
                copied, arrived = self._copied(checkpoint)
            self._under_way = self._thread.submit(self._write, folder, copied, keep, kept, start, arrived)
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            # No room for a copy, or no thread: what is copied so far goes, and this save and those after it need none.
            logger.warning("checkpoints are written while training waits: %s", sentence(error, "copying one"))
            self._thread, self._copies = None, {}
            self._write(folder, checkpoint, keep, kept, start)

    @property
    def failed(self) -> bool:
        """Whether a write has failed of which `wait` has not told yet; waits for nothing."""
        write = self._under_way
        return write is not None and write.done() and write.exception() is not None

    def wait(self) -> None:
        """Wait for the write that is under way.

        Raises:
            UserError: it could not be made: the disk is full or refuses.
        """
        if self._under_way is not None:
            try:
                self._under_way.result()
            finally:
                if self._under_way.done():  # a second Ctrl-C ends the waiting, not the write
                    self._under_way = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as own:
            if error is None:
                raise
            logger.warning(str(own))  # the other error is the one that ends the run
        finally:
            if self._thread:
                self._thread.shutdown()

    def _write(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        keep: Path | None,
        kept: int,
        start: float,
        arrived: torch.cuda.Event | None = None,
    ) -> None:
        if arrived:
            arrived.synchronize()
        write_checkpoint(folder, checkpoint, keep, kept=kept, check=self.check)
        self.slowest = max(self.slowest, time.monotonic() - start)

    def _copied(self, checkpoint: Checkpoint) -> tuple[Checkpoint, torch.cuda.Event | None]:
        """The checkpoint on the host, and what a GPU has to reach before its copies have arrived there."""
        before, self._copies = self._copies, {}
        arrived = None
        for part, tensors in checkpoint.tensors.items():
            for name, value in tensors.items():
                own = before.pop((part, name), None)
                if own is None or (own.shape, own.dtype, own.stride()) != (value.shape, value.dtype, value.stride()):
                    # In the same order in memory, so that the copy is a plain one; the thread brings it into that of
                    # the file.
                    own = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
                self._copies[part, name] = own.copy_(value.detach(), non_blocking=value.is_cuda)
                if value.is_cuda and arrived is None:
                    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        if arrived:
            arrived.record()
        copies = {
            part: {name: self._copies[part, name] for name in tensors} for part, tensors in checkpoint.tensors.items()
        }
        return Checkpoint(copies, copy.deepcopy(checkpoint.state)), arrived
