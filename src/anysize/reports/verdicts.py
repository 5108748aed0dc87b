"""Whether a difference between runs is more than chance: against the spread of repeats, or paired over images.

The best of several is compared with each other one, and the probabilities are raised for their number (Holm 1979).
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from anysize.reports.columns import best_places

CHANCE = 0.05
"""Differences of at most this probability, if there were none, are told apart."""

_RESAMPLES, _DRAWN = (400, 2000), 20_000_000  # the fewest and the most of a bootstrap; images drawn in all, about
_AT_ONCE = 1 << 22  # numbers of a bootstrap in memory at a time
SPREAD, PAIRED = "the spread of repeats", "the same images"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one of several stands to the best of them.

    `best` is true for all that hold the best value. `chance` is the probability of such a difference if there were
    none, adjusted for the number of comparisons; None: not known. `by` is what it was judged by: `SPREAD` or `PAIRED`.
    """

    best: bool = False
    chance: float | None = None
    by: str = ""

    @property
    def as_good(self) -> bool:
        """True for what is not the best and is not told apart from it."""
        return not self.best and self.chance is not None and self.chance > CHANCE


def verdicts(
    column: str,
    values: Sequence[Sequence[float]],
    paired: Callable[[int, int], float | None] = lambda one, other: None,
) -> list[Verdict]:
    """Judge groups of runs by a metric.

    Where some group has several runs, differences of means are held against their spread, pooled over the groups
    (two-sided t-test): a group of a single run is taken to spread like the others. Elsewhere `paired` is asked.

    Args:
        column: the metric, which says whether low or high is better.
        values: of each group, the value of each run; none: it has no value.
        paired: of the places of two groups, the probability by images that both have seen; None: not known.

    >>> judged = verdicts("top1", [[0.91, 0.93], [0.92, 0.91], [0.5, 0.52], [0.92]])
    >>> [verdict.best for verdict in judged], [verdict.as_good for verdict in judged]
    ([True, False, False, True], [False, True, False, False])
    """
    means = [statistics.fmean(group) if group else math.nan for group in values]
    best = best_places(column, means)
    freedom = sum(len(group) - 1 for group in values if group)
    squares = sum((value - mean) ** 2 for group, mean in zip(values, means, strict=True) for value in group)
    found: dict[int, float] = {}
    for place, mean in enumerate(means):
        if not best or place in best or math.isnan(mean):
            continue
        if freedom:
            error = math.sqrt(squares / freedom * (1 / len(values[place]) + 1 / len(values[best[0]])))
            found[place] = student(abs(mean - means[best[0]]) / error, freedom) if error else 0.0
        elif (chance := paired(best[0], place)) is not None:
            found[place] = chance
    by = SPREAD if freedom else PAIRED
    adjusted = dict(zip(found, holm(list(found.values())), strict=True))
    return [
        Verdict(place in best, adjusted.get(place), by if place in adjusted else "") for place in range(len(values))
    ]


def student(t: float, freedom: int) -> float:
    """The probability of a |t| at least as large, by Student's t with so many degrees of freedom.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(student(12.706, 1), 4), round(student(2.228, 10), 4), round(student(0.0, 5), 4)
    (0.05, 0.05, 1.0)
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        inside = 2 / math.pi * (angle + math.sin(angle) * (total if freedom > 1 else 0.0))
    else:
        inside = math.sin(angle) * total
    return min(1.0, max(0.0, 1 - inside))


def holm(chances: Sequence[float]) -> list[float]:
    """Probabilities raised for their number, so that the chance of any false difference stays what it is for one.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, chances[place] * (len(chances) - rank)))
        adjusted[place] = highest
    return adjusted


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """The probability of such a difference in right answers to the same images, if both were as good (exact, McNemar).

    Args:
        one, other: whether each image was answered right, booleans (N,).

    >>> one = np.array([True] * 10 + [False] * 5)
    >>> mcnemar(one, np.array([True] * 2 + [False] * 13)), mcnemar(one, one)
    (0.0078125, 1.0)
    """
    ahead, behind = int((one & ~other).sum()), int((~one & other).sum())
    differ = ahead + behind
    log_all = differ * math.log(2) - math.lgamma(differ + 1)
    tail = sum(
        math.exp(-log_all - math.lgamma(k + 1) - math.lgamma(differ - k + 1)) for k in range(min(ahead, behind) + 1)
    )
    return min(1.0, round(2 * tail, 12))


def paired_bootstrap(one: np.ndarray, other: np.ndarray) -> float:
    """The probability of such a difference in the means over the same images, by drawing images anew.

    Twice the share of draws in which the difference has the other sign; the draws are the same each time.

    Args:
        one, other: a value an image, (N,).

    >>> paired_bootstrap(np.arange(50.0) % 7, np.arange(50.0) % 7 + 1) < 0.01
    True
    """
    differences = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    if not differences.any():
        return 1.0
    random = np.random.default_rng(0)
    means: list[np.ndarray] = []
    resamples = int(min(_RESAMPLES[1], max(_RESAMPLES[0], _DRAWN // len(differences))))
    rows = max(1, _AT_ONCE // len(differences))
    for start in range(0, resamples, rows):
        drawn = random.integers(len(differences), size=(min(rows, resamples - start), len(differences)))
        means.append(differences[drawn].mean(axis=1))
    every = np.concatenate(means)
    below, above = int((every <= 0).sum()), int((every >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (resamples + 1)))
