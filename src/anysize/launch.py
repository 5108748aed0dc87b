"""Joining the processes that torchrun or Slurm's srun started, and noticing when one of them is gone.

    with joined("auto", minutes=10) as world:       # a process that nobody launched is a world of one
        train(...)

While the processes are joined each gives a sign of life every second. Where one fails, its error is told to the others;
where one is gone (killed, its machine cut off), the others name it and end, at most a minute later, so that whoever
launched them can start them again.
"""

import contextlib
import dataclasses
import datetime
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from anysize.ranks import EndedElsewhere, came_after_sigterm, concerns_all
from anysize.registry import UserError
from anysize.world import Interrupted, World, pick_device

_BEAT = 1.0  # seconds between two signs of life
_GONE = 30.0  # without one for so long a process is gone
_GRACE = 10.0  # for a process to end by itself, once it knows of another's end
_SETTLE = 4.0  # without a sign for so long a process is gone, where the connection to one broke
_ANOTHER = -1  # told of by the others, since it could not
_PORTS = range(20000, 60000)  # of which a Slurm job takes the one that its number names


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Which process this is, and where all of them meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def find_meeting(environment: Mapping[str, str]) -> Meeting | None:
    """Where the launcher of this process wants it to meet the others, by its variables; None: nobody launched it.

    Raises:
        UserError: some of the variables are there and others not.

    >>> find_meeting({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77",
    ...               "SLURM_STEP_NODELIST": "gpu[07-08],cpu1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"})
    Meeting(rank=5, size=8, local_rank=1, local_size=4, address='gpu07', port=20077)
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in environment:
        job, tasks = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
        return Meeting(
            rank=int(environment["SLURM_PROCID"]),
            size=int(environment["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            local_size=int(re.split(r"\D", tasks)[0]),
            address=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
            port=int(environment.get("MASTER_PORT", _PORTS[job % len(_PORTS)])),
        )
    if "RANK" not in environment or int(environment.get("WORLD_SIZE", 1)) < 2:
        return None
    lacking = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if lacking:
        raise UserError(
            f"RANK is set without {' and '.join(lacking)}; start the processes with torchrun -m anysize, with srun, or "
            "set all of RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        )
    return Meeting(
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", 0)),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
    )


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it.

    >>> first_host("gpu[003-005,9],login1"), first_host("alone"), first_host("a1,a2")
    ('gpu003', 'alone', 'a1')
    """
    first = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert first is not None  # each of its parts may be empty
    return "".join(part or "" for part in first.groups())


@contextlib.contextmanager
def joined(device: str, minutes: float) -> Iterator[World]:
    """The world of this process for the length of a block: joined with those that a launcher started with it.

    Where `torch.distributed` is set up already, by the caller or by a block around this one, its world is taken as it
    is. GPUs talk over NCCL, all else over gloo.

    Args:
        device: as `pick_device` takes it.
        minutes: that a process waits for others, to meet them and in every exchange with them.

    Raises:
        UserError: the others did not come in time, or their address is taken.
        EndedElsewhere: another process failed, or is gone.
    """
    if dist.is_available() and dist.is_initialized():
        yield World.here()
        return
    meeting = find_meeting(os.environ)
    if meeting is None:
        yield World()
        return
    world = _meet(meeting, device, minutes)
    attempt = world.share(uuid.uuid4().hex)
    watch = Watch(meeting, attempt)
    try:
        yield world
    except (Exception, KeyboardInterrupt) as error:
        if not concerns_all(error) and not isinstance(error, Interrupted):
            watch.explain(error)
        raise
    finally:
        watch.leave()
    if world.main:
        watch.wait_for_all()  # the addresses that they use may be this process's own
    dist.destroy_process_group()


def _meet(meeting: Meeting, device: str, minutes: float) -> World:
    os.environ.update(
        RANK=str(meeting.rank), WORLD_SIZE=str(meeting.size), LOCAL_RANK=str(meeting.local_rank),
        LOCAL_WORLD_SIZE=str(meeting.local_size), MASTER_ADDR=meeting.address, MASTER_PORT=str(meeting.port),
    )  # fmt: skip
    where = f"{meeting.address}:{meeting.port}"
    cuda = pick_device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(pick_device(device))
    timeout = datetime.timedelta(minutes=minutes)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        own = PrefixStore(_attempt(store, meeting, timeout), store)
        dist.init_process_group(
            "nccl" if cuda else "gloo", store=own, rank=meeting.rank, world_size=meeting.size, timeout=timeout
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(
                f"{where}, where the processes were to meet, is taken by another program; give another port "
                "(MASTER_PORT, or torchrun's --master-port)"
            ) from None
        raise UserError(
            f"process {meeting.rank} of {meeting.size} on {socket.gethostname()} found no process 0 at {where} within "
            f"{minutes:g} minutes ({_first_line(error)}); start all processes, and see that the address can be reached"
        ) from None
    except dist.DistError as error:
        raise UserError(
            f"process {meeting.rank} of {meeting.size} on {socket.gethostname()} waited {minutes:g} minutes at {where} "
            f"for the others ({_first_line(error)}); start all processes, or wait longer with training.timeout_minutes"
        ) from None
    return World.here(timeout)


def _attempt(store: Store, meeting: Meeting, timeout: datetime.timedelta) -> str:
    """A word for this start of the processes, under which none finds what those of an earlier one have left.

    torchrun's store outlives the processes that it starts again, and the addresses of the dead with it. So each gives a
    word of its own, and takes that of the first process from an answer to it.
    """
    word, end = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if meeting.rank > 0:
        store.set(f"anysize/asks/{meeting.rank}", word)
        answer = f"anysize/answer/{meeting.rank}/{word}"
        store.wait([answer], timeout)
        attempt: str = store.get(answer).decode()
        store.set(f"anysize/here/{attempt}/{meeting.rank}", "")
        return attempt
    while missing := [rank for rank in range(1, meeting.size) if not store.check([f"anysize/here/{word}/{rank}"])]:
        if time.monotonic() > end:
            raise dist.DistStoreError(f"process {missing[0]} did not come")
        for rank in missing:
            if store.check([f"anysize/asks/{rank}"]):  # perhaps one that is dead: the answer is then read by none
                store.set(f"anysize/answer/{rank}/{store.get(f'anysize/asks/{rank}').decode()}", word)
        time.sleep(0.05)
    return word


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rpartition("] ")[2][:200]


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
        print(f"anysize: {text}", file=sys.stderr, flush=True)


def _lost_connection(error: BaseException) -> bool:
    """Whether an exchange failed because another process is not there any more."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))
