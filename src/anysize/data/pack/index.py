"""The index of a split of a pack as memory maps, which all processes of a machine share.

The files are compared with their checksums before they are mapped, which takes a tenth of a second for a million
images: what they say is then what was packed. Only somebody who cuts one short while it is in use ends the program.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.pack import format as pack
from anysize.files import open_regular
from anysize.registry import UserError


class Index:
    """The rows of a split (`format.row_type`), the names of its images, and their targets; None where masks are those.

    A copy in another process maps the files again.

    Raises:
        UserError: one of them is missing or damaged.
    """

    def __init__(self, folder: Path, manifest: pack.Manifest, split: str) -> None:
        of_split = manifest.splits[split]
        self._folder = folder / split
        self._has_targets = manifest.targets != "masks"
        for name in index_files(manifest):
            if why := what_is_wrong(self._folder / name, of_split.files.get(name)):
                raise UserError(f"{self._folder / name} {why}: copy the pack again, or pack again")
        self._open()
        kind = pack.row_type(len(manifest.columns))
        sound = self.rows.dtype == kind and self.rows.shape == (of_split.images,)
        if not sound or not _are_targets(self.targets, manifest, of_split.images):
            raise UserError(f"{self._folder} does not hold what {pack.MANIFEST} says of it: pack again")

    def name(self, row: int) -> str:
        """The name of the file of an image."""
        start = int(self.rows[row - 1]["name"]) if row else 0
        return os.fsdecode(self._names[start : int(self.rows[row]["name"])].tobytes())

    def _open(self) -> None:
        try:
            self.rows = np.load(self._folder / pack.INDEX, mmap_mode="r", allow_pickle=False)
            self.targets = None
            if self._has_targets:
                self.targets = np.load(self._folder / pack.TARGETS, mmap_mode="r", allow_pickle=False)
            self._names = np.memmap(self._folder / pack.NAMES, np.uint8, "r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the index in {self._folder} cannot be read ({error}): pack again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_has_targets": self._has_targets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def index_files(manifest: pack.Manifest) -> list[str]:
    """The files of a split beside its shards."""
    return [pack.INDEX, pack.NAMES, *([pack.TARGETS] if manifest.targets != "masks" else [])]


def _are_targets(targets: np.ndarray | None, manifest: pack.Manifest, images: int) -> bool:
    """Whether they are what the manifest says: no class is one that there is not."""
    if targets is None:
        return True
    count = len(manifest.classes)
    if manifest.targets == "class":
        within = targets.shape == (images,) and targets.dtype == np.int64
        return within and bool(((targets >= 0) & (targets < count)).all())
    return targets.ndim == 3 and targets.shape[::2] == (images, count) and targets.dtype == np.uint8


def what_is_wrong(path: Path, expected: tuple[int, str] | None, *, content: bool = True) -> str:
    """What a file of a pack is not as the manifest has it, in words; empty: nothing.

    Args:
        expected: its bytes and SHA-256.
        content: look at its content, too, not only at its size.
    """
    try:
        with open_regular(path) as file:
            held = os.fstat(file.fileno()).st_size
        if why := pack.wrong_size(held, expected):
            return why
        changed = content and expected and pack.sha256(path) != expected[1]
        return "was changed: it has another checksum than pack.json says" if changed else ""
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
