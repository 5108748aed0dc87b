"""An image to the levels of a pack."""

import io
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from anysize.data.augment.square import resize
from anysize.data.decode import decode_rgb, decoder
from anysize.data.pack.format import MASKS, ORIGINAL, level_size
from anysize.data.pictures import BadImage
from anysize.data.source import ArraySource, FileSource, Source

try:
    import simplejpeg
except ImportError:  # the extra `jpeg`; PIL makes JPEGs as well, somewhat slower
    simplejpeg = None

# Of the crops that are taken from a level, bicubic keeps 4 dB more than bilinear, and Lanczos hardly more than that.
_RESAMPLING = "bicubic"


class Encoded(NamedTuple):
    """An image as a pack holds it: its height and width, and the bytes of each column of the index; empty: none."""

    height: int
    width: int
    columns: list[bytes]


def encode(source: Source, index: int, columns: tuple[int, ...], pixels: str, quality: int) -> Encoded | BadImage:
    """The levels of an image, and its mask where `MASKS` is among the columns; or why it cannot be used.

    Args:
        columns, pixels, quality: as in the manifest.
    """
    try:
        if isinstance(source, FileSource):
            data = source.data(index)
            image = decode_rgb(data, source.exif, source.max_pixels)
        else:
            assert isinstance(source, ArraySource)
            image = source.images[index].numpy()
            data = as_png(image)
        mask = as_png(source.target(index, image.shape[:2]).numpy()) if MASKS in columns else b""
    except BadImage as error:
        return error
    height, width = image.shape[:2]
    made = []
    whole = False  # whether a column has the image in full, as it is read fastest
    for side in columns:
        if side == MASKS:
            made.append(mask)
        elif side == ORIGINAL:
            made.append(data)
            whole = pixels == "jpeg"
        elif min(height, width) > side:
            made.append(_as_pixels(_shrunk(image, side), pixels, quality))
        else:
            made.append(b"" if whole else image.tobytes() if pixels == "raw" else data)
            whole = True
    if any(len(column) >= 2**32 for column in made):
        return BadImage("it takes more than 4 GiB")
    return Encoded(height, width, made)


def as_png(image: np.ndarray) -> bytes:
    """Pixels uint8 (H, W), (H, W, 1) or (H, W, 3) as a file that keeps each of them."""
    file = io.BytesIO()
    Image.fromarray(image if image.ndim == 2 or image.shape[2] == 3 else image[..., 0]).save(file, "PNG")
    return file.getvalue()


def made_with() -> dict[str, str]:
    """What levels are made with: the same versions give the same bytes."""
    return {"anysize": version("anysize"), "jpeg": decoder(), "resampling": f"{_RESAMPLING}, torch {torch.__version__}"}


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The image (H, W, C) whose shorter side is larger than `side`, shrunk to that level."""
    size = level_size(image.shape[0], image.shape[1], side)
    shrunk = resize(torch.from_numpy(image).permute(2, 0, 1), size, _RESAMPLING)  # six times as fast as PIL
    return np.ascontiguousarray(shrunk.permute(1, 2, 0).numpy())


def _as_pixels(image: np.ndarray, pixels: str, quality: int) -> bytes:
    if pixels == "raw":
        return image.tobytes()
    grey = image.shape[2] == 1
    if simplejpeg:
        colours = ("GRAY", "Gray") if grey else ("RGB", "420")
        return bytes(simplejpeg.encode_jpeg(image, quality, *colours))
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=quality)
    return file.getvalue()
