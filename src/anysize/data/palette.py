"""Masks as pictures: PASCAL VOC's colours, palette PNGs, overlays and legends."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from anysize.data.source import VOID
from anysize.registry import UserError


@functools.cache
def voc_colors() -> np.ndarray:
    """The colours of PASCAL VOC's masks, uint8 (256, 3): black for background, cream (224, 224, 192) for void, 255.

    Bits 0, 1 and 2 of a class number are the highest bits of its red, green and blue, bits 3, 4 and 5 the next, and so
    on: that is how VOC's development kit makes its colour map.

    >>> voc_colors()[[1, 15]].tolist()
    [[128, 0, 0], [192, 128, 128]]
    """
    numbers = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(3):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    colors.setflags(write=False)
    return colors


def palette_image(mask: np.ndarray) -> Image.Image:
    """A mask, uint8 (H, W), as a picture of mode P whose values are the class numbers, in VOC's colours.

    Saved as PNG it is what VOC's evaluation server takes, and what VOC's own masks are.

    >>> picture = palette_image(np.array([[0, 1], [255, 2]], dtype=np.uint8))
    >>> picture.mode, picture.getpixel((0, 1)), picture.convert("RGB").getpixel((1, 0))
    ('P', 255, (128, 0, 0))
    """
    picture = Image.fromarray(_checked(mask))
    picture.putpalette(voc_colors().tobytes())
    return picture


def colorize(mask: np.ndarray) -> np.ndarray:
    """A mask, uint8 (H, W), in VOC's colours: uint8 (H, W, 3).

    >>> colorize(np.array([[0, 2]], dtype=np.uint8)).tolist()
    [[[0, 0, 0], [0, 128, 0]]]
    """
    colors: np.ndarray = voc_colors()[_checked(mask)]
    return colors


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """An image, uint8 (H, W, 3), with its mask over it; pixels of background and void stay as they are.

    Raises:
        UserError: an image and a mask of different sizes, or an opacity out of 0 to 1.

    >>> grey = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay(grey, np.array([[0, 1]], dtype=np.uint8), opacity=0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    if image.shape[:2] != mask.shape:
        size, other = ("{} x {}".format(*shape[:2]) for shape in (image.shape, mask.shape))
        raise UserError(f"the image has {size} pixels and its mask {other}; expected the same")
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity is {opacity}; expected 0 (the image alone) to 1 (the mask alone)")
    painted = opacity * colorize(mask) + (1 - opacity) * image
    seen = (mask != 0) & (mask != VOID)
    return np.where(seen[..., None], np.rint(painted), image).astype(np.uint8)


def legend(classes: Sequence[str], present: Iterable[int]) -> dict[str, tuple[int, int, int]]:
    """Colours by name of the class numbers `present`, in their order; 255 is called void.

    >>> legend(["background", "cat"], [0, 1, 255])
    {'background': (0, 0, 0), 'cat': (128, 0, 0), 'void': (224, 224, 192)}
    """
    colors = voc_colors().tolist()
    return {"void" if number == VOID else classes[number]: tuple(colors[number]) for number in present}


def _checked(mask: np.ndarray) -> np.ndarray:
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise UserError(f"the mask is {mask.dtype} of shape {mask.shape}; expected class numbers, uint8 (H, W)")
    return np.ascontiguousarray(mask)


__all__ = ["colorize", "legend", "overlay", "palette_image", "voc_colors"]
