"""Masks as pictures: PASCAL VOC's colours and such as are told apart, palette PNGs, overlays and legends."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from anysize.data.formats.file_lists import BACKGROUND
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


# Linear RGB as the red-blind and the green-blind see it (Machado et al. 2009), and from linear RGB to Oklab (Ottosson).
_RED_BLIND = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_GREEN_BLIND = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881))
_TO_CONES = ((0.412221, 0.536333, 0.051446), (0.211903, 0.6807, 0.107397), (0.088302, 0.281719, 0.629979))
_TO_OKLAB = ((0.210454, 0.793618, -0.004072), (1.977998, -2.428592, 0.450594), (0.025904, 0.782772, -0.808676))

_DARK = 0.38  # lightness in Oklab: what is darker would be taken for background


@functools.cache
def distinct_colors() -> np.ndarray:
    """Colours for a figure with a legend, uint8 (256, 3): black for background, cream for void, as VOC's.

    VOC's own differ by a shade where class numbers differ by one or two. Here each class has the colour that is
    farthest from those of all classes before it, on average over eyes that see as most, without red, and without green.

    >>> distinct_colors()[[0, 255]].tolist()
    [[0, 0, 0], [224, 224, 192]]
    """
    levels = np.linspace(0, 255, 9).round()
    many = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    many = many[_as_seen(many)[0, :, 0] > _DARK]
    seen = _as_seen(many)
    taken = [np.zeros(3), np.array([224.0, 224.0, 192.0])]
    distance = np.full(len(many), np.inf)
    for place in range(255):
        distance = np.minimum(distance, np.linalg.norm(seen - _as_seen(taken[place][None]), axis=-1).mean(0))
        if place:
            taken.append(many[distance.argmax()])
    background, void, *others = taken
    colors = np.array([background, *others, void]).astype(np.uint8)
    colors.setflags(write=False)
    return colors


def _as_seen(colors: np.ndarray) -> np.ndarray:
    """RGB from 0 to 255 (N, 3) in Oklab, in which distances are as large as they look, for three kinds of eyes."""
    linear = np.where(colors <= 10.3, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, linear @ np.transpose(_RED_BLIND), linear @ np.transpose(_GREEN_BLIND)]).clip(0)
    seen: np.ndarray = np.cbrt(eyes @ np.transpose(_TO_CONES)) @ np.transpose(_TO_OKLAB)
    return seen


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


def colorize(mask: np.ndarray, colors: np.ndarray | None = None) -> np.ndarray:
    """A mask, uint8 (H, W), in VOC's colours or in others, uint8 (256, 3): uint8 (H, W, 3).

    >>> colorize(np.array([[0, 2]], dtype=np.uint8)).tolist()
    [[[0, 0, 0], [0, 128, 0]]]
    """
    painted: np.ndarray = (voc_colors() if colors is None else colors)[mask]
    return painted


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


def legend(
    classes: Sequence[str], present: Iterable[int], colors: np.ndarray | None = None
) -> dict[str, tuple[int, int, int]]:
    """VOC's colours, or others, by name of the class numbers `present`, in their order; 255 is called void.

    >>> legend(["background", "cat"], [0, 1, 255])
    {'background': (0, 0, 0), 'cat': (128, 0, 0), 'void': (224, 224, 192)}
    """
    rows = (voc_colors() if colors is None else colors).tolist()
    return {"void" if number == VOID else classes[number]: tuple(rows[number]) for number in present}


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
    {'cat': (0, 32, 223)}
    """
    start = classes[0] == BACKGROUND
    colors = distinct_colors()
    return {
        classes[number]: (int(red), int(green), int(blue))
        for number in present
        if number != VOID and not (start and number == 0)
        for red, green, blue in [colors[number if start else number + 1]]
    }
