"""Where the images lie in a tar archive: it is read through once, and the index is kept in the user's cache.

A tar of tars, as the training images of ILSVRC are published, counts as one: the images in CLASS.tar are CLASS/IMAGE.
Names in an archive are names alone: nothing is unpacked, a link leads nowhere, `/etc/passwd` is `etc/passwd`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import tarfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from anysize.data.decode import image_extensions
from anysize.data.formats.listing import left_alone
from anysize.data.formats.names import LONGEST_FILE
from anysize.data.left_out import LeftOut, warn
from anysize.files import is_left_over, one_at_a_time, open_regular, own_cache, replacing
from anysize.registry import UserError, shown

VERSION = 1
"""Of the arrays in the cache."""
ENDING = ".tar"
_BLOCK = 512  # bytes of a header
_DEAD = 3600.0  # seconds after which nobody writes a file any more
_LARGE = 2**30  # bytes of an archive that takes more than a moment
_PACKED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ\0": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}


@dataclasses.dataclass(frozen=True, eq=False)
class TarIndex:
    """The N images of an archive, sorted by name.

    `size` (bytes) and `modified` (nanoseconds) are the archive's when it was read. `names` (N,) are bytes, as
    b"cat/1.jpg"; each file has `sizes` bytes from byte `offsets` of the archive, int64 (N,).
    """

    path: str
    size: int
    modified: int
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    left_out: LeftOut

    def below(self, folder: bytes) -> tuple[int, int]:
        """The first row in a folder of the archive, and the one behind the last; b"" is the archive itself.

        Sorted names that begin alike lie side by side, and `0` comes behind `/`.
        """
        if not folder:
            return 0, len(self.names)
        first, last = np.searchsorted(self.names, np.array([folder + b"/", folder + b"0"]))
        return int(first), int(last)

    def folders(self, folder: bytes) -> tuple[list[str], list[int]]:
        """The names of the folders in a folder that hold images, and the rows of the images beside them."""
        row, end = self.below(folder)
        start = len(folder) + 1 if folder else 0
        names, beside = [], []
        while row < end:
            first, slash, _ = self.names[row][start:].partition(b"/")
            if slash:
                names.append(os.fsdecode(first))
                row = self.below(folder + b"/" * bool(folder) + first)[1]
            else:
                beside.append(row)
                row += 1
        return sorted(names), beside

    def deeper(self, folder: bytes) -> bool:
        """Whether there are folders in a folder."""
        first, last = self.below(folder)
        slashes = np.char.count(self.names[first:last], b"/")
        return bool((slashes > folder.count(b"/") + bool(folder)).any())


def read_tar_index(path: str | os.PathLike[str]) -> TarIndex:
    """The index of an archive, from the cache where it is of this very file.

    Raises:
        UserError: the archive is packed, damaged, cut short, has a sparse file, or is no tar.
    """
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return _index_of(path, _stamp(status))


class _Stamp(NamedTuple):
    size: int
    modified: int


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)  # each split asks, and more than once
def _index_of(path: str, status: _Stamp) -> TarIndex:
    kept = _kept(path)
    if not kept:
        return _made(path, status)
    if found := _read(path, kept, status):
        return found
    with one_at_a_time(f"{kept}.lock"):  # of the processes of a run one reads the archive, and the others its list
        return _read(path, kept, status) or _made(path, status, kept)


def _made(path: str, status: _Stamp, kept: str = "") -> TarIndex:
    """The index of an archive, which is read through; it is kept in a file where one is given."""
    if status.size >= _LARGE:
        warn(f"{path}: reading once which files are in it, which may take minutes; the list is kept")
    index = index_tar(path)
    if kept:
        _sweep(kept)
        with contextlib.suppress(OSError), replacing(kept) as file:
            told = json.dumps([index.left_out.counts, index.left_out.names])
            np.savez(
                file, key=_key(status), told=np.array(told), names=index.names, offsets=index.offsets,
                sizes=index.sizes,
            )  # fmt: skip
    return index


def index_tar(path: str) -> TarIndex:
    """Read through an archive. Raises a `UserError` as `read_tar_index`."""
    found: list[bytes] = []
    places, left_out = array("q"), LeftOut()
    try:
        with open_regular(path) as file:
            status = _stamp(os.fstat(file.fileno()))
            _check_plain(path, file)
            for name, offset, size in _images(path, cast(BinaryIO, file), 0, status.size, "", left_out):
                found.append(name)
                places.extend((offset, size))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    names = np.array(found, "S")
    order = np.argsort(names, kind="stable")
    last = np.append(names[order][1:] != names[order][:-1], True)[: len(order)]  # tar takes the last of one name
    for row in order[~last].tolist():
        left_out.add("replaced by a later file of the same name", f"{path}: {os.fsdecode(found[row])}")
    kept = order[last]
    offsets, sizes = np.array(places, np.int64).reshape(-1, 2)[kept].T.copy()
    return TarIndex(path, status.size, status.modified, names[kept], offsets, sizes, left_out)


def _images(
    path: str, file: BinaryIO, start: int, size: int, above: str, left_out: LeftOut
) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of each image of an archive that begins at byte `start`, and of the archives in it."""
    where = f"{path}: {above}" if above else path
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # a million of them would take a gigabyte
                parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
                name = "/".join([*above[: -len(ENDING)].split("/"), *parts] if above else parts)
                if member.issparse():
                    raise UserError(
                        f"{where} has a sparse file, {shown(member.name, 60)}, which has no bytes of its own to read; "
                        "make the archive without --sparse"
                    )
                if member.isdir():
                    continue
                reason = "link, device or pipe in an archive" if not member.isfile() else ""
                reason = reason or next(filter(None, map(left_alone, parts)), "")
                if not reason and len(os.fsencode(name)) > LONGEST_FILE:
                    reason, name = f"of a name of more than {LONGEST_FILE:,} bytes", name[:60]
                if reason or not parts:
                    left_out.add(reason or "without a name", f"{where}: {name}")
                    continue
                if not 0 <= member.offset_data <= member.offset_data + member.size <= size:
                    raise _damaged(where, f"{shown(name, 60)} ends behind its end")
                if name.lower().endswith(ENDING) and not above:
                    inner = cast(BinaryIO, tar.extractfile(member))
                    yield from _images(path, inner, member.offset_data, member.size, name, left_out)
                elif name.lower().endswith(image_extensions()):
                    yield os.fsencode(name), start + member.offset_data, member.size
                else:
                    left_out.add("in no format that PIL reads", f"{where}: {name}")
            file.seek(tar.offset)
            if (block := file.read(_BLOCK)) != bytes(_BLOCK):
                raise _damaged(where, f"byte {start + tar.offset:,} " + (
                    "is the beginning of no file" if len(block) == _BLOCK else "is its last, and nothing marks its end"
                ))  # fmt: skip
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(where, str(error) or type(error).__name__) from error


