"""A pack in object storage: its manifest and index are kept on the local disk, its shards are read by ranges."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.pack import format as pack
from anysize.data.pack.index import index_files, what_is_wrong
from anysize.data.pack.kept import Kept
from anysize.data.pack.shards import Shards
from anysize.data.pack.storage import Storage, Wanted, cache_folder
from anysize.data.pictures import BadImage
from anysize.files import one_at_a_time, replacing
from anysize.registry import UserError


def fetch_manifest(storage: Storage) -> Path:
    """Fetch the manifest of a pack; the local folder that it, and what belongs to it, is kept in.

    Raises:
        UserError: there is none, the server fails, or the folder cannot be written.
    """
    try:
        manifest = storage.whole(pack.MANIFEST, pack.MOST_BYTES)
        if manifest is None:
            raise UserError(
                f"{storage.url} holds no {pack.MANIFEST}; expected the address of a folder that `anysize data pack` "
                "wrote, copied there with all in it"
            )
        folder = cache_folder(storage.url, manifest)
        with replacing(folder / pack.MANIFEST) as file:
            file.write(manifest)
    except OSError as error:
        raise _cannot_keep(error) from error
    return folder


def fetch_index(storage: Storage, folder: Path, manifest: pack.Manifest, split: str) -> None:
    """Fetch the index of a split, the names and the targets into `folder`, unless they are there and sound.

    Raises:
        UserError: one is not there, or not what the manifest says; the server fails; the folder cannot be written.
    """
    files = manifest.splits[split].files
    try:
        (folder / split).mkdir(exist_ok=True)
        with one_at_a_time(folder / split / ".lock"):  # of the processes of a run one fetches it
            for name in index_files(manifest):
                path = folder / split / name
                if what_is_wrong(path, files.get(name)):
                    storage.download(f"{split}/{name}", files.get(name, (0, ""))[0], path)
                    if why := what_is_wrong(path, files.get(name)):
                        path.unlink()
                        raise UserError(f"{storage.url}/{split}/{name} {why}: copy the pack there again, or pack again")
    except OSError as error:
        raise _cannot_keep(error) from error


class RemoteShards(Shards):
    """The shards of a split in object storage. Threads may share it.

    What `ahead` has fetched for a thread is held until it calls that again. What was `kept` on the local disk is read
    from there.
    """

    def __init__(self, storage: Storage, split: str, columns: tuple[int, ...], kept: Kept | None = None) -> None:
        super().__init__(Path(split), columns)
        self.storage, self.split, self.kept = storage, split, kept
        self._held = threading.local()

    def ahead(self, wanted: Sequence[tuple[Any, int]]) -> None:
        """Fetch the bytes of columns of rows of the index, all at once, for this thread to `read`."""
        asked = sorted({self._range(row, column) for row, column in wanted})
        self._held.data = dict(zip(asked, self._ranges(asked), strict=True))

    def read(self, row: Any, column: int, *, check: bool = True) -> np.ndarray:
        """As of `Shards`, but that bytes are always compared with their checksum.

        Raises `BadImage`, also where they are not what they were at the second time of asking.
        """
        asked = self._range(row, column)
        held = getattr(self._held, "data", {}).get(asked)
        try:
            return self._checked(row, column, asked, self._ranges([asked])[0] if held is None else held)
        except BadImage:
            if self.kept:
                self.kept.forget(asked)
            return self._checked(row, column, asked, self.storage.ranges([asked])[0])

    def where(self, name: str) -> str:
        return f"{self.storage.url}/{self.split}/{name}"

    def wrong_sizes(self, expected: dict[str, tuple[int, str] | None]) -> dict[str, str]:
        sizes = self.storage.sizes([f"{self.split}/{name}" for name in expected])
        return {
            name: why
            for (name, held), size in zip(expected.items(), sizes, strict=True)
            if (why := pack.wrong_size(size, held))
        }

    def _ranges(self, asked: Sequence[Wanted]) -> list[Any]:
        return (self.kept or self.storage).ranges(asked)

    def _range(self, row: Any, column: int) -> Wanted:
        name = pack.shard_name(self.columns[column], int(row["part"]))
        return Wanted(f"{self.split}/{name}", int(row["offset"][column]), int(row["length"][column]))

    def _checked(self, row: Any, column: int, asked: Wanted, got: Any) -> np.ndarray:
        if len(got) != asked.length:
            name, end = asked.name.rpartition("/")[2], asked.start + asked.length
            raise BadImage(f"its pack was cut short: {name} has no {asked.length:,} bytes before {end:,}")
        data = np.array(np.frombuffer(got, np.uint8))  # which may be written to
        self.check(data, row, column)
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.storage, self.split, self.columns, self.kept)


def _cannot_keep(error: OSError) -> UserError:
    return UserError(
        f"the index of the pack cannot be kept on this machine ({error.strerror or error}: "
        f"{os.fspath(error.filename or '')}); make room, or set ANYSIZE_CACHE to a folder that can be written"
    )
