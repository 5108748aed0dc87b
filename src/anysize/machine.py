"""What a machine lacks in the middle of anything: memory, room, open files, processes. One sentence for each.

    with plainly("evaluating"):         # of the library's verbs; the command line does so with what is left
        ...

What says nothing of the machine keeps its traceback. Imports the standard library alone.
"""

import contextlib
import errno
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from anysize.registry import UserError, in_a_line

SHARED = "/dev/shm"

_MEMORY = (
    "allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED",  # torch's on CPUs; MPS and CUDA; C++; cuDNN
    "could not create a primitive", "could not create a memory",  # oneDNN's, which asks for memory before each
    "failed to map segment", "cannot map zero-fill pages",  # of a library that is loaded
)  # fmt: skip
_FEWER = "lower data.workers (0 needs none)"
_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
    errno.EMFILE: f"raise the limit of open files (ulimit -n), or {_FEWER}",
    errno.ENFILE: f"raise the limit of open files of the machine (fs.file-max), or {_FEWER}",
    errno.EAGAIN: f"raise the limit of processes and threads (ulimit -u), or {_FEWER}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: "give one that this user may use",
    errno.EPERM: "give one that this user may use",
    errno.EROFS: "give one that can be written",
    errno.EIO: "look at the disk, or give another one",
    errno.ESTALE: "look at the file system, or give another one",
    errno.ENOENT: "look at what is there",
    errno.ENOTDIR: "look at what is there",
    errno.EISDIR: "look at what is there",
    errno.ELOOP: "look at the links there",
}


@contextlib.contextmanager
def plainly(doing: str = "") -> Iterator[None]:
    """Raise what the machine lacks as one sentence; `doing` says what was being done.

    >>> with plainly("evaluating"):
    ...     raise MemoryError
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: out of memory while evaluating (MemoryError): take smaller batches (...
    """
    try:
        yield
    except Exception as error:
        told = sentence(error, doing)
        if told is None:
            raise
        told.__dict__.update(error.__dict__)  # such as that all processes have it
        raise told from error


def sentence(error: BaseException, doing: str = "") -> UserError | None:
    """What an error says of the machine; None where it says nothing of it, or is a `UserError` already."""
    if isinstance(error, UserError):
        return None
    during = f" while {doing}" if doing else ""
    if lost := of_lost_worker(error):
        return lost
    if is_out_of_memory(error):
        return UserError(
            f"out of memory{during} ({_reason(error)}): take smaller batches (training.chunks or training.batch_size, "
            "evaluation.batch_size), smaller images or fewer data.workers, or end other programs"
        )
    if "can't start new thread" in str(error):
        return UserError(f"no thread can be started{during}: memory is short, or {_REMEDIES[errno.EAGAIN]}")
    if "determine home directory" in str(error):
        return UserError(f"this user has no home folder{during}: set HOME, or give paths without ~")
    return _of_files(error, during)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on a CPU or on another device.

    >>> is_out_of_memory(RuntimeError("MPS backend out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or any(text in str(error) for text in _MEMORY)


def is_short(error: BaseException) -> bool:
    """Whether an error speaks of what the machine lacks, and not of the file or the model that was at work.

    >>> is_short(OSError(errno.EMFILE, "Too many open files")), is_short(OSError(errno.ENOENT, "No such file"))
    (True, False)
    """
    lacks = ("can't start new thread", "usable temporary directory")
    few = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOSPC)
    return few or is_out_of_memory(error) or any(text in str(error) for text in lacks)


def of_lost_worker(error: BaseException) -> UserError | None:
    """What torch's error about a worker that is gone means; None for another error."""
    found = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", str(error))
    return lost_worker(f"(pid {found[1].strip()}) {found[2].partition('. ')[0].rstrip('. ')}") if found else None


def lost_worker(how: str) -> UserError:
    """The sentence on a loader's process that is gone."""
    return UserError(
        f"a process that loads images {how}: where the system did it, memory is short, or shared memory "
        f"({shared_room()}): lower data.workers (0 needs neither) and give the same command again, which goes on from "
        "what was saved"
    )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still take, by the system and by the limits of its container.

    None where the system does not tell. `root` is where its files are.

    >>> free_memory(Path("/nowhere")) is None
    True
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        return None
    pairs = [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
    for group, (limit, used) in itertools.product(_groups(root, "memory"), pairs):
        with contextlib.suppress(OSError, ValueError):  # a limit may be the word "max"
            found.append(max(0, int((group / limit).read_text()) - int((group / used).read_text())))
    return min(found, default=None)


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by the system and by the time that its container is given.

    >>> usable_cores() > 0
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group, files in itertools.product(
        _groups(root, "cpu"), (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"])
    ):
        with contextlib.suppress(OSError, ValueError):  # the limit may be the word "max"
            quota, period = map(int, " ".join((group / name).read_text() for name in files).split())
            if quota > 0 < period:  # -1: none
                cores = min(cores, max(1, quota // period))
    return cores


def _groups(root: Path, kind: str) -> list[Path]:
    """The folders of this process's control group and of those that it is in, whose limits hold, too.

    `kind` names the controller in version 1 of control groups, where each has folders of its own. In a container the
    own group is usually the top.
    """
    top = root / "sys/fs/cgroup"
    found = [top, top / kind]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if ".." not in path and (not kinds or kind in kinds.split(",")):
                inner = PurePosixPath(path.lstrip("/"))
                found += [(top / kind if kinds else top) / each for each in (inner, *inner.parents)]
    return found


def shared_room() -> str:
    """How much shared memory there is, in words."""
    try:
        usage = shutil.disk_usage(SHARED)
    except OSError as error:
        return f"{SHARED}: {error.strerror}"
    return f"{SHARED} has {usage.free / 2**20:,.1f} MiB free of {usage.total / 2**20:,.1f}"


def _of_files(error: BaseException, during: str) -> UserError | None:
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or ""
    name = getattr(error, "filename", None)
    # What a loader's process met arrives as text alone, and torch's own code says the number in passing.
    passed_on = re.search(r"\[Errno (\d+)\] ([^:\n]*)(?:: '([^'\n]*)')?\s*$", str(error)) if number is None else None
    if passed_on and isinstance(error, OSError):
        number, reason, name = int(passed_on[1]), passed_on[2], passed_on[3]
    if not isinstance(error, OSError) or number not in _REMEDIES:
        return None
    if "temporary directory" in reason:
        return UserError(
            f"no folder for temporary files can be written{during} (/tmp and others were tried): set TMPDIR to one "
            "that can"
        )
    if number == errno.ENOENT and name is None:
        if not _folder_is_gone():
            return None
        return UserError("the folder that this command was started in is gone: go to one that is there, with cd")
    of = f"{in_a_line(os.fsdecode(name), 200)}: " if isinstance(name, (str, bytes)) else ""
    return UserError(f"{of}{reason or os.strerror(number)}{during}; {_REMEDIES[number]}")


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _reason(error: BaseException) -> str:
    text = re.sub(r"^\[enforce fail [^]]*\] (err == 0\. )?", "", str(error))  # where in torch it was
    return in_a_line(next(iter(text.splitlines()), "") or type(error).__name__, 160)
