"""Files that `data.exclude` leaves out: a text file, in each line a name below `data.root`.

`anysize data check NAME --fix LIST` writes one. Empty lines, and those that begin with `#`, say nothing.
"""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anysize.data.dataset import Split
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource, Source
from anysize.files import read_regular
from anysize.registry import UserError, counted

LISTED = "listed in data.exclude"
"""Why a file is left out, in messages."""
_MOST_TEXT = 2**30  # bytes of a list


class Excluded:
    """The files that a list leaves out, by their paths.

    >>> excluded = Excluded(["cat/1.jpg"], "/data")
    >>> "/data/cat/1.jpg" in excluded, "/data/dog/1.jpg" in excluded
    (True, False)
    """

    def __init__(self, names: Iterable[str], root: str | os.PathLike[str]) -> None:
        self.paths = {os.path.abspath(os.path.join(root, name)): name for name in names}
        self._last = {os.path.basename(path) for path in self.paths}  # of a million files few need a longer look

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, path: str) -> bool:
        return os.path.basename(path) in self._last and os.path.abspath(path) in self.paths


def excluded_by(settings: DataSettings) -> Excluded:
    """The files that `data.exclude` lists; a `UserError` where the list cannot be read."""
    if not settings.exclude:
        return Excluded((), "")
    path = os.path.abspath(Path(settings.exclude).expanduser())
    root = os.fspath(Path(settings.root).expanduser())
    try:
        status = os.stat(path)
        return _read(path, root, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(
            f"data.exclude is {settings.exclude!r}, which cannot be read ({error.strerror}); expected a text file with "
            "the name of a file below data.root in each line, as `anysize data check NAME --fix LIST` writes it"
        ) from error


@functools.lru_cache(maxsize=4)  # each split asks, and each format
def _read(path: str, root: str, _size: int, _modified: int) -> Excluded:
    text = read_regular(path, _MOST_TEXT).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return Excluded((line for line in lines if line.strip() and not line.startswith("#") and "\0" not in line), root)


def leave_out(source: Source, settings: DataSettings, split: Split) -> Source:
    """The source without the files that `data.exclude` lists, or whose masks it lists; `left_out` counts them.

    Raises:
        UserError: the list cannot be read, leaves nothing, or the images are no files.
    """
    if not settings.exclude:
        return source
    excluded = excluded_by(settings)
    if not isinstance(source, FileSource):
        raise UserError(
            f"data.exclude is set, but the images of data set {settings.name!r} are no files with names of their own; "
            "remove it"
        )
    paths, left_out = [source.describe(i) for i in range(len(source))], source.left_out
    masks = source.targets.files() if not isinstance(source.targets, np.ndarray) else []
    masks = masks if len(masks) == len(paths) else paths  # one file may hold all
    kept = [i for i, both in enumerate(zip(paths, masks, strict=True)) if not any(each in excluded for each in both)]
    gone = sorted({*range(len(paths))} - {*kept})
    for path in [*(paths[i] for i in gone), *(path for path in source.bad_files if path in excluded)]:
        left_out.add(LISTED, path)
    found = {os.path.abspath(path) for i in gone for path in (paths[i], masks[i])}
    found |= {os.path.abspath(path) for path in source.bad_files}
    if split == "train":
        for path, name in excluded.paths.items():
            if path not in found and not os.path.lexists(path) and not _in_archive(path):
                left_out.add(f"{LISTED}, but not there", name)
    if not kept:
        raise UserError(
            f"data.exclude, {settings.exclude}, leaves out all {counted(len(paths), 'image')} of {source.name}; take "
            "some out of that list"
        )
    bad_files = {path: reason for path, reason in source.bad_files.items() if path not in excluded}
    if gone:
        source = source.subset(np.array(kept, np.int64))
    source.bad_files = bad_files
    return source


def _in_archive(path: str) -> bool:
    """Whether a name stands for an image in an archive or a pack of another split, which is not looked into for it."""
    archive, colon, _ = path.rpartition(": ")
    return bool(colon) and os.path.exists(archive)
