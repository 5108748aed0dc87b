"""A part of a pack while it is made: its shards and, once they are whole, the record that says so."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from anysize.data.pack.encode import Encoded
from anysize.data.pack.format import row_type, shard_name
from anysize.files import replacing
from anysize.forms import each, fields, number, series, table, text

_RECORD = fields(
    end=number(0, 2**62, whole=True), entries=text(64), bad=table(text(10**4), 10**9, text(10**4)),
    files=table(series(number(0, 2**62, whole=True), text(64)), 1000), names=each(text(10**4), 10**9),
)  # fmt: skip


class Part(NamedTuple):
    """What is known of a whole part.

    `kept` (N,) int64 are the images in it by their numbers in the source, `rows` (N,) those of the index, but that
    `name` is not set; `names` are theirs. `bad` are the images that were left out, with the reason. The next part
    begins with image `end`; `entries` is a digest of what the source held up to there. `files` are bytes and SHA-256
    of the shards.
    """

    kept: np.ndarray
    rows: np.ndarray
    names: list[str]
    bad: dict[str, str]
    end: int
    entries: str
    files: dict[str, tuple[int, str]]

    def save(self, path: Path) -> None:
        """Write the record of the part, beside and renamed."""
        held = {"names": self.names, "bad": self.bad, "end": self.end, "entries": self.entries, "files": self.files}
        told = np.frombuffer(json.dumps(held).encode(), np.uint8)
        with replacing(path) as file:
            np.savez(file, kept=self.kept, rows=self.rows, told=told)

    @classmethod
    def load(cls, path: Path, columns: int) -> Self | None:
        """The part of a record, if it is whole and its shards lie beside it with as many bytes as they had."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                kept, rows, told = arrays["kept"], arrays["rows"], arrays["told"]
            held = _RECORD(json.loads(told.tobytes()), "")
            files = {name: (size, sha) for name, (size, sha) in held.pop("files").items()}
            sound = rows.dtype == row_type(columns) and kept.shape == rows.shape == (len(held["names"]),)
            if not sound or any(os.stat(path.parent / name).st_size != size for name, (size, _) in files.items()):
                return None
        except Exception:  # there is none, or it was cut short: numpy and zipfile have many errors for that
            return None
        return cls(kept=kept, rows=rows, files=files, **held)


class Shards:
    """The shards of a part while they are written, one a column."""

    def __init__(self, files: list[BinaryIO], columns: tuple[int, ...], number: int) -> None:
        self._files, self._columns, self.number = files, columns, number
        self._hashes = [hashlib.sha256() for _ in files]
        self._sizes = [0] * len(files)
        self._rows: list[tuple[object, ...]] = []

    @property
    def largest(self) -> int:
        """The bytes of the largest shard."""
        return max(self._sizes)

    def add(self, image: Encoded) -> None:
        """Write an image behind the others."""
        lengths = [len(data) for data in image.columns]
        crcs = [zlib.crc32(data) for data in image.columns]
        self._rows.append((image.height, image.width, 0, self.number, self._sizes.copy(), lengths, crcs))
        for i, data in enumerate(image.columns):
            self._files[i].write(data)
            self._hashes[i].update(data)
            self._sizes[i] += len(data)

    def rows(self) -> np.ndarray:
        """The rows of the index of the images that were written."""
        return np.array(self._rows, row_type(len(self._columns)))

    def files(self) -> dict[str, tuple[int, str]]:
        """Bytes and SHA-256 of each shard, by name."""
        names = [shard_name(column, self.number) for column in self._columns]
        return {name: (size, sha.hexdigest()) for name, size, sha in zip(names, self._sizes, self._hashes, strict=True)}


@contextlib.contextmanager
def new_shards(folder: Path, columns: tuple[int, ...], number: int) -> Iterator[Shards]:
    """Shards that are synced and take their names at the end of the block, or are gone at an error."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(replacing(folder / shard_name(column, number))) for column in columns]
        yield Shards(files, columns, number)
