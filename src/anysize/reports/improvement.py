"""Whether a metric of a run still gets better."""

import math
from collections.abc import Iterable


def without_improvement(scores: Iterable[tuple[int, float]], least: float = 0.0) -> tuple[int, int]:
    """The epochs, as of the last validation, in which a score has not risen, and the epoch that it last rose in.

    Args:
        scores: epoch and score of each validation in order; higher is better. NaN is no score.
        least: a score has risen where it is higher by more than this than when it last rose.

    >>> without_improvement([(1, 0.5), (2, 0.6), (3, 0.61), (5, 0.6)], least=0.05)
    (3, 2)
    """
    highest, risen, last = -math.inf, 0, 0
    for epoch, score in scores:
        last = epoch
        if score > highest + least:
            highest, risen = score, epoch
    return last - risen, risen
