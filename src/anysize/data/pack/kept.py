"""What is read of a pack in object storage, kept on the local disk up to a limit: blocks of its shards.

All processes of a machine share the blocks. A range of bytes that lies in no block is fetched alone the first time that
a process asks for something in that place; the second time the whole block is, since more is likely to be asked of
it. So reading a chunk of a pack costs few requests, and a few images here and there cost no more than without blocks.
"""

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anysize.data.left_out import warn
from anysize.data.pack.storage import Storage, Wanted
from anysize.files import name_beside

BLOCK = 4 * 2**20
"""Bytes of a block: some 40 photographs."""
_SHARE = 64  # part of the limit that a process adds before it looks at how much there is
_FULL = 7 / 8  # of the limit: what is left when the oldest blocks are removed, room for what other processes add
_FRESH = 60  # seconds for which a block counts as just used


class _Piece(NamedTuple):
    """A part of the `number`-th block of a file."""

    name: str
    number: int
    start: int
    length: int

    @property
    def block(self) -> tuple[str, int]:
        return self.name, self.number


class Kept:
    """Blocks of the files in a folder in object storage. Threads may share it, and other processes a copy.

    Args:
        storage: where the files are.
        folder: where blocks are kept; it is made.
        sizes: the bytes of each file, by its name.
        limit: bytes that the blocks may take; beyond it those that were not used for longest are removed.
    """

    def __init__(self, storage: Storage, folder: Path, sizes: Mapping[str, int], limit: int) -> None:
        self.storage, self._folder, self._sizes, self._limit = storage, folder, sizes, limit
        self._asked: set[tuple[str, int]] = set()
        self._new = limit  # bytes since the last look: the first block brings one
        self._told = False

    def ranges(self, wanted: Sequence[Wanted]) -> list[Any]:
        """As of `Storage`: each of some ranges of bytes."""
        pieces = [list(self._pieces(each)) for each in wanted]
        found: dict[_Piece, Any] = {}
        missing: list[_Piece] = []
        for piece in itertools.chain(*pieces):
            data = self._read(piece)
            if data is None:
                missing.append(piece)
            else:
                found[piece] = data
        often = Counter(piece.block for piece in missing)
        whole = sorted(block for block, times in often.items() if times > 1 or block in self._asked)
        alone = [piece for piece in missing if often[piece.block] == 1 and piece.block not in self._asked]
        self._asked.update(often)
        fetched = self.storage.ranges([*map(self._range, whole), *map(_range_of, alone)])
        blocks = dict(zip(whole, map(bytes, fetched[: len(whole)]), strict=True))
        for block, data in blocks.items():
            self._keep(block, data)
        found |= zip(alone, fetched[len(whole) :], strict=True)
        for piece in missing:
            if piece.block in blocks:
                found[piece] = blocks[piece.block][piece.start : piece.start + piece.length]
        return [b"".join(bytes(found[piece]) for piece in some) for some in pieces]

    def forget(self, wanted: Wanted) -> None:
        """Remove the blocks that some bytes lie in."""
        for piece in self._pieces(wanted):
            with contextlib.suppress(OSError):
                self._path(piece.block).unlink()

    def _pieces(self, wanted: Wanted) -> "list[_Piece]":
        """The parts of blocks that a range is made of."""
        found, at, end = [], wanted.start, wanted.start + wanted.length
        while at < end:
            number, start = divmod(at, BLOCK)
            length = min(BLOCK - start, end - at)
            found.append(_Piece(wanted.name, number, start, length))
            at += length
        return found

    def _range(self, block: tuple[str, int]) -> Wanted:
        name, number = block
        return Wanted(name, number * BLOCK, max(0, min(BLOCK, self._sizes.get(name, 0) - number * BLOCK)))

    def _path(self, block: tuple[str, int]) -> Path:
        return self._folder / f"{block[0].replace('/', '-')}-{block[1]}"

    def _read(self, piece: _Piece) -> bytes | None:
        """The bytes of a piece whose block is kept; None: it is not, or not whole."""
        try:
            with open(self._path(piece.block), "rb", buffering=0) as file:
                data = os.pread(file.fileno(), piece.length, piece.start)
                if time.time() - os.fstat(file.fileno()).st_mtime > _FRESH:
                    os.utime(file.fileno())
        except OSError:
            return None
        return data if len(data) == piece.length else None

    def _keep(self, block: tuple[str, int], data: bytes) -> None:
        if len(data) != self._range(block).length or len(data) > self._limit:
            return
        path = self._path(block)
        beside = name_beside(path)
        try:
            self._folder.mkdir(exist_ok=True)
            beside.write_bytes(data)  # not synced: what is lost with the machine's power is fetched again
            os.replace(beside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            if not self._told:
                warn(f"what is read of {self.storage.url} cannot be kept in {self._folder} ({error.strerror})")
                self._told = True
            return
        self._new += len(data)
        if self._new * _SHARE >= self._limit:
            self._new = 0
            self._make_room()

    def _make_room(self) -> None:
        """Remove the blocks that were not used for longest where there are more than the limit lets be."""
        held = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process has just removed it
                    status = entry.stat(follow_symlinks=False)
                    held.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in held)
        if total <= self._limit:
            return
        for _, size, path in sorted(held):
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= _FULL * self._limit:
                return

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.storage, self._folder, self._sizes, self._limit)


def _range_of(piece: _Piece) -> Wanted:
    return Wanted(piece.name, piece.number * BLOCK + piece.start, piece.length)
