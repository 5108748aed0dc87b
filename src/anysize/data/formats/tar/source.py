"""A source of images that lie in a tar archive: each is read from its place, in any order, by any process."""

import copy
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from anysize.data.formats.tar.index import TarIndex
from anysize.data.pictures import BadImage, check_bytes
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.files import open_regular
from anysize.registry import UserError


class TarFile:
    """An archive that is open in each process that reads from it.

    `size` and `modified` are those of the index: an archive that has changed since then is refused.
    """

    def __init__(self, path: str, size: int, modified: int) -> None:
        self.path, self.size, self.modified = path, size, modified
        self._descriptors: dict[str, int] = {}

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from a place, without moving any other reader's. Raises `BadImage` where there are fewer."""
        try:
            descriptor = self._descriptor()
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
                raise UserError(f"{self.path} was changed while it was in use; start again")
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise BadImage(f"it cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise BadImage(f"the archive ends {size - len(data):,} bytes before it does")
        return data

    def _descriptor(self) -> int:
        if "own" not in self._descriptors:
            with open_regular(self.path) as file:
                opened = os.dup(file.fileno())
            if self._descriptors.setdefault("own", opened) != opened:  # another thread was sooner
                os.close(opened)
        return self._descriptors["own"]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_descriptors": {}}  # another process opens it for itself

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for descriptor in self._descriptors.values():
            close(descriptor)


class TarSource(FileSource):
    """Images in an archive; in messages an image is called `train.tar: cat/1.jpg`.

    Args:
        index: of the archive.
        rows: the images' rows in it, int64 (N,).
        targets, classes, name: as for `FileSource`.
        archive: its name in messages, as the user gave it.
        settings: of the data: what happens to a damaged image, and how one is decoded.
    """

    own_files = False

    def __init__(
        self,
        index: TarIndex,
        rows: np.ndarray,
        targets: np.ndarray,
        classes: tuple[str, ...],
        archive: str,
        name: str,
        settings: DataSettings,
    ) -> None:
        policy, scaled = settings.on_bad_image, settings.decode == "scaled"
        how = (policy, None, settings.exif, settings.max_pixels, scaled)
        super().__init__(index.names[rows], targets, classes, name, *how)
        self._offsets, self._sizes = index.offsets[rows], index.sizes[rows]
        self._file, self._archive = TarFile(index.path, index.size, index.modified), archive

    def describe(self, index: int) -> str:
        return f"{self._archive}: {super().describe(index)}"

    def stamp(self, index: int) -> str:
        return f"{self._sizes[index]} {self._file.modified}"

    def sizes(self) -> list[int]:
        return [*map(int, self._sizes)]

    def data(self, index: int) -> bytes:
        size = int(self._sizes[index])
        check_bytes(size, self.max_pixels)
        return self._file.read(int(self._offsets[index]), size)

    def subset(self, indices: np.ndarray) -> "TarSource":
        subset = copy.copy(self)
        subset._paths, subset._offsets = self._paths[indices], self._offsets[indices]
        subset._sizes, subset.targets = self._sizes[indices], self.targets[indices]
        return subset
