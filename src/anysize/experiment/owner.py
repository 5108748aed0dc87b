"""Who trains in a run folder: a record of host and process, for where the lock of the folder holds nothing.

A lock (`flock`) holds between the processes of a machine, and over NFS 4 between machines, but not on every file
system. So the process that trains keeps a file `.owner` in the folder, made in one operation that fails where there is
one, and touches it every minute. A record that was not touched for three minutes is of a process that is gone.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anysize.registry import UserError, in_a_line
from anysize.reports.running import OWNER, STALE_SECONDS, is_alive, read_owner

logger = logging.getLogger(__name__)

RENEW_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Owner:
    """This process in the record of a folder; `taken_over` is what is to be said of one that was there."""

    path: Path
    record: dict[str, Any]
    taken_over: str

    def lost(self) -> str:
        """What has become of the record, in words; empty where it stands, and where nobody can tell."""
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return f"its record {self.path.name} was removed"
        except OSError:
            return ""  # a network that is away for the moment
        record, touched = read_owner(self.path)
        return "" if record == self.record or touched is None else f"it was taken over by {_named(record)}"


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done in a folder, for messages."""

    done: str = "trained"
    folder: str = "the run folder"
    other: str = "another --out"


TRAINING = Work()


@contextlib.contextmanager
def recorded_owner(folder: Path, *, locked: bool, work: Work = TRAINING) -> Iterator[Owner]:
    """Keep a record of this process in `folder`.

    `locked` says that the lock of the folder is held, so that no other process of this machine works there.

    Raises:
        UserError: another process trains there, which is named.
    """
    path = folder / OWNER
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "id": uuid.uuid4().hex, "job": _job()}
    taken_over = _take(path, own, locked=locked, work=work)
    ended = threading.Event()
    heart = threading.Thread(target=_renew, args=(path, own, ended), daemon=True)
    heart.start()
    try:
        yield Owner(path, own, taken_over)
    finally:
        ended.set()
        heart.join()
        if read_owner(path)[0] == own:
            path.unlink(missing_ok=True)


def owner_of(folder: Path) -> str:
    """The process that the record in `folder` names, for people.

    >>> owner_of(Path("/nowhere"))
    'another process'
    """
    return _named(read_owner(folder / OWNER)[0])


def _job() -> str:
    """The launcher's number of this job, which ends all processes before it starts them again; empty: it has none."""
    names = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"))
    return next((name for name in names if name not in ("", "none")), "")


def _named(record: dict[str, Any]) -> str:
    return f"process {record['pid']} on {in_a_line(record['host'])}" if record else "another process"


def _take(path: Path, own: dict[str, Any], *, locked: bool, work: Work) -> str:
    """Make the record; what is to be said of one that was there."""
    said = ""
    while True:
        try:
            with path.open("x") as file:
                json.dump(own, file)
        except FileExistsError:
            other, touched = read_owner(path)
            if touched is None:
                continue  # it was removed just now
            age = max(_now(path.parent) - touched, 0.0)
            here = other.get("host") == own["host"]
            again = bool(own["job"]) and other.get("job") == own["job"]
            if age < STALE_SECONDS and not again and not (here and (locked or not is_alive(other["pid"]))):
                raise UserError(
                    f"{path.parent} is being {work.done} by {_named(other)}, last heard of {age:.0f} seconds ago; wait "
                    f"for it, or give {work.other}; if it is gone, try again in {STALE_SECONDS - age:.0f} seconds"
                ) from None
            if not here and not again:
                said = f"{_named(other)} trained here and was last heard of {age:.0f} seconds ago: it is taken for gone"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise not_written(path.parent, error, work) from None
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise not_written(path.parent, error, work) from None
        else:
            return said


def not_written(folder: Path, error: OSError, work: Work = TRAINING) -> UserError:
    """The error for a folder that cannot be written, with the name of the file in it that it is about."""
    path = Path(str(error.filename or folder))
    of = f"{path.name}: " if path.parent == folder else ""
    return UserError(f"cannot write {work.folder} {folder}: {of}{error.strerror}; give {work.other}")


def _renew(path: Path, own: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        record, _ = read_owner(path)
        if record != own:
            logger.warning(f"{path.parent} was taken over by {_named(record)}: this run stops at its next save")
            return
        with contextlib.suppress(OSError):  # the next time will do
            os.utime(path)


def _now(folder: Path) -> float:
    """The time by the clock that the files of `folder` get theirs from, which over a network is the server's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as file:
        return os.fstat(file.fileno()).st_mtime
