"""Give the images of a pack back as files, in folders that the data sets of files take.

With a class an image as SPLIT/CLASS/IMAGE (data set `folder`), with labels beside SPLIT.csv (`folder-labels`), with
masks as SPLIT/images and SPLIT/masks (`folder-masks`). Files have the bytes that were packed, if the pack has the
originals; otherwise they are its largest level.
"""

import csv
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anysize.data.formats.names import is_file_name
from anysize.data.new_folder import new_folder
from anysize.data.pack.format import ORIGINAL, Manifest, read_manifest
from anysize.data.pack.remote import fetch_manifest
from anysize.data.pack.source import PackMasks, PackSource
from anysize.data.pack.storage import Storage, is_address
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.files import is_inside
from anysize.registry import UserError, shown

LAYOUTS = {"class": "folder", "labels": "folder-labels", "masks": "folder-masks"}
"""The data set that takes what was unpacked, by the kind of targets."""
_AHEAD = 64  # images that are asked for at once in object storage


def unpack(
    pack: str | os.PathLike[str], folder: Path, *, on_image: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Manifest, dict[str, str]]:
    """Write the images of all splits into a new folder; the manifest, and the images that could not be and why.

    `pack` is a folder or an address. The new folder takes its name once it is whole. `on_image` is called with the
    number of images that were written, and of all.

    Raises:
        UserError: there is no pack; the folder is there already, or cannot be written; a name is none of a file; a
            server fails.
    """
    settings = DataSettings(name="pack", root=os.fspath(pack), on_bad_image="skip")
    storage = Storage(settings.root, settings.stream_limit) if is_address(settings.root) else None
    kept = fetch_manifest(storage) if storage else Path(pack).expanduser()
    manifest = read_manifest(kept)
    sources = {split: PackSource(kept, manifest, split, settings, storage) for split in manifest.splits}
    total, done = sum(map(len, sources.values())), 0
    bad: dict[str, str] = {}
    with new_folder(folder) as beside:
        for split, source in sources.items():
            writer = _Writer(beside, split, source)
            for index in range(len(source)):
                if index % _AHEAD == 0:
                    source.ahead(range(index, min(index + _AHEAD, len(source))))
                try:
                    writer.write(index)
                except BadImage as error:
                    bad[source.describe(index)] = str(error)
                on_image(done := done + 1, total)
            writer.finish()
    return manifest, bad


class _Writer:
    """Writes the images of a split."""

    def __init__(self, folder: Path, split: str, source: PackSource) -> None:
        self._folder, self._split, self._source = folder, split, source
        self._rows: list[dict[str, Any]] = []
        for name in source.classes:
            if not is_file_name(name) or not is_inside(name):
                raise UserError(f"the pack has the class {shown(name, 60)}, which is no name of a folder")
        # A class may be called T-shirt/top.
        self._classes = [name.replace("/", "-").replace(os.sep, "-") for name in source.classes]

    def write(self, index: int) -> None:
        """Write an image and what it has for a target. Raises `BadImage`."""
        source, split, targets = self._source, self._folder / self._split, self._source.targets
        data = source.data(index)
        if isinstance(targets, PackMasks):
            mask = targets.file(index)
            name = self._write(split / "images", self._tail(index, "images"), data, index)
            self._write(split / "masks", str(PurePosixPath(name).with_suffix(".png")), mask, index)
            return
        assert isinstance(targets, np.ndarray)
        if targets.ndim == 1:
            target = int(targets[index])
            self._write(split / self._classes[target], self._tail(index, source.classes[target]), data, index)
        else:
            name = self._write(split, self._tail(index, self._split), data, index)
            has = targets[index].any(0).astype(int).tolist()
            self._rows.append({"image": f"{self._split}/{name}", **dict(zip(source.classes, has, strict=True))})

    def finish(self) -> None:
        """Write what tells the targets of all images."""
        if self._rows:
            with open(self._folder / f"{self._split}.csv", "x", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self._rows[0]))
                writer.writeheader()
                writer.writerows(self._rows)
        if isinstance(self._source.targets, PackMasks) or self._rows:
            (self._folder / "classes.txt").write_text("".join(f"{name}\n" for name in self._source.classes))

    def _tail(self, index: int, above: str) -> str:
        """The part of an image's name below the folder `above`; only its last part where that is not in it."""
        name = self._source.file_name(index)
        if not is_file_name(name) or not is_inside(name):
            raise UserError(f"the pack has an image called {shown(name, 60)}, which is no name of a file in a folder")
        parts = PurePosixPath(name).parts
        return str(PurePosixPath(*parts[parts.index(above) + 1 :])) if above in parts[:-1] else parts[-1]

    def _write(self, folder: Path, name: str, data: bytes, index: int) -> str:
        """Write a file below a folder, with its number before its name where that is taken; the name."""
        if self._source.manifest.levels[0] != ORIGINAL:
            kinds = {b"\xff\xd8": (".jpg", ".jpeg"), b"\x89P": (".png",)}.get(data[:2], ())
            if kinds and not name.lower().endswith(kinds):
                name = str(PurePosixPath(name).with_suffix(kinds[0]))
        path = folder / name
        if path.exists():
            path = path.with_name(f"{index:07d}-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
        return path.relative_to(folder).as_posix()
