"""Runs held against one another by their answers to the same images: `predictions.csv` of both."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from anysize.reports.columns import split_of
from anysize.reports.grouping import Group
from anysize.reports.verdicts import mcnemar, paired_bootstrap

_MADE = ["checkpoint", "settings", "size", "calibrated"]
_MOST = 24  # runs at most that are held against the best: reading their answers takes a tenth of a second each


def same_images(groups: Sequence[Group], column: str, values: Sequence[float]) -> Callable[[int, int], float | None]:
    """Asks for the places of two groups how likely such a difference between their answers is by chance.

    Top-1 is held against another by right and wrong (McNemar), other metrics by the score of each image (paired
    bootstrap). It gives None for groups of several runs, for runs that were not evaluated alike on the same images, and
    for those that are farthest from the others in `values`, the figure of `column` of each group.
    """
    answers: dict[int, pd.DataFrame] = {}

    def of(place: int) -> pd.DataFrame:
        if place not in answers:
            group = groups[place]
            found = group.counted[0].image_predictions if not group.several else pd.DataFrame()
            alike = len(found) > 0 and len(found[_MADE].drop_duplicates()) == 1 and found["image"].is_unique
            answers[place] = found.set_index("image") if alike else pd.DataFrame()
        return answers[place]

    def chance(one: int, other: int) -> float | None:
        near = sorted(range(len(values)), key=lambda place: abs(values[place] - values[one]))[: _MOST + 1]
        if other not in near:
            return None
        first, second = of(one), of(other)
        if not len(first) or not len(second) or set(first.index) != set(second.index):
            return None
        if first[_MADE].iloc[0].to_list() != second[_MADE].iloc[0].to_list():
            return None
        second = second.loc[first.index]
        if not first["truth"].equals(second["truth"]):
            return None
        if split_of(column)[1] != "top1":
            return _by_score(first, second)
        return mcnemar(*((frame["truth"] == frame["predicted"]).to_numpy() for frame in (first, second)))

    return chance


def _by_score(first: pd.DataFrame, second: pd.DataFrame) -> float:
    scores = [frame["score"].to_numpy(dtype=float) for frame in (first, second)]
    both = np.isfinite(scores[0]) & np.isfinite(scores[1])
    return paired_bootstrap(scores[0][both], scores[1][both]) if both.any() else 1.0
