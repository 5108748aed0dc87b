"""Files that a stranger may have put into a data set: headers of huge images, pipes and devices."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

SIDE = 20_000
"""Height and width that the headers state."""


def png_header(height: int, width: int, colours: int = 2) -> bytes:
    """A PNG of 8 bits that holds next to nothing of what its header states."""
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def changed(ending: str, place: Callable[[bytes], int], form: str) -> bytes:
    """A small file whose header states another size at a place."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, ending)
    data = bytearray(buffer.getvalue())
    start = place(bytes(data))
    data[start : start + struct.calcsize(form)] = struct.pack(form, SIDE, SIDE)
    return bytes(data)


def bombs() -> dict[str, bytes]:
    """Small files by name whose headers state images of 400 million pixels."""
    side = (SIDE - 1).to_bytes(3, "little")
    return {
        "bomb.jpg": changed("JPEG", lambda data: data.index(b"\xff\xc0") + 5, ">HH"),
        "bomb.gif": changed("GIF", lambda data: 6, "<HH"),
        "bomb.bmp": changed("BMP", lambda data: 18, "<ii"),
        "bomb.png": png_header(SIDE, SIDE),
        "bomb.ppm": b"P6 %d %d 255\n\0\0\0" % (SIDE, SIDE),
        "bomb.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * side + b"VP8L\0\0\0\0",
    }


def icon() -> bytes:
    """An icon that states 32 x 32 pixels, and holds a PNG that states more."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "ICO", sizes=[(32, 32)])
    data = buffer.getvalue()
    return data[: data.index(b"\x89PNG")] + png_header(SIDE, SIDE)


def specials(folder: Path, name: str = "special") -> dict[str, Path]:
    """A pipe, a link to a device without an end, and a folder, each in a folder of its own, by what messages say."""
    paths = {what: folder / what.replace(" ", "-") / name for what in ("a named pipe", "a device", "a folder")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    os.mkfifo(paths["a named pipe"])
    paths["a device"].symlink_to("/dev/zero")
    paths["a folder"].mkdir()
    return paths
