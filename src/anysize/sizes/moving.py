"""Mixtures whose weights move with the epochs: pure functions of progress, and the mixture that follows them.

>>> window = GaussianWindow((14, 21, 28))
>>> [round(window.weights(0.0)[size], 3) for size in (14, 21, 28)]
[0.718, 0.243, 0.039]
>>> [round(window.weights(1.0)[size], 3) for size in (14, 21, 28)]
[0.039, 0.243, 0.718]
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping

from anysize.registry import UserError
from anysize.sizes.mix import SizeMix

MOST_CHANGES = 256
"""How often the weights of a moving mixture change at most, so that a million epochs have few kinds of them."""


@dataclasses.dataclass(frozen=True)
class GaussianWindow:
    """Weights of a bell that moves over a list of sizes, from its first to its last.

    With K sizes at the places 0 to K - 1 the bell's middle is at p (K - 1) after a share p of the way, and

        weight_i = (1 - even) exp(-(i - p (K - 1))^2 / (2 spread^2)) / sum + even / K

    timm's scheduled sizes have such a window; its spread of 0.65 and its even share of 0.1 are the defaults.

    Args:
        sizes: in pixels, in the order in which the window meets them.
        spread: standard deviation of the bell, in steps from one size to the next.
        even: the share of the images that all sizes have alike.

    Raises:
        UserError: fewer than two sizes, one given twice, a spread that is not positive, or a share outside 0 to 1.
    """

    sizes: tuple[int, ...]
    spread: float = 0.65
    even: float = 0.1

    def __post_init__(self) -> None:
        if len(set(self.sizes)) != len(self.sizes) or len(self.sizes) < 2:
            raise UserError(f"a window over the sizes {list(self.sizes)}; expected at least two, each once")
        if not 0 < self.spread < math.inf or not 0 <= self.even <= 1:
            raise UserError(
                f"a window of spread {self.spread:g} with {self.even:g} of the images spread evenly; expected a "
                "spread above 0 and a share from 0 to 1"
            )

    def weights(self, progress: float) -> dict[int, float]:
        """The share of the images of each size after a share `progress` of the way."""
        middle = progress * (len(self.sizes) - 1)
        # Counted from the nearest place, so that a narrow bell between two sizes does not vanish.
        nearest = min(abs(place - middle) for place in range(len(self.sizes)))
        bell = [
            math.exp((nearest**2 - (place - middle) ** 2) / (2 * self.spread**2)) for place in range(len(self.sizes))
        ]
        total, share = sum(bell), self.even / len(self.sizes)
        return {size: (1 - self.even) * height / total + share for size, height in zip(self.sizes, bell, strict=True)}


@dataclasses.dataclass(frozen=True)
class WeightPoints:
    """Weights that are given at points of progress, and lie on straight lines between them.

    The weights of each point are scaled to sum to 1. A size that a point does not name has the weight 0 there; before
    the first point and after the last one weights stay.

    Args:
        points: (progress from 0 to 1, ((size in pixels, weight), ...)) in the order of progress.

    Raises:
        UserError: fewer than two points, progress out of order, or a point without a weight above 0.

    >>> points = WeightPoints.of({0.0: {14: 1.0}, 0.5: {14: 1, 28: 1}, 1.0: {28: 1}})
    >>> points.weights(0.25)
    {14: 0.75, 28: 0.25}
    """

    points: tuple[tuple[float, tuple[tuple[int, float], ...]], ...]

    def __post_init__(self) -> None:
        places = [place for place, _ in self.points]
        if len(places) < 2 or sorted(set(places)) != places or not 0 <= places[0] <= places[-1] <= 1:
            raise UserError(
                f"weights of sizes at the points {places} of progress; expected at least two, from 0 to 1, each later "
                "than the one before"
            )
        for place, weights in self.points:
            if any(not 0 <= weight < math.inf for _, weight in weights) or not any(weight for _, weight in weights):
                raise UserError(
                    f"the weights of sizes at the point {place:g} are {dict(weights)}; expected numbers from 0 on, and "
                    "one above 0"
                )

    @classmethod
    def of(cls, points: Mapping[float, Mapping[int, float]]) -> "WeightPoints":
        """Points as a table: `{progress: {size: weight}}`."""
        return cls(tuple((place, tuple(weights.items())) for place, weights in points.items()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of all points in pixels, in the order in which they are named first."""
        return tuple(dict.fromkeys(size for _, weights in self.points for size, _ in weights))

    def weights(self, progress: float) -> dict[int, float]:
        """The share of the images of each size at `progress`; 0 of those that have none."""
        before = [place for place, _ in self.points if place <= progress]
        if not before or len(before) == len(self.points):
            return self._at(0 if not before else -1)
        number = len(before) - 1
        start, end = before[-1], self.points[number + 1][0]
        done = (progress - start) / (end - start)
        first, second = self._at(number), self._at(number + 1)
        return {size: (1 - done) * first[size] + done * second[size] for size in self.sizes}

    def _at(self, number: int) -> dict[int, float]:
        given = dict(self.points[number][1])
        total = sum(given.values())
        return {size: given.get(size, 0.0) / total for size in self.sizes}


