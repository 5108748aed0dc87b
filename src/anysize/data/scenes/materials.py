"""The parts of scenes: random integers, exact resampling, cut-out garments, colours and grounds.

All arithmetic is on integers, or on integers held in floats too small to be rounded, so that a scene has the same
pixels on every machine and with every version of numpy.
"""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anysize.data.dataset import Split
from anysize.data.formats.embedded import read_embedded
from anysize.data.random import random_bits

Bytes = npt.NDArray[np.uint8]

CANVAS = 128  # pixels, the side of a scene
_KEY = 0x5CE9E5  # keeps scenes' numbers apart from those of training
_SPLITS = {"train": 0, "validation": 1}
_DRAWS = 256  # numbers a scene, more than one needs
_HOLLOW = (5, 8)  # labels of sandals and bags, which have straps and handles
_NOISE = 64 * 64 + 8 * 8  # bytes a scene, as many as one may need


class Draws:
    """Random integers of one scene: a pure function of (split, index) and of how many were drawn before.

    >>> draws = Draws("train", 0)
    >>> [draws.below(6) for _ in range(8)]
    [2, 1, 4, 0, 1, 4, 5, 3]
    """

    def __init__(self, split: Split, index: int) -> None:
        bits = random_bits(_KEY, _SPLITS[split], index, np.arange(_DRAWS + _NOISE // 8), 0)
        self._numbers = iter((bits[:_DRAWS] >> np.uint64(32)).tolist())
        self._noise = bits[_DRAWS:].astype("<u8").view(np.uint8)

    def below(self, end: int) -> int:
        """An integer in [0, end)."""
        return int(next(self._numbers) * end >> 32)

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)

    def noise(self, side: int) -> Bytes:
        """Independent bytes (side, side)."""
        taken, self._noise = self._noise[: side * side], self._noise[side * side :]
        return taken.reshape(side, side)


@functools.cache
def resampling_weights(size: int, new_size: int) -> npt.NDArray[np.float32]:
    """Weights (new_size, size) of linear interpolation, averaging where it shrinks: integers, of sum 256 a row.

    >>> resampling_weights(2, 4)
    array([[256.,   0.],
           [192.,  64.],
           [ 64., 192.],
           [  0., 256.]], dtype=float32)
    """
    # Distances of the pixels' centres, in units of 1 / (2 new_size) of an old pixel.
    old, new = np.arange(size), np.arange(new_size)[:, None]
    distance = np.abs((2 * old + 1) * new_size - (2 * new + 1) * size)
    triangle = np.maximum(2 * max(size, new_size) - distance, 0)
    total = np.cumsum(triangle, axis=1)
    weights: npt.NDArray[np.float32] = np.diff(256 * total // total[:, -1:], axis=1, prepend=0).astype(np.float32)
    return weights


def resample(image: Bytes, height: int, width: int) -> Bytes:
    """Resize (..., H, W) to (..., height, width).

    All products and sums are integers below 2**24, which float32 holds exactly: whatever order a BLAS adds them in,
    the result is the same.

    >>> resample(np.array([[0, 255]], np.uint8), 1, 4)
    array([[  0,  64, 191, 255]], dtype=uint8)
    """
    vertical = resampling_weights(image.shape[-2], height)
    horizontal = resampling_weights(image.shape[-1], width)
    return ((vertical @ (image.astype(np.float32) @ horizontal.T)).astype(np.uint32) + 0x8000 >> 16).astype(np.uint8)


class Garments(NamedTuple):
    """The embedded garments of a split: class (N,), and grey and opacity (N, 2, 28, 28)."""

    labels: npt.NDArray[np.int64]
    layers: Bytes


@functools.cache
def load_garments(split: Split) -> Garments:
    """The embedded garments without their black background; grey is 0 where they are transparent."""
    grey, labels = read_embedded(split)
    opaque = cut_out(grey, np.isin(labels, _HOLLOW))
    return Garments(labels.astype(np.int64), np.stack([grey * opaque, np.uint8(255) * opaque], axis=1))


_FAINT = 10  # grey values up to this are no part of a garment, unless enclosed by one


def cut_out(grey: Bytes, hollow: npt.NDArray[np.bool_]) -> Bytes:
    """Masks (N, H, W), 1 where the garment is, of grey images on black (N, H, W) that are at most 62 pixels wide.

    Dark parts that a garment encloses are prints or shadows and belong to it. `hollow` (N,) garments have straps or
    handles: of them, dark parts of at least 3 x 3 pixels do not belong to the garment.

    >>> ring = np.pad(np.zeros((1, 3, 3), np.uint8), ((0, 0), (1, 1), (1, 1)), constant_values=200)
    >>> [int(cut_out(ring, np.array([hollow])).sum()) for hollow in (False, True)]
    [25, 16]
    """
    # A row of pixels is the bits of one integer, with an empty bit at either end: whole rows are shifted at once.
    width = grey.shape[2]
    places = np.uint64(1) << np.arange(1, width + 1, dtype=np.uint64)
    inside = np.uint64((1 << width + 1) - 2)
    bright = ((grey > _FAINT) * places).sum(axis=2, dtype=np.uint64)
    once = twice = np.zeros_like(bright)
    for neighbour in _neighbours(bright, diagonal=True):
        once, twice = once | neighbour, twice | (once & neighbour)
    bright &= twice  # pixels with fewer than two neighbours are noise
    dark = ~bright & inside
    rim = np.full_like(bright, places[0] | places[-1])
    rim[:, [0, -1]] = inside
    holes = dark & ~_spread(dark & rim, dark)
    wide = holes & np.bitwise_and.reduce(_neighbours(holes, diagonal=True))
    solid = bright | (holes & ~np.where(hollow[:, None], _spread(wide, holes), np.uint64(0)))
    return np.asarray((solid[:, :, None] & places) != 0, np.uint8)


def _neighbours(rows: npt.NDArray[np.uint64], diagonal: bool = False) -> list[npt.NDArray[np.uint64]]:
    """The bits beside each bit: left and right, above and below, and the four diagonal ones."""
    one = np.uint64(1)
    none = np.zeros_like(rows[:, :1])
    vertical = [np.hstack([none, rows[:, :-1]]), np.hstack([rows[:, 1:], none])]
    sideways = [*vertical, rows] if diagonal else [rows]
    return vertical + [row << one for row in sideways] + [row >> one for row in sideways]


def _spread(seeds: npt.NDArray[np.uint64], allowed: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """All allowed pixels that can be reached from the seeds, by sides."""
    while True:
        grown = seeds | allowed & np.bitwise_or.reduce(_neighbours(seeds))
        if np.array_equal(grown, seeds):
            return seeds
        seeds = grown


def random_colour(draws: Draws, darkest: int, lightest: int) -> npt.NDArray[np.uint16]:
    """Red, green and blue (3,): any hue, pale or full; the largest of the three is from `darkest` to `lightest`."""
    largest = draws.between(darkest, lightest)
    smallest = draws.below(largest + 1)
    middle = draws.between(smallest, largest)
    order = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[draws.below(6)]
    return np.array([(largest, middle, smallest)[place] for place in order], np.uint16)


def divide_by_255(values: npt.NDArray[np.uint16]) -> Bytes:
    """Rounded, uint8; exact for values up to 255 * 255.

    >>> divide_by_255(np.array([0, 127, 128, 255 * 255], np.uint16))
    array([  0,   0,   1, 255], dtype=uint8)
    """
    values = values + np.uint16(128)
    return (values + (values >> 8) >> 8).astype(np.uint8)


def blend(start: npt.NDArray[np.uint16], end: npt.NDArray[np.uint16], share: Bytes | np.uint8) -> Bytes:
    """From `start` where `share` is 0 to `end` where it is 255; all are broadcast against one another."""
    return divide_by_255(start * (255 - share.astype(np.uint16)) + end * share.astype(np.uint16))


_ROWS, _COLUMNS = np.mgrid[:CANVAS, :CANVAS].astype(np.int32)


def textured_ground(draws: Draws) -> Bytes:
    """A ground (3, 128, 128) from one colour into another: noise, a gradient, stripes or checks, with finer noise."""
    coarse_cells, fine_cells = draws.between(2, 8), draws.between(12, 64)
    coarse = resample(draws.noise(coarse_cells), CANVAS, CANVAS)
    fine = resample(draws.noise(fine_cells), CANVAS, CANVAS)
    warp = coarse.astype(np.int32) * draws.below(4)
    kind = draws.below(5)
    if kind == 0:
        pattern = coarse
    elif kind == 1:  # a gradient, bent by the noise
        pattern = _wave(draws, 3, warp)
    elif kind == 2:  # soft stripes
        pattern = _wave(draws, 48, warp)
    elif kind == 3:  # stripes with edges
        pattern = _sharpen(_wave(draws, 48, warp))
    else:  # checks
        pattern = _sharpen(_wave(draws, 28, warp)) ^ _sharpen(_wave(draws, 28, warp))
    field = blend(pattern.astype(np.uint16), fine.astype(np.uint16), np.uint8(draws.below(160)))
    start, end = random_colour(draws, 40, 140), random_colour(draws, 40, 140)  # dimmer than garments, as a rule
    end = blend(start, end, np.uint8(draws.between(48, 208))).astype(np.uint16)
    palette = blend(start[:, None], end[:, None], np.arange(256, dtype=np.uint8))
    return np.stack([channel.take(field) for channel in palette])


def _wave(draws: Draws, steepest: int, warp: npt.NDArray[np.int32]) -> Bytes:
    """A triangle wave of 0 to 255 in any direction; 512 / `steepest` pixels is the shortest period along an axis."""
    right, down = draws.between(-steepest, steepest), draws.between(-steepest, steepest)
    phase = (_COLUMNS * right + _ROWS * down + warp + draws.below(512)) & 511
    return np.asarray(np.minimum(phase, 511 - phase), np.uint8)


def _sharpen(wave: Bytes) -> Bytes:
    """Two halves, 0 and 255, with narrow steps between them."""
    return np.asarray((np.clip(wave, 96, 159) - np.uint8(96)) // 21 * np.uint8(85), np.uint8)
