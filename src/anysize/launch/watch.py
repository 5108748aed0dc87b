"""Signs of life that processes give each other, and what they tell when one of them fails or is gone."""

import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from anysize.launch.meeting import Meeting
from anysize.ranks import EndedElsewhere, came_after_sigterm
from anysize.registry import printable

_BEAT = 1.0  # seconds between two signs of life
_GONE = 30.0  # without one for so long a process is gone
_GRACE = 10.0  # for a process to end by itself, once it knows of another's end
_SETTLE = 4.0  # without a sign for so long a process is gone, where the connection to one broke
_ANOTHER = -1  # told of by the others, since it could not


class Watch:
    """Gives this process's signs of life, watches those of the others, and passes on who failed.

    Two threads: one talks to the store in which all leave their signs; the other sees to it that the first gets
    answers, since the store's machine may be cut off.
    """

    def __init__(self, meeting: Meeting, attempt: str) -> None:
        self.rank, self.size = meeting.rank, meeting.size
        self.host = socket.gethostname()
        store = TCPStore(  # a connection of its own, and keys that no earlier attempt has left
            meeting.address, meeting.port, is_master=False, timeout=datetime.timedelta(seconds=_GONE)
        )
        self._store = PrefixStore(f"anysize/{attempt}", store)
        self._store.set(f"host/{self.rank}", self.host)
        self._left = threading.Event()
        self._answered = time.monotonic()
        self._seen: dict[int, tuple[int, float]] = {}
        for work in (self._beat, self._guard):
            threading.Thread(target=work, name=f"anysize{work.__name__}", daemon=True).start()

    def leave(self) -> None:
        """End the signs of life of a process that is done, or whose end is known to all."""
        if not self._left.is_set():
            self._left.set()
            with contextlib.suppress(RuntimeError):  # the store may be gone already
                self._store.set(f"left/{self.rank}", "")

    def wait_for_all(self) -> None:
        """Wait until all processes have left, or those that have not are gone."""
        with contextlib.suppress(RuntimeError):
            counts, since = self._counts(), time.monotonic()
            while time.monotonic() - since < _GONE and not all(self._has_left(rank) for rank in range(self.size)):
                time.sleep(0.05)
                if (now := self._counts()) != counts:
                    counts, since = now, time.monotonic()

    def explain(self, error: BaseException) -> None:
        """Tell the others why this process fails; or, if that is because of one of them, say which.

        Raises:
            EndedElsewhere: another process failed first, or is gone.
        """
        if _lost_connection(error) and came_after_sigterm(error):  # a launcher ends what another's death has left
            raise EndedElsewhere("the launcher ended the run") from error
        try:
            if not _lost_connection(error):
                self._tell([self.rank], f"{type(error).__name__}: {error}")
                if self._first()[0] == self.rank:
                    self._say(f"process {self.rank} on {self.host} failed, and ends all others:")
                    return
            reason = self._wait_for_reason(error)
        except RuntimeError:  # the store is gone, and with it the process that had it
            if not _lost_connection(error):
                return
            reason = f"process {self.rank} on {self.host} lost its connection to process 0, which is gone"
            self._say(f"{reason}; the checkpoints are as they were saved, and the same command goes on from there")
        raise EndedElsewhere(reason) from error

    def _wait_for_reason(self, error: BaseException) -> str:
        """The first failure, of which the process that it befell, or else the first to notice it, tells."""
        counts, start = self._counts(), time.monotonic()
        silent = set(range(self.size))
        while not self._store.check(["failed"]):
            time.sleep(0.1)
            now, waited = self._counts(), time.monotonic() - start
            silent = {rank for rank in silent if now[rank] == counts[rank] and not self._has_left(rank)}
            # A process that is only slow gives a sign before long; where several are gone the wait says so.
            if waited > (_SETTLE if len(silent) == 1 else 2 * _SETTLE):
                if silent:
                    self._tell_of_silence(silent, waited)
                else:
                    told = f"an exchange failed although no process is gone ({str(error).splitlines()[0][:200]})"
                    remedy = "raise training.timeout_minutes where one needs longer than the others"
                    self._tell([self.rank], f"{told}; {remedy}", say=True)
        return self._first()[1]

    def _beat(self) -> None:
        """One of the threads: give a sign, look at the others', end this process where one of them has ended."""
        while not self._left.wait(_BEAT):
            try:
                self._store.add(f"beat/{self.rank}", 1)
                failed = self._store.check(["failed"]) and self._first()[0] != self.rank
                if not failed:
                    self._look()
            except RuntimeError:  # no store any more: `_guard` waits a while, the main thread may know more
                continue
            self._answered = time.monotonic()
            if failed and not self._left.wait(_GRACE):
                os._exit(1)  # the main thread waits for one that is gone, in an exchange that nothing interrupts

    def _look(self) -> None:
        """Tell of a process that gives no signs any more: the first one looks at all, the others at the first."""
        for rank in range(1, self.size) if self.rank == 0 else (0,):
            count, now = self._store.add(f"beat/{rank}", 0), time.monotonic()
            if count != self._seen.get(rank, (-1, 0.0))[0] or self._has_left(rank):
                self._seen[rank] = count, now
            elif now - self._seen[rank][1] > _GONE:
                self._tell_of_silence([rank], _GONE)

    def _guard(self) -> None:
        """The other thread: end this process where the store does not answer any more."""
        while not self._left.wait(_BEAT):
            if time.monotonic() - self._answered > _GONE:
                self._say(
                    f"process {self.rank} on {self.host} has not reached process 0's machine for {_GONE:g} seconds, "
                    "and ends; the checkpoints are as they were saved"
                )
                if not self._left.wait(_GRACE):
                    os._exit(1)

    def _counts(self) -> list[int]:
        return [self._store.add(f"beat/{rank}", 0) for rank in range(self.size)]

    def _has_left(self, rank: int) -> bool:
        return bool(self._store.check([f"left/{rank}"]))

    def _tell_of_silence(self, ranks: Iterable[int], seconds: float) -> None:
        ranks = sorted(ranks)
        self._tell(
            ranks, f"{'they' if len(ranks) > 1 else 'it'} gave no sign of life for {seconds:.0f} seconds", say=True
        )

    def _tell(self, ranks: Sequence[int], reason: str, *, say: bool = False) -> None:
        hosts: dict[str, list[int]] = {}
        for rank in ranks:
            known = self._store.check([f"host/{rank}"])
            hosts.setdefault(self._store.get(f"host/{rank}").decode() if known else "its host", []).append(rank)
        who = " and ".join(
            f"process{'es' * (len(own) > 1)} {', '.join(map(str, own))} on {host}" for host, own in hosts.items()
        )
        text = f"{who} ended the run: {reason}"
        mine = f"{self.rank if list(ranks) == [self.rank] else _ANOTHER}\n{self.rank}\n{text}"
        first = self._store.compare_set("failed", "", mine).decode()
        if say and first == mine:
            self._say(f"{text}; the checkpoints are as they were saved, and the same command goes on from there")

    def _first(self) -> tuple[int, str]:
        """Which process told of a failure of its own, or `_ANOTHER`, and what was told; to be asked once it was."""
        rank, _, text = self._store.get("failed").decode().split("\n", 2)
        return int(rank), text

    def _say(self, text: str) -> None:
        print(printable(f"anysize: {text}"), file=sys.stderr, flush=True)


def _lost_connection(error: BaseException) -> bool:
    """Whether an exchange failed because another process is not there any more."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))