@dataclasses.dataclass(frozen=True)
class MovingMix:
    """A mixture whose weights move over `epochs` epochs, and stay afterwards.

    The first epoch has the weights of the start, the last one those of the end, a single one those of the middle. In
    more than `MOST_CHANGES` epochs the weights change that often only, at even distances.

    Args:
        shares: the weights by progress: a `GaussianWindow`, or `WeightPoints`.
        epochs: over which they move.
        base, budget: as of `SizeMix`.

    >>> mix = MovingMix(GaussianWindow((16, 32), even=0.0), epochs=3, base=32, budget="B+")
    >>> [{size: round(share, 3) for size, share in mix.mix(epoch).weights} for epoch in range(3)]
    [{16: 0.766, 32: 0.234}, {16: 0.5, 32: 0.5}, {16: 0.234, 32: 0.766}]
    """

    shares: GaussianWindow | WeightPoints
    epochs: int
    base: int
    budget: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"sizes whose weights move over {self.epochs} epochs; expected at least 1")

    def mix(self, epoch: int) -> SizeMix:
        """The mixture of `epoch`, counted from the start of the movement."""
        times = min(self.epochs, MOST_CHANGES)
        change = min(epoch * times // self.epochs, times - 1)
        weights = self.shares.weights(change / (times - 1) if times > 1 else 0.5)
        return SizeMix(tuple((size, share) for size, share in weights.items() if share), self.base, self.budget)

    def changes(self) -> list[int]:
        """The epochs from which on the weights are others, 0 among them.

        >>> MovingMix(GaussianWindow((16, 32)), epochs=1_000_000, base=32).changes()[:3]
        [0, 3907, 7813]
        """
        times = min(self.epochs, MOST_CHANGES)
        starts = [-(-change * self.epochs // times) for change in range(times)]
        return [0, *(after for before, after in itertools.pairwise(starts) if self.mix(before) != self.mix(after))]


def pixels_a_sample(mix: SizeMix, beside: Callable[[int], float] = lambda size: 0.0) -> float:
    """Pixels that a sample takes on average, over those of one image at the base size.

    `beside` are the pixels that an image of a size takes beside its own, such as those of a teacher.

    >>> pixels_a_sample(SizeMix.custom({16: 0.5, 32: 0.5}, base=32))
    0.625
    >>> pixels_a_sample(SizeMix.custom({16: 0.5, 32: 0.5}, base=32), beside=lambda size: 1024 if size < 32 else 0)
    1.125
    """
    return sum(
        part.share * part.copies * ((part.size / mix.base) ** 2 + beside(part.size) / mix.base**2)
        for part in mix.batches(1)
    )
