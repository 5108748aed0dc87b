"""Image files to pixels: decoding, what went wrong with it, and which files are taken for images."""

import contextlib
import functools
import numbers
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image

from anysize.data.pictures import NOT_DECODED, BadImage, check_pixels, open_picture, opened, read_picture
from anysize.data.settings import MAX_PIXELS

try:
    import simplejpeg
except ImportError:  # the extra `jpeg`; PIL gives the same pixels, somewhat slower
    simplejpeg = None

_ROWS = 64  # of an image that are brought to 8 bits at a time
_COLOURS = ("YCbCr", "RGB", "Gray")  # that simplejpeg brings to RGB as PIL does
_JPEG = b"\xff\xd8\xff"
_PARTS = (8, 4, 2)  # the library has fast transforms for these alone: at 5/8 decoding takes longer than in full

Need = Callable[[int, int], float]
"""Of an image's height and width in full: the smallest scale, at most 1, at which it has the pixels that are needed."""


def decoder() -> str:
    """What decodes JPEGs, with its version: at smaller scales the pixels of two decoders differ by some levels.

    >>> decoder().split()[0] in ("simplejpeg", "PIL")
    True
    """
    return f"PIL {PIL.__version__}" if simplejpeg is None else f"simplejpeg {version('simplejpeg')}"


