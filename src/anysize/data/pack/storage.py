"""A folder in object storage, read by byte ranges through obstore (the extra `stream`): S3, GCS, Azure, HTTP, files.

obstore tries again by itself what a server refuses for a while (5xx), connections that break and answers that do not
come; here answers that end too early are asked for again, too, up to the same time limit. Credentials come from the
usual environment variables alone (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...).

obstore's threads do not survive a fork: a process that was forked from one that has read would wait for ever. So what
reads from here in worker processes starts them anew (`Source.forks`).
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from anysize.files import cache_folders, own_cache, remove, replacing
from anysize.registry import UserError, printable

BLOCKS = "blocks"
"""The folder in `cache_folder` for what is kept of shards (`anysize.data.pack.kept`)."""

_S = TypeVar("_S")
_T = TypeVar("_T")
_SCHEMES = ("s3", "gs", "az", "https", "http", "file")
_PARALLEL = 32  # requests under way in a process: a server takes some 20 ms for each, however small
_NEAR = 128 * 2**10  # bytes between two ranges that are cheaper read than asked for apart: a millisecond at 1 Gbit/s
_PIECE = 8 * 2**20  # bytes in a request for a part of a whole file
_KEPT = 30 * 86_400  # seconds since a folder of the cache was last used
_SILENT = 30  # seconds after which an answer that does not go on is asked for again


class Wanted(NamedTuple):
    """Bytes of a file below the folder."""

    name: str
    start: int
    length: int


def is_address(root: str) -> bool:
    """Whether a root is an address in object storage, and no folder.

    >>> is_address("s3://bucket/pack"), is_address("/data/pack")
    (True, False)
    """
    return re.match(r"[A-Za-z][\w+.-]*://", root) is not None


def check_address(url: str) -> str:
    """An address without what may stand at its end, or a `UserError`, which shows no password that is in it.

    >>> check_address("s3://bucket/pack/")
    's3://bucket/pack'
    >>> check_address("s3://me:secret@bucket/pack")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: data.root is an address (s3://...) with a user, a password or a query...
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"data.root is no address ({error}); expected one such as s3://bucket/folder") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"data.root is an address ({parts.scheme}://...) with a user, a password or a query, which a run would "
            "write down; leave them out, and give credentials in the environment, such as AWS_ACCESS_KEY_ID"
        )
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise UserError(
            f"data.root is {url!r}; expected a folder, or an address such as s3://bucket/folder ({', '.join(_SCHEMES)})"
        )
    return url.rstrip("/")


