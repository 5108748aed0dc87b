"""The index of a COCO file, kept beside it as `NAME.anysize.npz`, so that the file is read through only once.

The cache may come from others, with the data set or from somebody who may write there: it is taken only where it
belongs to this user or to the owner of the annotation file, and its content has to be what an index can hold.
"""

import logging
import os
import zipfile
from typing import Any, BinaryIO

import numpy as np

from anysize.data.formats.coco.index import CocoIndex, file_stamp, index_coco
from anysize.data.formats.names import LONGEST_CLASS, is_file_name
from anysize.files import open_regular, replacing

logger = logging.getLogger(__name__)

SUFFIX = ".anysize.npz"
"""What the name of the cache has behind that of the file."""
VERSION = 2
"""Of the arrays in it."""

_OF_IMAGES = ("image_ids", "file_names", "heights", "widths")
_OF_CATEGORIES = ("category_ids", "category_names", "category_parents")
_OF_ANNOTATIONS = ("image", "category", "area", "sized", "crowd", "segmented", "offset", "length")
_KINDS = {"file_names": "S", "category_names": "U", "category_parents": "U", "area": "f"}  # of the arrays' values
_KINDS |= dict.fromkeys(("sized", "crowd", "segmented"), "b")
_TEXTS = ("category_names", "category_parents")


def read_coco_index(path: str | os.PathLike[str]) -> CocoIndex:
    """Read the index of an annotation file, from the cache beside it if the cache was made of this very file.

    The cache is made again when the file's size or time of modification differs, or when it is damaged, or somebody
    else's; a folder that is another user's, or may not be written, gets none.
    """
    path = os.path.abspath(path)
    index = _read(path)
    if index is None:
        index = index_coco(path)
        _write(index)
    return index


def _read(path: str) -> CocoIndex | None:
    """The cached index if it is of this version and of the file as it is."""
    stamp = file_stamp(path)
    try:
        with open_regular(path + SUFFIX) as file:
            if not _trusted(file, path) or not _plain(file):
                return None
            with np.load(file, allow_pickle=False) as stored:
                if tuple(stored["key"].tolist()) != (VERSION, *stamp):
                    return None
                arrays = {name: stored[name] for name in (*_OF_IMAGES, *_OF_CATEGORIES, *_OF_ANNOTATIONS)}
        _check(arrays, stamp[0])
    except Exception:  # there is none, or it is damaged: zipfile and numpy have many errors for that
        return None
    texts = {name: tuple(arrays[name].tolist()) for name in _TEXTS}
    return CocoIndex(path, *stamp, **{**arrays, **texts})


def _trusted(file: BinaryIO, path: str) -> bool:
    """Whether the cache is of this user, of the administrator, or of whom the annotation file is of."""
    if not hasattr(os, "geteuid"):
        return True
    return os.fstat(file.fileno()).st_uid in (os.geteuid(), 0, os.stat(path).st_uid)


def _plain(file: BinaryIO) -> bool:
    """Whether nothing in the cache is compressed, so that it takes no more memory than the file has bytes."""
    with zipfile.ZipFile(file) as archive:
        plain = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    file.seek(0)
    return plain


def _check(arrays: dict[str, np.ndarray], size: int) -> None:
    """Raise a `ValueError` for arrays that the index of a file of `size` bytes cannot have."""
    sides = {}
    for names in (_OF_IMAGES, _OF_CATEGORIES, _OF_ANNOTATIONS):
        sides[names] = len(arrays[names[0]])
        for name in names:
            if arrays[name].shape != (sides[names],) or arrays[name].dtype.kind != _KINDS.get(name, "i"):
                raise ValueError(name)
    offset, length = arrays["offset"], arrays["length"]
    within = (
        *((arrays["image"], sides[_OF_IMAGES] - 1), (arrays["category"], sides[_OF_CATEGORIES] - 1)),
        *((offset, size), (length, size), (offset + length, size)),
        *((arrays["heights"], 2**31 - 1), (arrays["widths"], 2**31 - 1)),
    )
    for values, most in within:
        if ((values < 0) | (values > most)).any():
            raise ValueError("a value out of range")
    if not np.isfinite(arrays["area"]).all() or not all(is_file_name(each.decode()) for each in arrays["file_names"]):
        raise ValueError("an area or a name")
    if any(arrays[name].dtype.itemsize > 4 * LONGEST_CLASS for name in _TEXTS):
        raise ValueError("a name of a category")
    for name in ("image_ids", "file_names", "category_ids"):
        if not len(arrays[name]) or len(np.unique(arrays[name])) < len(arrays[name]):
            raise ValueError(name)


def _write(index: CocoIndex) -> None:
    if hasattr(os, "geteuid") and os.geteuid() not in (0, os.stat(os.path.dirname(index.path)).st_uid):
        return
    names = (*_OF_IMAGES, *_OF_CATEGORIES, *_OF_ANNOTATIONS)
    arrays: dict[str, Any] = {name: np.asarray(getattr(index, name)) for name in names}
    key = np.array([VERSION, index.size, index.modified])
    try:
        with replacing(index.path + SUFFIX) as file:
            np.savez(file, key=key, **arrays)
    except OSError as error:  # the folder may not be written, or the disk is full: the file is read again next time
        logger.info("no index was kept beside %s (%s)", index.path, error.strerror)
