"""Where the images of a pack come from: the names that it keeps, and a digest that tells whether they are the same."""

import contextlib
import hashlib
import os

import numpy as np

from anysize.data.source import ArraySource, FileSource, Source
from anysize.files import is_inside


def name_of(source: Source, index: int, root: str) -> str:
    """The name that the pack keeps of an image: its path below root; a number where it has none, or lies elsewhere."""
    if not isinstance(source, FileSource):
        return f"{index:07d}.png"
    inner = _below(source.describe(index), root).replace(".tar: ", ".tar/")  # of an image in an archive
    return inner if is_inside(inner) else f"{index:07d}-{os.path.basename(inner)}"


def _below(path: str, root: str) -> str:
    return path.removeprefix(os.path.join(root, "")) if root else path


def digest_of_source(source: Source, start: int, end: int, root: str) -> str:
    """A digest of what a source holds from `start` to `end`: names and sizes of files, or pixels; and targets."""
    digest = hashlib.blake2b(digest_size=16)
    rows = np.arange(start, end)
    targets = source.targets
    paths = [source.describe(i) for i in range(start, end)] if isinstance(source, FileSource) else []
    if isinstance(source, FileSource):  # those in an archive have no other size
        digest.update(repr(source.subset(rows).sizes()).encode())
    elif isinstance(source, ArraySource):
        digest.update(source.images[start:end].numpy().tobytes())
    if isinstance(targets, np.ndarray):
        digest.update(targets[rows].tobytes())
    else:
        paths += targets[rows].files()
    for path in paths:
        with contextlib.suppress(OSError):  # it is in an archive, or was left out as it is not there
            digest.update(b"%d " % os.stat(path).st_size)
        digest.update(os.fsencode(_below(path, root)) + b"\0")
    return digest.hexdigest()
