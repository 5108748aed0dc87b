"""Images with masks, and folders of them, for the tests of the data."""

import struct
import zlib
from pathlib import Path

import numpy as np
from image_files import smooth_image
from PIL import Image

HEIGHT, WIDTH = 30, 40


def mask_of(*numbers: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Stripes of the class numbers, from left to right."""
    return np.array(numbers, dtype=np.uint8)[np.arange(width) * len(numbers) // width][None].repeat(height, 0)


def save_palette(path: Path, mask: np.ndarray) -> None:
    """As VOC's masks are stored; the colours are not those of the numbers, so that a reader of colours would fail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def save_grey(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def save_image(path: Path, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth_image(seed, height, width).save(path)


def write_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG with 1, 2, 4 or 16 bits a pixel, written out by hand: PIL writes no such files."""
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        weights = 2 ** (bits * np.arange(8 // bits)[::-1])
        rows = [(row.reshape(-1, 8 // bits) @ weights).astype(np.uint8).tobytes() for row in values.astype(int)]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
