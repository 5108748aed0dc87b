"""Reading the shards of a split at any place.

They are read by `pread`, not through a memory map: of a file that was cut short a map ends the program by a signal
(SIGBUS), `pread` gives fewer bytes, and the image is named. A process keeps a few files open, which others that it
forks may use, too: `pread` moves no position that they share.
"""

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.pack.format import shard_name
from anysize.data.pack.index import what_is_wrong
from anysize.data.pictures import BadImage
from anysize.files import open_regular
from anysize.machine import is_short

_OPEN = 100  # files that a process keeps open: often 1,024 are all that it may have


class Shards:
    """The shards of a split in a folder, opened when they are read. Threads may share it."""

    def __init__(self, folder: Path, columns: tuple[int, ...]) -> None:
        self.folder, self.columns = folder, columns
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: Any, column: int, *, check: bool = True) -> np.ndarray:
        """The bytes of a column of a row of the index: uint8 (length,), which may be written to.

        Raises `BadImage` where they are not there, or with `check` not what they were when they were packed.
        """
        name = shard_name(self.columns[column], int(row["part"]))
        offset, length = int(row["offset"][column]), int(row["length"][column])
        try:
            file = self._open(name)
            if length > file.size - offset:  # before memory is taken for what cannot be there
                raise BadImage(
                    f"its pack was cut short: {name} has {file.size:,} bytes, and it ends at {offset + length:,}"
                )
            data = np.empty(length, np.uint8)
            done = 0
            while done < length:
                got = os.preadv(file.descriptor, [data[done:].data], offset + done)
                if not got:
                    raise BadImage(f"its pack was cut short: {name} ends at byte {offset + done:,}")
                done += got
        except OSError as error:
            if is_short(error):
                raise
            raise BadImage(f"{name} of its pack cannot be read ({error.strerror})") from error
        if check:
            self.check(data, row, column)
        return data

    def ahead(self, wanted: Sequence[tuple[Any, int]]) -> None:
        """Hear which columns of which rows this thread reads next; of files nothing is done ahead."""

    def check(self, data: np.ndarray, row: Any, column: int) -> None:
        """Raise `BadImage` where the bytes of a column of a row are not those that were packed."""
        if zlib.crc32(data.data) != row["crc"][column]:
            name = shard_name(self.columns[column], int(row["part"]))
            raise BadImage(
                f"its bytes in {name} of its pack, from {int(row['offset'][column]):,} on, are not those that were "
                "packed"
            )

    def where(self, name: str) -> str:
        """The path of a shard."""
        return os.fspath(self.folder / name)

    def wrong_sizes(self, expected: dict[str, tuple[int, str] | None]) -> dict[str, str]:
        """Which shards, of bytes and SHA-256 as in the manifest, are not there or not as long, and how."""

        def look(name: str) -> str:
            return what_is_wrong(self.folder / name, expected[name], content=False)

        with ThreadPoolExecutor(16) as pool:  # a network's file system takes milliseconds for each
            return {name: why for name, why in zip(expected, pool.map(look, expected), strict=True) if why}

    def _open(self, name: str) -> "_File":
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _File(self.folder / name)
                if len(self._files) > _OPEN:
                    self._files.popitem(last=False)  # it closes itself when no thread reads it any more
            self._files.move_to_end(name)
            return file

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.columns)


class _File:
    """An open file that is closed with the last reference to it."""

    descriptor = -1

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            self.descriptor = os.dup(file.fileno())
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
