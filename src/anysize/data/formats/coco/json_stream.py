"""The top level of a large JSON object, read an element of an array at a time, with the place of each in the file.

Only a window of the file is in memory, so that a file of any size costs what its largest element costs.
"""

import json
import os
import re
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO, NamedTuple

from anysize.files import open_regular
from anysize.registry import UserError, shown

WINDOW = 2**22  # bytes
_SPACE = re.compile(r"[ \t\n\r]*")
_LARGEST = 2**28  # bytes of an element, which is held in memory as a whole
_NEAR = 16  # bytes; an error so close to the end of the window may be of its cut: `-Infinity`, `\\u12`


class Element(NamedTuple):
    """An element of an array; its JSON is `length` bytes from byte `offset` of the file."""

    value: Any
    offset: int
    length: int


def read_members(path: str | os.PathLike[str], window: int = WINDOW) -> Generator[tuple[str, Iterator[Element] | None]]:
    """The members of the object in a JSON file, in the file's order: an array's elements, None for any other value.

    The elements of an array have to be taken before the next member is; what is not taken is passed over.

    Args:
        path: a file in UTF-8.
        window: bytes that are read at a time.

    Raises:
        UserError: the file cannot be read, is cut off, is not JSON, or holds no object.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write('{"info": {"year": 2017}, "images": [ {"id": 7}, {"id": 9} ]}')
    ...     file.flush()
    ...     for name, elements in read_members(file.name):
    ...         print(name, elements and [tuple(element) for element in elements])
    info None
    images [({'id': 7}, 37, 9), ({'id': 9}, 48, 9)]
    """
    try:
        with open_regular(path) as file:
            yield from _Reader(file, os.fspath(path), window).members()
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be read ({error.strerror}); expected a JSON file") from error


class _Reader:
    """A window of the file as text, in which one character is one byte.

    Latin-1 keeps every byte a character, so that a place in the text is a place in the file. What makes up JSON's
    structure and numbers is ASCII in UTF-8 too; an element with other characters is decoded again from its bytes.
    """

    def __init__(self, file: BinaryIO, path: str, window: int) -> None:
        self.file = file
        self.path = path
        self.window = window
        self.text = file.read(max(window, 3)).decode("latin-1")
        self.base = 0  # offset of text[0] in the file
        self.place = 3 if self.text.startswith("\xef\xbb\xbf") else 0  # behind a byte order mark
        self.member = ""  # the one that is being read
        self.scan = json.JSONDecoder().raw_decode

    def members(self) -> Iterator[tuple[str, Iterator[Element] | None]]:
        if self._peek() == "":
            raise UserError(f"{self.path} is empty; expected a JSON file")
        if self._peek() == "[":
            raise UserError(f"{self.path} holds a list, as files of results do; expected a JSON object")
        for _ in self._items("{", "}"):
            name = self._value().value
            if not isinstance(name, str):
                raise self._not_json(f"a member named {shown(name, 60)}")
            self._take(":")
            self.member = name[:40]
            if self._peek() == "[":
                elements = (self._value() for _ in self._items("[", "]"))
                yield name, elements
                for _ in elements:
                    pass
            else:
                self._value()
                yield name, None
            self.member = ""
        if self._peek():
            raise self._not_json("Expecting nothing more")

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """Stand before each item of an array or object in turn."""
        self._take(opening)
        if self._peek() != closing:
            yield
            while self._peek() != closing:
                self._take(",")
                yield
        self._take(closing)

    def _value(self) -> Element:
        self._peek()
        while True:
            try:
                value, end = self.scan(self.text, self.place)
            except RecursionError as error:
                raise self._not_json("values are nested too deep") from error
            except ValueError as error:  # a JSONDecodeError, a number of too many digits, ...
                if self._truncated(error) and self._read_on():
                    continue
                raise self._not_json(str(getattr(error, "msg", error)), error) from error
            if end + _NEAR >= len(self.text) and isinstance(value, (int, float)) and self._read_on():
                continue  # a number may go on behind the window, also from `1` in `1e-`
            element = Element(value, self.base + self.place, end - self.place)
            if not (written := self.text[self.place : end]).isascii():
                element = element._replace(value=self._decoded(written))
            self.place = end
            return element

    def _decoded(self, written: str) -> Any:
        try:
            return json.loads(written.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._not_json("its text is not UTF-8") from error
        except RecursionError as error:
            raise self._not_json("values are nested too deep") from error

    def _truncated(self, error: Exception) -> bool:
        """Whether the error may come of the end of the window rather than of the file."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.pos + _NEAR >= len(self.text) or error.msg.startswith("Unterminated string")

    def _read_on(self) -> bool:
        """Read what follows, more of it the longer the element is; forget what lies before the place."""
        if len(self.text) - self.place > _LARGEST:
            raise UserError(
                f"{self.path} has a value of more than {_LARGEST // 2**20} MiB at byte {self.base + self.place:,}; "
                "expected smaller ones, as those of an image or annotation are"
            )
        more = self.file.read(max(self.window, len(self.text) - self.place))
        if not more:
            return False
        self.text = self.text[self.place :] + more.decode("latin-1")
        self.base += self.place
        self.place = 0
        return True

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.place)
            assert space is not None
            self.place = space.end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._read_on():
                return ""

    def _take(self, expected: str) -> None:
        if self._peek() != expected:
            raise self._not_json(f"Expecting {expected!r}")
        self.place += 1

    def _not_json(self, reason: str, error: Exception | None = None) -> UserError:
        place = error.pos if isinstance(error, json.JSONDecodeError) else self.place
        where = f" in {self.member!r}" if self.member else ""
        written = self.text.rstrip()
        # Only at the end of the file; a whole file ends with a brace, a part of one may, but then its error lies there.
        if place >= len(written) or (error is not None and self._truncated(error) and not written.endswith("}")):
            size = self.base + len(self.text)
            return UserError(f"{self.path} is cut off{where}: it ends after {size:,} bytes; copy or unpack it again")
        return UserError(
            f"{self.path} is not JSON ({reason} at byte {self.base + place:,}{where}); expected a JSON file in UTF-8"
        )