class Storage:
    """A folder in object storage. Threads may share it; a copy in another process opens it again.

    Args:
        url: its address.
        limit: seconds for which what fails is tried again.

    Raises:
        UserError: no such address, or obstore is not installed; from the methods, the server fails for good.
    """

    def __init__(self, url: str, limit: int) -> None:
        self.url, self.limit = check_address(url), limit
        self._pid = os.getpid()
        try:
            import obstore
        except ImportError:
            raise UserError(
                f"data.root is {self.url}, and object storage needs obstore, which is not installed: pip install "
                "'anysize[stream]'"
            ) from None
        self._obstore = obstore
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=limit),
            "read_timeout": timedelta(seconds=min(_SILENT, limit)),
            "user_agent": "anysize",
        }
        endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
        if self.url.startswith("http://") or endpoint.startswith("http://"):
            client["allow_http"] = True
        options: dict[str, Any] = {} if self.url.startswith("file:") else {"client_options": client}
        if options:
            options["retry_config"] = {"retry_timeout": timedelta(seconds=limit), "max_retries": 10_000}
        try:
            self._store: Any = obstore.store.from_url(self.url, **options)
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise UserError(f"data.root is {self.url}, which cannot be opened: {_first_line(error)}") from error
        self._pool = ThreadPoolExecutor(_PARALLEL, "object storage")

    def size(self, name: str) -> int:
        """The bytes of a file; -1 where there is none."""
        size: int = self._trying(f"the size of {name}", lambda: self._obstore.head(self._store, name)["size"], -1)
        return size

    def sizes(self, names: Sequence[str]) -> list[int]:
        """The bytes of each of some files; -1 where there is none."""
        return list(self._side_by_side(self.size, names))

    def whole(self, name: str, most: int) -> bytes | None:
        """The bytes of a small file, None where there is none. An `OSError` where it has more than `most`."""
        size = self.size(name)
        if size > most:
            raise OSError(f"{self.url}/{name} has {size:,} bytes, of at most {most:,}")
        return None if size < 0 else b"".join(self.pieces(name, size))

    def pieces(self, name: str, size: int) -> Iterator[Any]:
        """The first `size` bytes of a file, piece by piece; fewer where it is shorter."""
        for start in range(0, size, _PIECE):
            yield self._ranges(name, [Wanted(name, start, min(_PIECE, size - start))])[0]

    def download(self, name: str, size: int, path: Path) -> None:
        """Write the first `size` bytes of a file to `path`, beside and renamed."""
        with replacing(path) as file:
            for piece in self.pieces(name, size):
                file.write(piece)

    def ranges(self, wanted: Sequence[Wanted]) -> list[Any]:
        """Each of some ranges of bytes, all asked for at once, those that lie near each other in one request.

        A range has fewer bytes than asked for where its file is shorter or not there.
        """
        by_name: dict[str, list[int]] = {}
        for i in sorted(range(len(wanted)), key=lambda i: wanted[i]):
            by_name.setdefault(wanted[i].name, []).append(i)
        parts = list(by_name.items())
        found = self._side_by_side(lambda part: self._ranges(part[0], [wanted[i] for i in part[1]]), parts)
        data: list[Any] = [b""] * len(wanted)
        for (_, places), got in zip(parts, found, strict=True):
            for place, piece in zip(places, got, strict=True):
                data[place] = piece
        return data

    def _side_by_side(self, action: Callable[[_S], _T], items: Sequence[_S]) -> Iterator[_T]:
        """What an action gives for each item; threads run it, of which a forked process has none."""
        if self._pid != os.getpid():
            raise UserError(
                f"{self.url} cannot be read in this process, which was forked from the one that opened it: start "
                'workers anew (a DataLoader with multiprocessing_context="spawn"), or take none'
            )
        return self._pool.map(action, items)

    def _ranges(self, name: str, wanted: Sequence[Wanted]) -> list[Any]:
        """Ranges of one file, which are not empty."""
        if not sum(each.length for each in wanted):
            return [b""] * len(wanted)
        starts, lengths = [each.start for each in wanted], [each.length for each in wanted]
        what = f"{sum(lengths):,} bytes of {name} from {min(starts):,} on"
        ask = self._obstore.get_ranges
        return self._trying(
            what,
            lambda: ask(self._store, name, starts=starts, lengths=lengths, coalesce=_NEAR),
            [b""] * len(wanted),
        )

    def _trying(self, what: str, action: Callable[[], _T], missing: _T) -> _T:
        """What an action gives; `missing` where there is no such file, or none so long."""
        began, pause = time.monotonic(), 0.1
        while True:
            try:
                return action()
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                return missing
            except (OSError, self._obstore.exceptions.BaseError) as error:
                told, took = str(error), time.monotonic() - began
                if "InvalidRange" in told or "416 " in told:
                    return missing
                if "body error" not in told or took > self.limit:
                    denied = "denied" in told or "privileges" in told or "authenticat" in told or " 403 " in told
                    remedy = (
                        "give credentials that may read it in the environment (AWS_ACCESS_KEY_ID and the like; "
                        "AWS_SKIP_SIGNATURE=true for a public bucket)"
                        if denied
                        else "see to the server or the connection and give the same command again, which goes on, or "
                        "raise data.stream_limit"
                    )
                    raise UserError(
                        f"{self.url} failed when asked for {what}, for {took:.0f} s of tries: {_first_line(error)}; "
                        f"{remedy}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 5)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.limit)


def cache_folder(url: str, manifest: bytes) -> Path:
    """Where what is read of a pack once is kept, in the user's own cache; it is made.

    Each address has a folder of its own, and another one when its manifest has changed. Folders that nothing was read
    from for 30 days are removed, and blocks of another manifest at once. Raises an `OSError`.
    """
    cache = own_cache()
    if cache is None:
        raise OSError(errno.EACCES, "there is no folder for it of the user's own", os.fspath(cache_folders()[0]))
    digests = [hashlib.blake2b(data, digest_size=8).hexdigest() for data in (url.encode(), manifest)]
    folder = cache / "packs" / "-".join(digests)
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in (cache / "packs").iterdir():
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - other.stat().st_mtime > _KEPT:
                remove(other)
            elif other != folder and other.name.startswith(f"{digests[0]}-"):
                remove(other / BLOCKS)  # of what the address no longer holds
    return folder


def _first_line(error: BaseException) -> str:
    """What an error of obstore says, without the queries of addresses, which may hold a signature."""
    line = str(error).strip().partition("\n")[0]
    return printable(re.sub(r"\?[^\s\"']*", "?...", line)).rstrip(" .:")
