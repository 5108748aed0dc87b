"""The geometry of `anysize.data.augment.joint`: which part of an image and its mask is taken, and how.

It goes through torchvision's tv_tensors: `transforms.v2.functional` interpolates an image and takes the nearest pixel
of a mask. A mask is read with NEAREST_EXACT, which is PIL's nearest: torchvision's plain NEAREST, which its
`resized_crop` takes for masks, moves them against their images by up to half a pixel.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anysize.data.source import VOID
from anysize.preprocessing import Preprocessing

_REACH = 3  # pixels on each side that an interpolation may look at (Lanczos), at the coarser of the two scales
_ALIGNED = 1 / 32  # of a pixel of the resized image


def mean_colour(preprocessing: Preprocessing) -> list[int]:
    """The mean as uint8 levels, one a channel: what images are padded with.

    >>> mean_colour(Preprocessing(224))
    [124, 116, 104]
    """
    return [round(255 * value) for value in preprocessing.mean]


def eval_size(
    height: int, width: int, size: int, preprocessing: Preprocessing, sides: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Height and width of an image in evaluation at `size` pixels, without padding.

    Where it is stretched it gets these `sides`, by default those of a square.

    >>> eval_size(375, 500, 1026, Preprocessing(513, resize="stretch"))
    (1026, 1026)
    """
    if preprocessing.resize == "stretch":
        return sides or (size, size)
    return scaled_size(height, width, size / preprocessing.own_size)


def canvas_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of the canvas that an image of this height and width stands on in evaluation at `size` pixels.

    >>> canvas_size(375, 600, 513)
    (513, 600)
    """
    return max(height, size), max(width, size)


def resize_into_frame(
    picture: Tensor, resized: tuple[int, int], frame: tuple[int, int, int, int], preprocessing: Preprocessing,
    interpolation: str = "",
) -> Tensor:  # fmt: skip
    """Resize a tv_tensor (C, H, W) to `resized` (height, width) and take the `frame` (top, left, height, width) of it.

    A frame may reach beyond the picture: there lies the mean colour, or 255 in a mask. Only the part that the frame
    shows is resized. It is within 1/32 of a pixel of where it would lie in the whole picture resized. `interpolation`
    of images is that of `preprocessing` where it is empty.

    >>> resize_into_frame(tv_tensors.Mask([[[1, 2]]]), (2, 4), (0, 2, 2, 3), Preprocessing(2)).tolist()
    [[[2, 2, 255], [2, 2, 255]]]
    """
    mode = _mode(picture, interpolation or preprocessing.interpolation)
    rows = _span(picture.shape[-2], resized[0], frame[0], frame[2])
    columns = _span(picture.shape[-1], resized[1], frame[1], frame[3])
    picture = F.crop(picture, rows.source, columns.source, rows.source_length, columns.source_length)
    picture = F.resize(picture, [rows.length, columns.length], mode, antialias=True)
    picture = F.crop(picture, rows.start, columns.start, rows.shown, columns.shown)
    if rows.shown < frame[2] or columns.shown < frame[3]:
        fill = VOID if isinstance(picture, tv_tensors.Mask) else mean_colour(preprocessing)
        picture = F.pad(picture, [columns.before, rows.before, columns.after, rows.after], fill)
    return picture


def resized_crop(
    picture: Tensor, top: int, left: int, height: int, width: int, sides: tuple[int, int],
    preprocessing: Preprocessing,
) -> Tensor:  # fmt: skip
    """A part of a tv_tensor (C, H, W) resized to `sides` (height, width)."""
    part = F.crop(picture, top, left, height, width)
    resized: Tensor = F.resize(part, list(sides), _mode(picture, preprocessing.interpolation), antialias=True)
    return resized


def _mode(picture: Tensor, interpolation: str) -> InterpolationMode:
    is_mask = isinstance(picture, tv_tensors.Mask)
    return InterpolationMode.NEAREST_EXACT if is_mask else InterpolationMode(interpolation)


class _Span(NamedTuple):
    """One dimension of `resize_into_frame`, in pixels.

    `source_length` pixels from `source` on are resized to `length`; of these `shown` are taken from `start` on, and
    `before` and `after` are padded.
    """

    source: int
    source_length: int
    length: int
    start: int
    shown: int
    before: int
    after: int


def _span(source: int, resized: int, start: int, length: int) -> _Span:
    """The part of `source` pixels that has to be resized where `length` of `resized` pixels are shown from `start` on.

    It begins and ends with whole pixels that lie on whole pixels of the resized picture, up to 1/32 of one, so that
    the grid is that of the whole. The first and the last edge of the picture always do.
    """
    first, last = max(start, 0), min(start + length, resized)  # what is shown
    edges = np.arange(source + 1) * (resized / source)
    places = np.rint(edges)
    aligned = np.flatnonzero(np.abs(edges - places) <= _ALIGNED)
    reach = _REACH * max(1.0, resized / source)
    low = aligned[max(0, int(np.searchsorted(edges[aligned], first - reach, side="right")) - 1)]
    high = aligned[min(len(aligned) - 1, int(np.searchsorted(edges[aligned], last + reach)))]
    place = int(places[low])
    return _Span(
        source=int(low),
        source_length=int(high - low),
        length=int(places[high]) - place,
        start=first - place,
        shown=last - first,
        before=first - start,
        after=start + length - last,
    )


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width times `scale`, rounded, at least 1."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def middle(length: int, size: int) -> int:
    """The first of the middle `size` of `length` pixels; negative where there are fewer, which are padded."""
    return (length - size) // 2 if length >= size else -((size - length) // 2)


def random_start(length: int, size: int, draw: float) -> int:
    """The first pixel of a random crop of `size` out of `length` pixels, which are padded alike on both sides.

    Where the pixels that are missing do not halve, one more is padded.
    """
    padding = max(0, math.ceil((size - length) / 2))
    return int(draw * (length + 2 * padding - size + 1)) - padding
