"""Joining the processes that torchrun or Slurm's srun started, and noticing when one of them is gone.

    with joined("auto", minutes=10) as world:       # a process that nobody launched is a world of one
        train(...)

While the processes are joined each gives a sign of life every second. Where one fails, its error is told to the others;
where one is gone (killed, its machine cut off), the others name it and end, at most a minute later, so that whoever
launched them can start them again.
"""

import contextlib
import datetime
import os
import socket
import time
import uuid
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from anysize.launch.meeting import Meeting, find_meeting
from anysize.launch.watch import Watch
from anysize.ranks import concerns_all
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.world import World, pick_device


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
