"""Files that may come from others, read and written so that they do nothing but hold bytes.

Reading takes regular files alone: a named pipe would wait for ever, a device has no end. Writing follows no link, so
that a folder from somebody else does not lead it to another file; what replaces a file is made beside it under a name
that cannot be foretold, and renamed. All errors are `OSError`, with `strerror` for the reader of a message.
"""

import contextlib
import errno
import io
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

EXPORTED = (".onnx", ".pt2")  # endings of exported files

_BESIDE = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # in children; no end of line is changed
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file to read its bytes, without waiting for what is none.

    Raises:
        OSError: as `open`; a folder, a pipe, a device or a socket is named in `strerror`.

    >>> open_regular(os.devnull)
    Traceback (most recent call last):
    ...
    OSError: [Errno 22] it is a device, and no file: '/dev/null'
    """
    return cast(io.BufferedReader, _opened(path, os.O_RDONLY, "rb"))


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The bytes of a regular file; an `OSError`, too, where it is larger than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, of at most {limit:,}", os.fspath(path))
        return file.read()


def read_text(path: str | os.PathLike[str], limit: int | None = None, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8, its ends of lines as they stand; as `read_regular`.

    Raises:
        OSError: as `read_regular`.
        UnicodeDecodeError: it is no UTF-8, and `errors` are strict.
    """
    return read_regular(path, limit).decode("utf-8", errors)


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
    beside = name_beside(path)
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


def name_beside(path: Path) -> Path:
    """A hidden name in the folder of `path`, for what is to take its place; `is_left_over` knows it again."""
    return path.with_name(f".{path.name[:64]}.{os.urandom(8).hex()}.tmp")


def is_left_over(path: Path) -> bool:
    """Whether a name is one of `name_beside`: what is there under it once its writer is gone was never finished.

    >>> is_left_over(name_beside(Path("a.txt"))), is_left_over(Path("a.tmp"))
    (True, False)
    """
    return _BESIDE.fullmatch(path.name) is not None


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder with all in it; nothing where there is nothing.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


@contextlib.contextmanager
def one_at_a_time(path: str | os.PathLike[str]) -> Iterator[None]:
    """Wait until no other process of this machine, or thread, is in such a block with the same file, which is made.

    A process that is killed frees it. Where there are no such locks, or no file can be made, nobody waits.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                file = stack.enter_context(open_in_place(path, append=True))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folders() -> list[Path]:
    """The folders that may keep what takes long to make, the best first: `ANYSIZE_CACHE`, else the user's cache, else
    one for temporary files."""
    if os.environ.get("ANYSIZE_CACHE"):
        folders = [Path(os.environ["ANYSIZE_CACHE"]).expanduser().resolve()]
    else:
        folders, base = [], os.environ.get("XDG_CACHE_HOME")
        with contextlib.suppress(RuntimeError):  # there may be no home
            folders.append(((Path(base) if base else Path.home() / ".cache") / "anysize").resolve())
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [*folders, Path(tempfile.gettempdir()) / f"anysize-{user}"]


def own_cache() -> Path | None:
    """The first of `cache_folders` that is there, or can be made, and is the user's own; None: there is none."""
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(folder.lstat()) and os.access(folder, os.W_OK):
                return folder
    return None


def _opened(path: str | os.PathLike[str], flags: int, mode: str) -> IO[bytes] | IO[str]:
    try:
        descriptor = os.open(path, flags | _NO_WAIT | _CLOSED, 0o666)
    except OSError as error:
        try:
            found = os.lstat(path) if flags & _NO_LINK else os.stat(path)
        except OSError:
            raise error from None
        raise _no_file(path, found.st_mode) or error from None
    try:
        if other := _no_file(path, os.fstat(descriptor).st_mode):
            raise other
        if "b" in mode:
            return cast(IO[bytes], open(descriptor, mode))
        return cast(IO[str], open(descriptor, mode, encoding="utf-8", errors="backslashreplace"))
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


def _no_file(path: str | os.PathLike[str], mode: int) -> OSError | None:
    """The error about what is no regular file."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG:
        return None
    if kind == stat.S_IFDIR:
        return IsADirectoryError(errno.EISDIR, "it is a folder, and no file", os.fspath(path))
    return OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, and no file", os.fspath(path))
