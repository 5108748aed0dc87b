"""Runs whose recipes differ in the seed alone, as one: the mean of their figures and curves, and its spread."""

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from anysize.registry import some_of
from anysize.reports.finding import common_name
from anysize.reports.reading import Run
from anysize.reports.setting_values import SEED, WORLD_SIZE, setting_value

EVALUATED = ["size", "calibrated"]


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs of one recipe, from one seed or several; `name` is for people.

    `settings` are those of the recipe, with the defaults of settings that other runs have. `counted` are those of
    `runs` that mean and spread are over: without those that ended before the others did.
    """

    name: str
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]
    settings: Mapping[str, Any]

    @property
    def several(self) -> bool:
        """True where mean and spread are over more than one run."""
        return len(self.counted) > 1

    @property
    def epoch(self) -> int:
        """The last epoch that all counted runs have done; 0: none is trained."""
        return min((int(run.last("epoch")) for run in self.counted if len(run.metrics)), default=0)

    def values(self, column: str) -> list[float]:
        """A column of `metrics.csv` at the last epoch that all runs have a value of, a value a run; empty: none has."""
        found = [values for run in self.counted if len(values := run.by_epoch(column))]
        of_all = set.intersection(*(set(values.index) for values in found)) if found else set()
        return [float(values[max(of_all)] if of_all else values.iloc[-1]) for values in found]

    def best(self, column: str) -> list[float]:
        """The best value of each run."""
        return [value for run in self.counted if math.isfinite(value := run.best(column)[0])]

    def cost(self, column: str) -> float:
        """The mean of what the runs took: `seconds`, `flops`, `images`, `step`."""
        values = [value for run in self.counted if math.isfinite(value := run.last(column))]
        return sum(values) / len(values) if values else float("nan")

    @functools.cached_property
    def curve(self) -> "Curve":
        """The columns of `metrics.csv` that are numbers, by epoch."""
        trained = [run.metrics.select_dtypes("number") for run in self.counted if len(run.metrics)]
        frames = [frame.set_index("epoch", drop=False) for frame in trained]
        return Curve.over([frame.loc[: self.epoch] for frame in frames])

    @functools.cached_property
    def by_size(self) -> "Curve":
        """The columns of the evaluations that are numbers, by image size and whether the norms were calibrated."""
        frames = [run.evaluation for run in self.counted if len(run.evaluation)]
        told = [frame.set_index(EVALUATED, drop=False).select_dtypes("number") for frame in frames]
        return Curve.over([frame.groupby(level=[0, 1]).last() for frame in told])

    @property
    def seeds(self) -> str:
        """How many runs, for people; empty for one."""
        return f"{len(self.counted)} runs" if self.several else ""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Mean, lowest and highest value of some runs' tables of one index; all three are the same for one run."""

    mean: pd.DataFrame
    lowest: pd.DataFrame
    highest: pd.DataFrame

    @classmethod
    def over(cls, frames: Sequence[pd.DataFrame]) -> "Curve":
        """The curve over tables; where one lacks a row that others have, the row is left out.

        >>> one, two = (pd.DataFrame({"loss": values}) for values in ([1.0, 0.5], [2.0]))
        >>> Curve.over([one, two]).mean["loss"].to_list()
        [1.5]
        """
        if len(frames) < 2:
            only = frames[0] if frames else pd.DataFrame()
            return cls(only, only, only)
        together = pd.concat(frames, keys=range(len(frames)))
        levels = list(range(1, together.index.nlevels))
        rows = together.groupby(level=levels, sort=True)
        whole = rows.size() == len(frames)
        return cls(*(table[whole] for table in (rows.mean(), rows.min(), rows.max())))


def group_runs(runs: Sequence[Run], *, together: bool = True, defaults: Mapping[str, Any] | None = None) -> list[Group]:
    """Runs by recipe, in the order of the first of each; `together` false: each run by itself.

    `defaults` are the values of settings in recipes that were recorded before the settings existed.
    A run without a readable recipe stands by itself. Runs on different numbers of processes are no repeats: their
    batches may differ.
    """
    known = dict.fromkeys(name for run in runs for name in run.settings)
    settings = [_with_defaults(run, known, defaults or {}) for run in runs]
    found: dict[str, list[Run]] = {}
    of_recipe: dict[str, dict[str, Any]] = {}
    for run, values in zip(runs, settings, strict=True):
        told = {name: value for name, value in values.items() if name != SEED}
        recipe = json.dumps([told, run.environment.get(WORLD_SIZE)], sort_keys=True, default=str)
        key = recipe if together and run.settings else f"alone {run.name}"
        found.setdefault(key, []).append(run)
        of_recipe.setdefault(key, values)
    names = [_name(list(members)) for members in found.values()]
    often = Counter([*names, *(run.name for run in runs)])
    groups = []
    for name, (key, members) in zip(names, found.items(), strict=True):
        clear = len(members) == 1 or often[name] == 1
        counted_runs = _as_far_as_the_others(members)
        shown = name if clear else f"{members[0].name} and {len(members) - 1} more"
        groups.append(Group(shown, tuple(members), tuple(counted_runs), of_recipe[key]))
    return groups


def left_out(groups: Iterable[Group]) -> list[str]:
    """Sentences that name the runs over which no mean is taken."""
    told = []
    for group in groups:
        names = [f"{run.name} ({run.progress})" for run in group.runs if run not in group.counted]
        if names:
            told.append(f"Left out of the mean of {group.name}, not finished: {some_of(names)}.")
    return told


def _with_defaults(run: Run, names: Iterable[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    if not run.settings:
        return {}
    values = {name: setting_value(run.settings, name, defaults) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _as_far_as_the_others(runs: Sequence[Run]) -> list[Run]:
    """The finished ones of several runs where there are any, else all."""
    if len(runs) < 2:
        return list(runs)
    ended = [run for run in runs if run.finished]
    return ended or list(runs)


def _name(runs: list[Run]) -> str:
    return runs[0].name if len(runs) == 1 else common_name(run.name for run in runs) or _parent(runs)


def _parent(runs: list[Run]) -> str:
    """The folder that all runs lie in, if it is one of repeats; else words for them."""
    parents = {run.folder.resolve().parent for run in runs}
    alike = all(run.folder.name.startswith("seed-") for run in runs)
    return parents.pop().name if len(parents) == 1 and alike else f"{runs[0].name} and {len(runs) - 1} more"
