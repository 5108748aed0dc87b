"""Files that may come from others, read and written so that they do nothing but hold bytes.

Reading takes regular files alone: a named pipe would wait for ever, a device has no end. Writing follows no link, so
that a folder from somebody else does not lead it to another file; what replaces a file is made beside it under a name
that cannot be foretold, and renamed. All errors are `OSError`, with `strerror` for the reader of a message.
"""

import contextlib
import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # in children; no end of line is changed
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes, without waiting for what is none.

    Raises:
        OSError: as `open`; a folder, a pipe, a device or a socket is named in `strerror`.

    >>> open_regular(os.devnull)
    Traceback (most recent call last):
    ...
    OSError: [Errno 22] it is a device, and no file: '/dev/null'
    """
    return cast(BinaryIO, _opened(path, os.O_RDONLY, "rb"))


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The bytes of a regular file; an `OSError`, too, where it is larger than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, of at most {limit:,}", os.fspath(path))
        return file.read()


def open_in_place(path: str | os.PathLike[str], *, append: bool = False) -> TextIO:
    """Open a text file to write in UTF-8 where it is, emptied or at its end; what cannot be encoded is escaped.

    Raises:
        OSError: as `open`; also where `path` is a link, or something that is no file.
    """
    flags = os.O_WRONLY | os.O_CREAT | _NO_LINK | (os.O_APPEND if append else 0)
    file = cast(TextIO, _opened(path, flags, "a" if append else "w"))
    if not append:
        file.truncate(0)
    return file


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a new file beside `path`, which is synced and takes its place at the end of the block, or goes at an error.

    A link at `path` is replaced, not followed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     (Path(folder) / "a.txt").read_bytes(), os.listdir(folder)
    (b'whole', ['a.txt'])
    """
    path = Path(path)
    beside = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSED, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the content does
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def is_inside(name: str) -> bool:
    """Whether a name that a file gives, such as one of a picture, stays in the folder that it is relative to.

    It says nothing of links, which the owner of a folder may have made on purpose.

    >>> [is_inside(name) for name in ("a/b.png", "a/../b.png", "../b.png", "/etc/passwd", "", "C:\\\\b.png")]
    [True, True, False, False, False, False]
    """
    path = posixpath.normpath(name.replace("\\", "/"))
    leaves = path.startswith(("/", "../")) or path in ("..", ".")
    drive = path[1:3] == ":/" or (os.name == "nt" and ":" in path)
    return bool(name) and not leaves and not drive


def is_private(status: os.stat_result) -> bool:
    """Whether a file or folder of this status is the user's own, and nobody else may write it.

    Where a system tells neither, as Windows, it is taken as true.
    """
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _opened(path: str | os.PathLike[str], flags: int, mode: str) -> IO[bytes] | IO[str]:
    descriptor = os.open(path, flags | _NO_WAIT | _CLOSED, 0o666)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, "it is a folder, and no file", os.fspath(path))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, and no file", os.fspath(path))
        if "b" in mode:
            return cast(IO[bytes], open(descriptor, mode))
        return cast(IO[str], open(descriptor, mode, encoding="utf-8", errors="backslashreplace"))
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
