"""Files of images and masks are opened here alone: regular files, and no more pixels than `data.max_pixels`.

A header of 40,000 x 40,000 pixels fits into a file of 400 bytes, and decoding it takes 5 GB: the size is looked at
before any decoder is called.
"""

import contextlib
import errno
import functools
import io
import re
import threading
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from anysize.files import open_regular, read_regular
from anysize.machine import is_short

# PIL recognises these, but has no decoder of its own for them (EPS would go to Ghostscript, WMF to Windows).
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_BYTES_A_PIXEL, _BESIDES = 8, 2**26  # of a file: four colours of 16 bits, and what else is in it


class BadImage(Exception):
    """An image that cannot be decoded; the message says why."""


class TooLarge(BadImage):
    """An image that is not decoded, as it has more pixels than `data.max_pixels`; it may be sound."""


def check_pixels(height: int, width: int, max_pixels: int, what: str = "it") -> None:
    """Raise `TooLarge` for an image of more pixels than that; `what` it is called in the message.

    >>> check_pixels(40_000, 40_000, 250_000_000)
    Traceback (most recent call last):
    ...
    anysize.data.pictures.TooLarge: it has 1,600,000,000 pixels, and data.max_pixels is 250,000,000: if the image is \
sound, raise that
    """
    if height * width > max_pixels:
        raise _too_large(f"{what} has {height * width:,} pixels", max_pixels)


def check_bytes(size: int, max_pixels: int) -> None:
    """Raise `TooLarge` for a file of more bytes than an image of `max_pixels` has."""
    if size > (most := _BYTES_A_PIXEL * max_pixels + _BESIDES):
        raise _too_large(f"it is too large a file (it has {size:,} bytes, of at most {most:,})", max_pixels)


def read_picture(path: str, max_pixels: int, what: str = "it") -> bytes:
    """The bytes of a file of an image. Raises `BadImage`, also where no image of so many pixels has so many bytes."""
    with _unread(what):
        try:
            return read_regular(path, _BYTES_A_PIXEL * max_pixels + _BESIDES)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise _too_large(f"{what} is too large a file ({error.strerror})", max_pixels) from error
            raise


@contextlib.contextmanager
def opened(data: bytes | BinaryIO, max_pixels: int, what: str = "it") -> Iterator[Image.Image]:
    """Open an image with PIL, of which nothing but the header is read yet. Raises `BadImage`, also in the block.

    `max_pixels` is the only limit: PIL's own, of which it warns at half as many, is put aside.
    """
    try:
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        with _limit(max_pixels), Image.open(file, formats=_formats()) as image:
            check_pixels(image.height, image.width, max_pixels, what)
            yield image
    except UnidentifiedImageError as error:
        raise BadImage(f"{what} cannot be decoded (it is in no image format that PIL knows)") from error
    except Image.DecompressionBombError as error:  # of the image, or of one within it, as in icons
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(f"{what} has {f'{int(found[1]):,}' if found else 'more'} pixels", max_pixels) from error
    except BadImage:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        if is_short(error):
            raise
        fault = f"{what} cannot be decoded ({type(error).__name__}: {error})"
        raise BadImage(fault.replace("\n", " ")) from error


def open_picture(path: str) -> BinaryIO:
    """Open an image file. Raises `BadImage`."""
    with _unread("it"):
        return open_regular(path)


@contextlib.contextmanager
def _unread(what: str) -> Iterator[None]:
    """Raise `BadImage` for a file that cannot be read, and what the machine lacks as it is."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadImage(f"{what} is not there") from error
    except OSError as error:
        if is_short(error):
            raise
        raise BadImage(f"{what} cannot be read ({error.strerror})") from error


def _too_large(fault: str, max_pixels: int) -> TooLarge:
    return TooLarge(f"{fault}, and data.max_pixels is {max_pixels:,}: if the image is sound, raise that")


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that PIL decodes by itself, whatever a file's name says that it is; the usual ones first."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_DECODED)


class _Limit(int):
    """PIL warns of more pixels than its limit, and refuses twice as many: of this one twice is no more than once."""

    def __rmul__(self, other: int) -> int:
        return int(self)


_lock = threading.Lock()
_limits: list[int] = []  # of the threads that are decoding; PIL has one for all
_before: list[int | None] = []


@contextlib.contextmanager
def _limit(max_pixels: int) -> Iterator[None]:
    """Let PIL refuse more pixels, also where it looks at images within images, and put its own limit back at the end.

    Where threads have several limits, PIL has the largest; each looks at its own besides.
    """
    with _lock:
        if not _limits:
            _before[:] = [Image.MAX_IMAGE_PIXELS]
        _limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = _Limit(max(_limits))
    try:
        yield
    finally:
        with _lock:
            _limits.remove(max_pixels)
            Image.MAX_IMAGE_PIXELS = _Limit(max(_limits)) if _limits else _before[0]
