"""Choose how much of a calibration a network takes, so that it does not hurt.

    choice = choose(model, measured, score)         # score() judges held-out images with the statistics of the moment
    with having_statistics(model, choice.statistics):
        evaluate(model)

A calibration saves some networks at another size and hurts others, and nothing in the statistics themselves tells which
(docs/methods/mixsize.md). So it is tried: all of it, a part of the way, the first norms alone. What is tried has to
be better than the network as it is by more than chance explains.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from anysize.norms.strength import Statistics, blended, having_statistics, statistics
from anysize.registry import UserError

Tried = tuple[float, float]
"""Strength and part of a calibration."""

NONE: Tried = (0.0, 1.0)
FULL: Tried = (1.0, 1.0)
CANDIDATES: tuple[Tried, ...] = (FULL, (0.5, 1.0), (0.25, 1.0), (1.0, 0.25))
"""What is tried, besides the network as it is."""

CERTAINTY = 2.0
"""Standard errors by which a calibration has to be better than none."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Args:
        strength, part: as `blended` takes them; strength 0: the network stays as it is.
        statistics: those that follow.
        before, after: the mean score of the network as it is, and of the chosen one.
        images: on which they were measured.
        scores: the mean score of everything that was tried, by strength and part.
        criterion: what the scores are, such as "top1 of held-out training images".
    """

    strength: float
    part: float
    statistics: Statistics
    before: float = math.nan
    after: float = math.nan
    images: int = 0
    scores: dict[Tried, float] = dataclasses.field(default_factory=dict)
    criterion: str = ""

    def __bool__(self) -> bool:
        """Whether anything of the calibration is taken."""
        return self.strength > 0

    def __str__(self) -> str:
        """What was taken, in words.

        >>> print(Choice(0.5, 0.25, {}, 0.4, 0.5, 100, {}, "top1 of held-out images"))
        50% of the way, the first 25% of the norms (top1 of held-out images: 0.4 without, 0.5 with; 100 images)
        """
        if not self:
            taken = "nothing is taken of it"
        else:
            way = "all of the way" if self.strength == 1 else f"{100 * self.strength:g}% of the way"
            taken = f"{way}, {'all norms' if self.part == 1 else f'the first {100 * self.part:g}% of the norms'}"
        if not self.images:
            return f"{taken} ({self.criterion})" if self.criterion else taken
        best = max((score for tried, score in self.scores.items() if tried != NONE), default=self.after)
        after = f"{self.after:.4g} with" if self else f"{best:.4g} with the best"
        return f"{taken} ({self.criterion}: {self.before:.4g} without, {after}; {self.images:,} images)"

    def to_row(self) -> dict[str, Any]:
        """What was taken, as columns of a table."""
        return {"strength": self.strength, "part": self.part, **({"choice": str(self)} if self.criterion else {})}

    def to_dict(self) -> dict[str, Any]:
        """What was chosen and tried, JSON-ready, without the statistics."""
        judged = {
            "criterion": self.criterion,
            "images": self.images,
            "scores": [[*tried, None if math.isnan(score) else score] for tried, score in self.scores.items()],
        }
        return {"strength": self.strength, "part": self.part, **(judged if self.criterion else {})}


def choose(
    model: nn.Module,
    measured: Statistics,
    score: Callable[[], Sequence[float] | np.ndarray],
    candidates: Sequence[Tried] = CANDIDATES,
    certainty: float = CERTAINTY,
    criterion: str = "",
) -> Choice:
    """Choose strength and part of a calibration by the scores of held-out images.

    `model` is scored as it is and with the candidates in turn, until one is no better than another before it that is
    taken. Taken is the one with the best mean, if it is better than the network as it is by `certainty` standard errors
    of the differences image by image; otherwise nothing of the calibration is. Where no image is judged differently,
    that is so, too.

    Args:
        model: with the statistics of training, which it has again afterwards.
        measured: the statistics of the full calibration, as `anysize.norms.strength.statistics` gives them.
        score: judges the model as it is when called: a number an image, higher is better, always of the same images in
            the same order; NaN, or all of them not finite, where the network gives no finite answer.
        candidates: strengths with the part of the network that each is for, the most of the calibration first.
        certainty: standard errors.
        criterion: what the scores are, in words, for the `Choice`.

    Raises:
        UserError: scores of another number of images than before, or of none.

    >>> import torch
    >>> norm = nn.BatchNorm1d(1)  # is right at a mean of 3, and wrong far from it
    >>> measured = {"BatchNorm1d": (torch.full((1,), 4.0), torch.ones(1))}
    >>> choice = choose(norm, measured, lambda: [-abs(norm.running_mean.item() - 3)] * 8, [(1, 1), (0.75, 1)])
    >>> choice.strength, choice.before, choice.after
    (0.75, -3.0, 0.0)
    """
    trained = statistics(model)
    before = np.asarray(score(), dtype=np.float64)
    if not before.size:
        raise UserError("there is no image to judge a calibration by; expected at least one")
    means, best, chosen = {NONE: float(before.mean())}, NONE, before
    for strength, part in candidates:
        with having_statistics(model, blended(trained, measured, strength, part)):
            after = np.asarray(score(), dtype=np.float64)
        if after.shape != before.shape and np.isfinite([after.sum(), before.sum()]).all():
            raise UserError(
                f"a calibration was judged on {after.size} images and the network as it is on {before.size}; "
                "expected the same"
            )
        means[strength, part] = float(after.mean())
        if _better(after, before, certainty) and not after.mean() <= chosen.mean():  # which may be NaN
            best, chosen = (strength, part), after
        elif best != NONE:
            break  # one before was better, and accuracy falls or rises with the strength from one end to the other
    return Choice(
        *best,
        statistics=blended(trained, measured, *best),
        before=means[NONE],
        after=means[best],
        images=before.size,
        scores=means,
        criterion=criterion,
    )


def _better(after: np.ndarray, before: np.ndarray, certainty: float) -> bool:
    """Whether scores are higher than those of the same images before by more than chance explains.

    >>> _better(np.array([1.0, 1, 0, 1]), np.array([0.0, 0, 0, 1]), certainty=1.0)
    True
    >>> _better(np.array([1.0, 0, 0, 1]), np.array([0.0, 0, 0, 1]), certainty=2.0)
    False
    """
    if not np.isfinite(after).all():
        return False
    if not np.isfinite(before).all():
        return True
    gain = after - before
    error = gain.std(ddof=1) / math.sqrt(gain.size) if gain.size > 1 else math.inf
    return bool(gain.mean() > certainty * error)
