"""What was found out about files, kept from one `anysize data check` to the next in a small database (SQLite).

It lies in the user's cache (`ANYSIZE_CACHE`), one file a folder of data. What is kept of a file holds as long as its
`stamp`, such as size and time of modification, is the same. Without a folder to keep it in, with a full disk, or where
another process holds the database for long, everything works, and is found out again next time.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from anysize.files import own_cache

logger = logging.getLogger(__name__)

_MAKE = "CREATE TABLE IF NOT EXISTS found (key BLOB PRIMARY KEY, stamp BLOB, content BLOB) WITHOUT ROWID"
_FEW = 1000  # of findings that are written at a time: a killed check loses no more


class Remembered:
    """Findings by name. Threads may share it.

    >>> with remembered("", "1") as known:
    ...     known.put("a.jpg", "12 bytes", b"7 x 9")
    ...     known.get("a.jpg", "12 bytes"), known.get("a.jpg", "13 bytes")
    (b'7 x 9', None)
    """

    def __init__(self, database: sqlite3.Connection, root: str) -> None:
        self._database, self._lock = database, threading.Lock()
        self._root = os.fspath(Path(root).expanduser())  # names are kept without it: it may be written in several ways
        self._new: dict[bytes, tuple[bytes, bytes]] = {}

    def get(self, name: str, stamp: str) -> bytes | None:
        """What was found of this name with this stamp; None: nothing."""
        key, mark = self._key(name), _digest(stamp)
        with self._lock, contextlib.suppress(sqlite3.Error):
            kept = (
                self._new.get(key)
                or self._database.execute("SELECT stamp, content FROM found WHERE key = ?", (key,)).fetchone()
            )
            if kept and kept[0] == mark and isinstance(kept[1], bytes):
                return kept[1]
        return None

    def put(self, name: str, stamp: str, content: bytes) -> None:
        """Keep what was found."""
        with self._lock:
            self._new[self._key(name)] = _digest(stamp), content
            if len(self._new) >= _FEW:
                self._write()

    def _key(self, name: str) -> bytes:
        return _digest(name.removeprefix(self._root).lstrip(os.sep))

    def close(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._write()
            self._database.close()

    def _write(self) -> None:
        rows = [(key, stamp, content) for key, (stamp, content) in self._new.items()]
        self._new.clear()
        try:
            with self._database:  # all of them, or none
                self._database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            logger.info("what was found out about files is not kept (%s)", error)


@contextlib.contextmanager
def remembered(root: str, version: str) -> Iterator[Remembered]:
    """What is known of the files below `root`, to read and to add to.

    What was kept of another `version` of whatever finds it out is forgotten. An empty `root` is kept nowhere.
    """
    path = _path(root, version) if root else None
    known = Remembered(_opened(path), root)
    try:
        yield known
    finally:
        known.close()


def _path(root: str, version: str) -> Path | None:
    folder = own_cache()
    if folder is None:
        return None
    name = f"checked-{_digest(os.path.realpath(Path(root).expanduser())).hex()}"
    path = folder / f"{name}-{_digest(version).hex()[:8]}.sqlite"
    for old in folder.glob(f"{name}-*.sqlite"):
        if old != path:
            with contextlib.suppress(OSError):
                old.unlink()
    return path


def _opened(path: Path | None) -> sqlite3.Connection:
    if path:
        for _ in range(2):  # one that is damaged is begun again
            with contextlib.suppress(sqlite3.Error):
                return _connected(os.fspath(path))
            with contextlib.suppress(OSError):
                path.unlink()
    return _connected(":memory:")


def _connected(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # it may be lost with the machine, which costs time alone
        database.execute(_MAKE)
        database.execute("SELECT count(*) FROM (SELECT * FROM found LIMIT 1)").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


def _digest(text: str) -> bytes:
    return hashlib.blake2b(os.fsencode(text), digest_size=16).digest()
