"""Images that are not square: the shape that an aspect ratio has at a size, and images grouped by theirs.

A size stays one number, the side in pixels of the square of equal area: budgets, shares and costs keep their meaning.
An aspect ratio makes it a height and a width.

>>> Aspect(4 / 3, multiple=8).sides(224), Aspect(3 / 4, multiple=8).sides(224), Aspect().sides(224)
((192, 256), (256, 192), (224, 224))
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anysize.registry import UserError

Extent = int | tuple[int, int]
"""The pixels of an image: the side of a square, or the height and width of one that is none."""

MOST_RATIOS = 16
"""Groups of images: each has batches of its own."""
NARROWEST = 4.0
"""The longer side of an image at its own shape over the shorter one, at most: beyond it the image is squeezed."""


def sides_of(extent: Extent) -> tuple[int, int]:
    """Height and width.

    >>> sides_of(224), sides_of((192, 256))
    ((224, 224), (192, 256))
    """
    return (extent, extent) if isinstance(extent, int) else extent


def pixels_of(extent: Extent) -> int:
    """Pixels of one image.

    >>> pixels_of(10), pixels_of((5, 7))
    (100, 35)
    """
    height, width = sides_of(extent)
    return height * width


def extent_of(height: int, width: int) -> Extent:
    """A square as its side, any other shape as height and width."""
    return height if height == width else (height, width)


def in_pixels(extent: Extent, unit: str = "px") -> str:
    """An extent in words.

    >>> in_pixels(224), in_pixels((192, 256))
    ('224 px', '192 x 256 px')
    """
    return f"{extent} {unit}" if isinstance(extent, int) else f"{extent[0]} x {extent[1]} {unit}"


def parse_shape(text: str) -> tuple[int, int]:
    """Height and width of `HEIGHTxWIDTH`.

    >>> parse_shape("192x256")
    (192, 256)

    Raises:
        UserError: it is something else, or a side is 0.
    """
    match = re.fullmatch(r"\s*0*([1-9]\d{0,5})\s*x\s*0*([1-9]\d{0,5})\s*", text.lower())
    if not match:
        raise UserError(f"received the shape {text!r}; expected HEIGHTxWIDTH in pixels, such as 192x256")
    return int(match[1]), int(match[2])


class Aspect(NamedTuple):
    """An aspect ratio, width over height, and what sides are multiples of; 1 is a square, of any side."""

    ratio: float = 1.0
    multiple: int = 1

    @classmethod
    def of(cls, height: int, width: int, multiple: int) -> "Aspect":
        """That of an image. One that is longer than four times its other side counts as four times as long.

        >>> Aspect.of(300, 400, 8).sides(224), Aspect.of(10, 4000, 8).sides(224), Aspect.of(7, 7, 8) == SQUARE
        ((192, 256), (112, 448), True)
        """
        ratio = min(max(width / height, 1 / NARROWEST), NARROWEST)
        return cls(ratio, multiple) if ratio != 1 else SQUARE

    @classmethod
    def from_shape(cls, height: int, width: int, multiple: int) -> tuple["Aspect", int]:
        """The aspect ratio and the size of a shape, which they give back.

        >>> Aspect.from_shape(192, 256, 8)
        (Aspect(ratio=1.3333333333333333, multiple=8), 222)

        Raises:
            UserError: a side is no multiple or too small, or the longer one more than 16 times the shorter.
        """
        if height % multiple or width % multiple:
            raise UserError(
                f"the shape {height}x{width} has a side that is no multiple of {multiple} px (sizes.multiple); "
                f"expected such as {_nearest(height, multiple)}x{_nearest(width, multiple)}"
            )
        if max(height, width) > MOST_RATIOS * min(height, width):
            raise UserError(f"the shape {height}x{width} is longer than {MOST_RATIOS} times its other side")
        aspect = cls(width / height, multiple) if height != width else SQUARE
        size = round(math.sqrt(height * width))
        if aspect.sides(size) != (height, width):  # there are several that are as near
            raise UserError(f"the shape {height}x{width} is too small; expected sides of at least 8 px")
        return aspect, size

    def sides(self, size: int) -> tuple[int, int]:
        """Height and width (pixels): of the multiples those that come nearest to the ratio, and to `size` x `size`."""
        return _sides(size, self.ratio, self.multiple)

    def extent(self, size: int) -> Extent:
        """The same, a square as its side."""
        return extent_of(*self.sides(size))


SQUARE = Aspect()


def _nearest(side: int, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


@functools.lru_cache(maxsize=2**16)
def _sides(size: int, ratio: float, multiple: int) -> tuple[int, int]:
    if ratio == 1:
        return size, size
    root = math.sqrt(ratio)

    def around(side: float) -> list[int]:
        low = int(side / multiple)
        return [times * multiple for times in range(max(1, low - 1), low + 3)]

    def off(shape: tuple[int, int]) -> float:  # by products alone, which are the same on every machine
        area, own = shape[0] * shape[1] / size**2, shape[1] / shape[0] / ratio
        return max(area, 1 / area) * max(own, 1 / own) ** 2

    return min(((high, wide) for high in around(size / root) for wide in around(size * root)), key=off)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes of a run: a few aspect ratios, and to which of them each image belongs.

    Args:
        ratios: width over height, each another one; 1 is a square.
        multiple: sides are multiples of so many pixels, those of squares aside.
        groups: a byte an image, the number of its ratio; empty: all images have the first, the only one.

    Raises:
        UserError: no ratio, too many, one that is out of range or given twice, or no multiple.

    >>> Shapes.grouped([(300, 400), (400, 300), (10, 11)], ratios=(0.75, 1.0, 4 / 3)).groups
    b'\\x02\\x00\\x01'
    """

    ratios: tuple[float, ...]
    multiple: int = 8
    groups: bytes = b""

    def __post_init__(self) -> None:
        if not 0 < len(self.ratios) <= MOST_RATIOS or len(set(self.ratios)) < len(self.ratios):
            raise UserError(
                f"received {len(self.ratios)} aspect ratios {list(self.ratios)}; expected from 1 to {MOST_RATIOS}, "
                "each another one"
            )
        for ratio in self.ratios:
            if not 1 / MOST_RATIOS <= ratio <= MOST_RATIOS:
                raise UserError(
                    f"an aspect ratio is {ratio:g}; expected width over height, from 1/{MOST_RATIOS} to {MOST_RATIOS}"
                )
        if self.multiple < 1:
            raise UserError(f"sides are to be multiples of {self.multiple} px; expected at least 1")
        if len(self.ratios) > 1 and not self.groups:
            raise UserError(
                f"there are {len(self.ratios)} aspect ratios, and nothing tells which image has which; expected a "
                "group for each image"
            )

    @classmethod
    def grouped(
        cls, shapes: Sequence[tuple[int, int]] | np.ndarray, ratios: Sequence[float], multiple: int = 8
    ) -> "Shapes":
        """Each image in the group of the ratio that its own is nearest to, as a factor.

        Args:
            shapes: height and width of each image, (N, 2).
            ratios, multiple: as of the class.
        """
        each = np.asarray(shapes, np.float64).reshape(-1, 2)
        own = np.log(each[:, 1] / each[:, 0])
        groups = np.abs(own[:, None] - np.log(np.asarray(ratios, np.float64))).argmin(1).astype(np.uint8)
        return cls(tuple(float(ratio) for ratio in ratios), multiple, groups.tobytes())

    def of_all(self, length: int) -> np.ndarray:
        """The group of each of `length` images, uint8. Raises a `UserError` where they are of other images."""
        if not self.groups:
            return np.zeros(length, np.uint8)
        if len(self.groups) != length:
            raise UserError(f"{len(self.groups)} images have an aspect ratio, and there are {length}; expected as many")
        return np.frombuffer(self.groups, np.uint8)

    def aspect(self, group: int) -> Aspect:
        """The aspect of a group.

        >>> Shapes((2.0,)).aspect(0)
        Aspect(ratio=2.0, multiple=8)
        """
        ratio = self.ratios[group]
        return Aspect(ratio, self.multiple) if ratio != 1 else SQUARE

    def joined(self, counts: Sequence[int], fewest: int) -> list[int]:
        """For each group the one that its images are trained with: groups of fewer images join their neighbours.

        >>> Shapes((0.75, 1.0, 1.333), groups=b"\\0").joined([5, 100, 50], fewest=10)
        [1, 1, 2]
        """
        now, held = list(range(len(self.ratios))), dict(enumerate(counts))
        held = {group: count for group, count in held.items() if count}
        while len(held) > 1 and min(held.values()) < fewest:
            small = min(held, key=lambda group: held[group])
            others = [group for group in held if group != small]
            near = min(others, key=lambda group: self._apart(group, small))
            held[near] += held.pop(small)
            now = [near if group == small else group for group in now]
        return now

    def _apart(self, group: int, other: int) -> float:
        return max(self.ratios[group] / self.ratios[other], self.ratios[other] / self.ratios[group])