def decode_rgb(picture: str | bytes, exif: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file, or its bytes, to RGB: uint8 (H, W, 3), as it is stored, or with `exif` turned as EXIF says.

    JPEGs go through simplejpeg where it is installed; its pixels equal PIL's. Grey values of more than 8 bits are
    scaled by the range that their format states. Raises `BadImage`, also where they have none, and as `TooLarge`
    before an image of more than `max_pixels` is decoded.
    """
    if not exif:
        return _decode(picture, max_pixels, exif=False)[0]
    return turned(*_decode(picture, max_pixels, exif=True))


def decode_with_orientation(picture: str | bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """An image as it is stored, and the orientation that its EXIF data tell: 1 (upright, or none is told) to 8.

    PIL itself turns TIFFs upright, so that they count as 1.
    """
    return _decode(picture, max_pixels, exif=True)


class Header(NamedTuple):
    """Height and width of an image as `decode_rgb` gives it, and whether it is stored without colour."""

    height: int
    width: int
    grey: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def read_header(picture: str | bytes, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Header:
    """What the header of an image file, or of its bytes, tells; no more than that is read. Raises `BadImage`."""
    with contextlib.ExitStack() as stack:
        file: bytes | BinaryIO = picture if isinstance(picture, bytes) else stack.enter_context(open_picture(picture))
        image = stack.enter_context(opened(file, max_pixels))
        sides = (image.width, image.height) if exif and _orientation(image) >= 5 else (image.height, image.width)
        return Header(*sides, image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"))


def decode_reduced(
    data: bytes, need: Need, exif: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode the bytes of an image like `decode_rgb`, but a JPEG at 1/2, 1/4 or 1/8 where `need` says that is enough.

    The library leaves out the high frequencies of each block of 8 x 8 pixels, which is close to averaging pixels. The
    smaller image begins at the same corner, and ends within half a pixel of its own from where the whole one does.

    Returns:
        Its pixels, uint8 (h, w, 3), and the height and width of the image in full.
    """
    scaled = _decode_scaled(data, need, exif, max_pixels)
    if scaled is None:  # it is no JPEG, is needed in full, or is damaged, which decoding it in full says
        pixels = decode_rgb(data, exif, max_pixels)
        scaled = pixels, (pixels.shape[0], pixels.shape[1])
    return scaled


def _decode_scaled(data: bytes, need: Need, exif: bool, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """None where the image is no JPEG, is needed in full, or is for `decode_rgb` to find what is wrong with it."""
    if data[:3] != _JPEG:
        return None
    with contextlib.suppress(BadImage, ValueError, MemoryError), contextlib.ExitStack() as stack:
        by_pil = exif or simplejpeg is None  # opening takes a tenth of what decoding does
        image = stack.enter_context(opened(data, max_pixels)) if by_pil else None
        shape, orientation = _shape_of_jpeg(data, image, max_pixels), _orientation(image) if image and exif else 1
        if shape is None:
            return None
        stored = shape[::-1] if orientation >= 5 else shape
        scale = need(*stored)
        part = next((part for part in _PARTS if part * scale <= 1 and part <= min(shape)), 1)
        if part == 1:
            return None
        if simplejpeg is None:
            assert image is not None
            image.draft("RGB", (shape[1] // part, shape[0] // part))
            pixels = np.array(image.convert("RGB"))
        else:
            # It takes the smallest scale at which neither side has less than this.
            least = {"min_height": -(-shape[0] // part), "min_width": -(-shape[1] // part)}
            pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
        pixels = pixels[: max(1, round(shape[0] / part)), : max(1, round(shape[1] / part))]
        return turned(pixels, orientation), stored
    return None


def _shape_of_jpeg(data: bytes, image: Image.Image | None, max_pixels: int) -> tuple[int, int] | None:
    """Height and width as they are stored, of a JPEG in grey or RGB; None of another."""
    if image is None:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_pixels(height, width, max_pixels)
        return (height, width) if colours in _COLOURS else None
    return (image.height, image.width) if image.mode in ("RGB", "L") else None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, C) of an EXIF orientation upright (Exif 2.32, tag 274).

    >>> turned(np.arange(6).reshape(2, 3, 1), 6)[..., 0].tolist()
    [[3, 0], [4, 1], [5, 2]]
    """
    if orientation in (2, 5, 7, 4):  # mirrored as well
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)))


def _decode(picture: str | bytes, max_pixels: int, exif: bool) -> tuple[np.ndarray, int]:
    """Pixels and orientation; without `exif` nobody looks for it, and it is 1."""
    data = read_picture(picture, max_pixels) if isinstance(picture, str) else picture
    pixels = _decode_jpeg(data, max_pixels)
    if pixels is not None and not exif:
        return pixels, 1
    with opened(data, max_pixels) as image:
        if pixels is None:
            pixels = np.array(image if image.mode == "RGB" else _to_rgb(image))
        return pixels, _orientation(image) if exif else 1


def _orientation(image: Image.Image) -> int:
    orientation: object = None
    with contextlib.suppress(Exception):  # EXIF data that cannot be read tell nothing; PIL has many errors for that
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """The pixels of a JPEG; None where PIL has to decide: no JPEG, CMYK (converted differently), or damaged."""
    if simplejpeg is None or data[:3] != _JPEG:
        return None
    try:
        if _shape_of_jpeg(data, None, max_pixels):
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    except (ValueError, MemoryError):  # PIL says what is wrong
        pass
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")  # PIL would cut all values off at 255
    # A palette with transparency is defined for RGBA alone; PIL warns when it goes to RGB in one step.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> np.ndarray:
    """Grey values of more than 8 bits, uint8 (H, W): black and white are the ends of their range."""
    low, high = _range_of_grey(image)
    stored = np.array(image)
    pixels = np.empty(stored.shape, np.uint8)
    for top in range(0, len(stored), _ROWS):  # as float64 the whole would take eight times as much
        values = stored[top : top + _ROWS].astype(np.float64)
        if not np.isfinite(values).all():
            raise BadImage("it has grey values that are no finite numbers; save it with 8 or 16 bits a pixel")
        pixels[top : top + _ROWS] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
    return pixels


def _range_of_grey(image: Image.Image) -> tuple[float, float]:
    """The values of black and white: those that a TIFF states, or of a file of 9 to 16 bits the smallest and largest.

    Numbers of 32 bits, and negative ones, fill their range in hardly any file: without a statement they are refused.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 BitsPerSample, 262 PhotometricInterpretation, ...
    low, high = (_number(tags.get(new, tags.get(old))) for new, old in ((340, 280), (341, 281)))  # Min, MaxSampleValue
    of_16_bits = image.mode.startswith("I;16") and image.format != "FITS"  # whose numbers have a sign
    if high is None and (of_16_bits or image.format in ("PNG", "PPM")) and image.mode != "F":
        high = 2.0 ** (_number(tags.get(258)) or 16) - 1  # PIL brings a PGM's values to 16 bits
    low = low or 0.0
    if high is None or high <= low:
        what = "floating-point numbers" if image.mode == "F" else "whole numbers of 32 bits or with a sign"
        raise BadImage(
            f"its grey values are {what} (mode {image.mode}), and no range of them is stated; save it with 8 or 16 "
            "bits a pixel"
        )
    return (high, low) if tags.get(262) == 0 else (low, high)  # 0: WhiteIsZero


def _number(value: Any) -> float | None:
    """The number in a tag, which may be a tuple of one; None where there is none."""
    value = value[0] if isinstance(value, tuple) and value else value
    return float(value) if isinstance(value, numbers.Real) else None


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """Endings, in lower case, of the files that are taken for images: of all formats that PIL decodes by itself."""
    Image.init()
    read = {*Image.OPEN, "MPO"} - NOT_DECODED  # PIL opens MPO, the pictures of double cameras, as JPEG
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in read))
