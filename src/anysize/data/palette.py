"""Masks as pictures: PASCAL VOC's colours, palette PNGs, overlays and legends."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from anysize.data.source import VOID


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
    assert mask.dtype == np.uint8
    picture = Image.fromarray(np.ascontiguousarray(mask))
    picture.putpalette(voc_colors().tobytes())
    return picture


def colorize(mask: np.ndarray) -> np.ndarray:
    """A mask, uint8 (H, W), in VOC's colours: uint8 (H, W, 3).

    >>> colorize(np.array([[0, 2]], dtype=np.uint8)).tolist()
    [[[0, 0, 0], [0, 128, 0]]]
    """
    colors: np.ndarray = voc_colors()[mask]
    return colors


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """An image, uint8 (H, W, 3), with its mask over it; pixels of background and void stay as they are.

    >>> grey = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay(grey, np.array([[0, 1]], dtype=np.uint8), opacity=0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    assert image.shape[:2] == mask.shape
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
