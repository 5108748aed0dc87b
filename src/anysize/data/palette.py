"""Masks as pictures: PASCAL VOC's colours, others that are told apart, palette PNGs, overlays and legends."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from anysize.data.source import VOID

BACKGROUND = "background"
"""The name of a first class that is none, and has no colour."""

_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


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


@functools.cache
def distinct_colors() -> np.ndarray:
    """Colours for people to tell classes apart, uint8 (256, 3): black for 0, white for void, 255.

    VOC's neighbours, such as its classes 1 and 9, differ little. Here the first seven are those of Okabe and Ito, which
    the colour-blind tell apart; each further one is as far as can be from all before it, in the colour space OKLab (B.
    Ottosson, 2020), whose distances are those that people see.

    >>> distinct_colors()[:3].tolist()
    [[0, 0, 0], [230, 159, 0], [86, 180, 233]]
    """
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(grid)
    grid, lab = (each[(lab[:, 0] > 0.3) & (lab[:, 0] < 0.95)] for each in (grid, lab))  # neither near black nor white
    colors = [(0, 0, 0), *_OKABE_ITO]
    near = np.min([np.linalg.norm(lab - _oklab(np.array(color)), axis=1) for color in colors], axis=0)
    while len(colors) < VOID:
        farthest = int(near.argmax())
        colors.append(tuple(grid[farthest].tolist()))
        near = np.minimum(near, np.linalg.norm(lab - lab[farthest], axis=1))
    found = np.array([*colors, (255, 255, 255)], dtype=np.uint8)
    found.setflags(write=False)
    return found


def _oklab(colors: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) from 0 to 255 as lightness and two colour axes (..., 3)."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ np.array(_TO_CONES).T)
    return np.asarray(cones @ np.array(_TO_LAB).T)


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


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6, colors: np.ndarray | None = None) -> np.ndarray:
    """An image, uint8 (H, W, 3), with its mask over it; pixels of background and void stay as they are.

    `colors` (256, 3) are by default VOC's.

    >>> grey = np.full((1, 2, 3), 100, dtype=np.uint8)
    >>> overlay(grey, np.array([[0, 1]], dtype=np.uint8), opacity=0.5).tolist()
    [[[100, 100, 100], [114, 50, 50]]]
    """
    assert image.shape[:2] == mask.shape
    painted = opacity * (voc_colors() if colors is None else colors)[mask] + (1 - opacity) * image
    seen = (mask != 0) & (mask != VOID)
    return np.where(seen[..., None], np.rint(painted), image).astype(np.uint8)


def legend(classes: Sequence[str], present: Iterable[int]) -> dict[str, tuple[int, int, int]]:
    """Colours by name of the class numbers `present`, in their order; 255 is called void.

    >>> legend(["background", "cat"], [0, 1, 255])
    {'background': (0, 0, 0), 'cat': (128, 0, 0), 'void': (224, 224, 192)}
    """
    colors = voc_colors().tolist()
    return {"void" if number == VOID else classes[number]: tuple(colors[number]) for number in present}


def painted(image: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """An image, uint8 (H, W, 3), under the colours of its mask, uint8 (H, W); background and void stay as they are.

    The edges of each area have its colour alone, so that it is found in a legend.
    """
    if classes[0] != BACKGROUND:  # a class like others: colours begin with it
        mask = np.where(mask == VOID, np.uint8(0), mask + np.uint8(1))
    around = np.pad(mask, 1, mode="edge")
    inside = np.ones(mask.shape, dtype=bool)
    for top, left in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= around[top : top + mask.shape[0], left : left + mask.shape[1]] == mask
    colors = distinct_colors()
    return np.where(inside[..., None], overlay(image, mask, 0.55, colors), overlay(image, mask, 1.0, colors))


def legend_of(classes: Sequence[str], present: Iterable[int]) -> dict[str, tuple[int, int, int]]:
    """The colours of `painted` by the names of the classes with these numbers; background and void have none.

    >>> legend_of(["background", "cat", "dog"], [0, 1, 255])
    {'cat': (230, 159, 0)}
    """
    start = classes[0] == BACKGROUND
    colors = distinct_colors()
    return {
        classes[number]: (int(red), int(green), int(blue))
        for number in present
        if number != VOID and not (start and number == 0)
        for red, green, blue in [colors[number if start else number + 1]]
    }
