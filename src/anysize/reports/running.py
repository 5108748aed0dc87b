"""Whether a run trains just now: the record of its process in the run folder, which that touches every minute."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from anysize.files import open_regular
from anysize.forms import fields, number, text

OWNER = ".owner"
STALE_SECONDS = 180.0
"""A record that was not touched for so long is of a process that is gone."""

_MOST = 1 << 16  # bytes of a record
_RECORD = fields(host=text(300), pid=number(1, 2**31, whole=True))


def is_held(folder: Path) -> bool | None:
    """Whether a process trains in a run folder; None: it ended without a word, as one that is killed does.

    >>> is_held(Path("/nowhere"))
    False
    """
    record, touched = read_owner(folder / OWNER)
    if touched is None:
        return False
    here = record.get("host") == socket.gethostname()
    gone = time.time() - touched > STALE_SECONDS or (here and not is_alive(record["pid"]))
    return None if gone else True


def read_owner(path: Path) -> tuple[dict[str, Any], float | None]:
    """A record, empty where it is not whole, and when it was touched, None where there is none."""
    try:
        with open_regular(path) as file:  # opening asks a network file system for the time of now
            touched, content = os.fstat(file.fileno()).st_mtime, file.read(_MOST)
        record = json.loads(content)
        known = _RECORD(record, "")
        return {**record, **known}, touched
    except OSError:  # it is gone, or no file as ours are
        with contextlib.suppress(OSError):
            return {}, path.lstat().st_mtime
        return {}, None
    except (ValueError, RecursionError):
        return {}, touched


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    if os.name != "posix":
        return True  # there is no asking without a signal
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