def _check_plain(path: str, file: io.BufferedReader) -> None:
    """Refuse a packed archive, in which no file can be read without all that are before it."""
    begin = file.read(8)
    file.seek(0)
    if begin.startswith(b"PK"):
        raise UserError(
            f"{path} is a zip archive, and only tar archives are read in place: unpack it (unzip {path} -d FOLDER) and "
            "give the folder"
        )
    for magic, command in _PACKED.items():
        if begin.startswith(magic):
            raise UserError(
                f"{path} is packed, so that no image in it can be read by itself; unpack the archive, not what is in "
                f"it: {command} {path}"
            )


def _damaged(where: str, fault: str) -> UserError:
    return UserError(f"{where} is damaged, cut short, or no tar archive ({fault}); copy or download it again")


def _kept(path: str) -> str:
    """Where the index of an archive is kept; empty: nowhere."""
    folder = own_cache()
    name = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=16).hexdigest()
    return os.fspath(folder / f"tar-{name}.npz") if folder else ""


def _sweep(kept: str) -> None:
    """Remove what a process that was killed while it wrote this index has left."""
    for path in Path(kept).parent.glob(f".{os.path.basename(kept)}.*.tmp"):
        with contextlib.suppress(OSError):
            if is_left_over(path) and time.time() - path.stat().st_mtime > _DEAD:
                path.unlink()


def _key(status: _Stamp) -> np.ndarray:
    endings = hashlib.blake2b(" ".join(image_extensions()).encode(), digest_size=4).digest()
    return np.array([VERSION, status.size, status.modified, int.from_bytes(endings, "big")], np.int64)


def _read(path: str, kept: str, status: _Stamp) -> TarIndex | None:
    """The kept index if it is of the archive as it is, and whole."""
    try:
        with open_regular(kept) as file, np.load(file, allow_pickle=False) as stored:
            if stored["key"].tolist() != _key(status).tolist():
                return None
            names, offsets, sizes = (stored[name] for name in ("names", "offsets", "sizes"))
            counts, first = json.loads(str(stored["told"]))
        sound = (
            names.dtype.kind == "S"
            and names.shape == offsets.shape == sizes.shape == (len(names),)
            and offsets.dtype == sizes.dtype == np.int64
            and (not len(names) or (offsets.min() >= 0 <= sizes.min() and (offsets + sizes).max() <= status.size))
        )
        if not sound:
            return None
    except Exception:  # there is none, or it is damaged: zipfile, numpy and json have many errors for that
        return None
    left_out = LeftOut()
    left_out.counts.update(counts)
    left_out.names.update(first)
    return TarIndex(path, status.size, status.modified, names, offsets, sizes, left_out)
