"""Image files to pixels: decoding, what went wrong with it, and which files are taken for images."""

import functools
import io
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

try:
    import simplejpeg
except ImportError:  # the extra `jpeg`; PIL gives the same pixels, somewhat slower
    simplejpeg = None


class BadImage(Exception):
    """An image that cannot be decoded; the message is the decoder's."""


def decode_rgb(path: str) -> np.ndarray:
    """Decode an image file to RGB: uint8 (H, W, 3). EXIF rotation is not applied, as in torchvision's ImageFolder.

    JPEGs go through simplejpeg where it is installed; its pixels equal PIL's. Raises `BadImage`.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            data = file.read()
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image if image.mode == "RGB" else _to_rgb(image))
    except UnidentifiedImageError as error:
        raise BadImage("it cannot be decoded (it is in no image format that PIL knows)") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise BadImage(f"it cannot be decoded ({type(error).__name__}: {error})".replace("\n", " ")) from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe of an image's name would wait for ever for somebody who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The pixels of a JPEG; None where PIL has to decide: no JPEG, CMYK (converted differently), or damaged."""
    if simplejpeg is None or data[:3] != b"\xff\xd8\xff":
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:
        pass
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    # A palette with transparency is defined for RGBA alone; PIL warns when it goes to RGB in one step.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """Endings of the files that are taken for images, in lower case."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)
