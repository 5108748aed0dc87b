"""Height and width of every image of a source, from headers alone, kept in the user's cache where there are many.

Memory and packs tell them at once. Files are opened one by one, by threads; of a million that takes minutes, so that
what was found is kept (`ANYSIZE_CACHE`) for as long as all these files have the same size and time of modification.
"""

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from anysize.data.pictures import BadImage
from anysize.data.preload import decode_all
from anysize.data.source import FileSource, Source
from anysize.files import one_at_a_time, open_regular, own_cache, replacing

_MANY = 1000  # headers of fewer files are read as fast as the cache is


def image_shapes(source: Source) -> np.ndarray:
    """Height and width of each image in full, int64 (N, 2); of one that cannot be read 1 and 1.

    A damaged image is reported where it is loaded, and not here.

    >>> import torch
    >>> from anysize.data.source import ArraySource
    >>> images = torch.zeros(2, 20, 30, 3, dtype=torch.uint8)
    >>> image_shapes(ArraySource(images, np.zeros(2, np.int64), ("a",), "grey")).tolist()
    [[20, 30], [20, 30]]
    """
    known = source.shapes()
    if known is not None:
        return known
    cache, stamp = _place(source) if isinstance(source, FileSource) and len(source) >= _MANY else (None, b"")
    if cache is None:
        return _read(source)
    with one_at_a_time(cache.with_suffix(".lock")):  # the processes of a training ask at the same time
        found = _kept(cache, stamp, len(source))
        if found is None:
            found = _read(source)
            with contextlib.suppress(OSError), replacing(cache) as file:
                np.savez(file, stamp=np.frombuffer(stamp, np.uint8), shapes=found)
    return found


def _read(source: Source) -> np.ndarray:
    shapes = np.ones((len(source), 2), np.int64)
    for index, shape in decode_all(len(source), source.shape):
        if not isinstance(shape, BadImage):
            shapes[index] = shape
    return shapes


def _place(source: FileSource) -> tuple[Path | None, bytes]:
    """Where the shapes of these files are kept, and a digest that is another one when a file has changed."""
    names, stamps = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    names.update(b"exif" if source.exif else b"stored")
    for index in range(len(source)):
        stamp = source.stamp(index)
        if not stamp:  # nothing tells when it changes
            return None, b""
        names.update(os.fsencode(source.describe(index)) + b"\0")
        stamps.update(stamp.encode() + b"\0")
    folder = own_cache()
    return folder / f"shapes-{names.hexdigest()}.npz" if folder else None, stamps.digest()


def _kept(path: Path, stamp: bytes, images: int) -> np.ndarray | None:
    """What is kept of these very files; None: nothing, or it is damaged."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as kept:
            shapes = kept["shapes"]
            sound = shapes.shape == (images, 2) and shapes.dtype == np.int64 and bool((shapes > 0).all())
            return np.asarray(shapes) if sound and kept["stamp"].tobytes() == stamp else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
