"""A metric of many runs against a setting of their recipes, such as accuracy by batch size with a line a norm.

    anysize compare runs/batch-* --x training.batch_size --line model.norm

Runs of equal settings, such as several seeds, make one point: their median and their range.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from anysize.registry import UserError, did_you_mean
from anysize.reports.columns import HOW_VALIDATED, label, metrics_of, split_of
from anysize.reports.reading import Run, judged_by
from anysize.reports.setting_values import is_number, known_settings, other_differences, setting_value, show_setting

_LOGARITHMIC = 8  # a horizontal axis whose largest value is at least this many times its smallest


@dataclasses.dataclass(frozen=True, eq=False)
class BySetting:
    """Runs placed by setting `x` and, unless it is empty, by setting `line`.

    `metric` is a column of `metrics.csv`, taken at a run's last epoch or, with `best`, at its best. `points` has a row
    a run with the columns `run`, `line` (text), `x` (numbers if all are, else text) and `value`, in the order of the
    runs. `lines` and `where`, the values of x, have numbers first, ascending, then text in the order of the runs.
    `notes` are sentences: what was left out, and what else differs.
    """

    x: str
    line: str
    metric: str
    best: bool
    points: pd.DataFrame
    lines: tuple[str, ...]
    where: tuple[Any, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The metric for people."""
        return f"best {label(self.metric)}" if self.best else label(self.metric)

    @property
    def title(self) -> str:
        """The heading of a figure or table."""
        return f"{self.label} by {self.x}" + (f" and {self.line}" if self.line else "")

    @property
    def numeric(self) -> bool:
        """True if x holds numbers."""
        return all(map(is_number, self.where))

    @property
    def logarithmic(self) -> bool:
        """True if x is best read on a logarithmic axis."""
        return self.numeric and self.where[0] > 0 and bool(self.where[-1] >= _LOGARITHMIC * self.where[0])

    @property
    def several(self) -> bool:
        """True if a point has more than one run."""
        return bool(self.points.duplicated(["line", "x"]).any())

    def summary(self) -> pd.DataFrame:
        """Index (line, x), columns `median`, `lowest`, `highest` and `runs`, their number."""
        values = self.points.groupby(["line", "x"], sort=False)["value"]
        table = pd.DataFrame(values.agg(median="median", lowest="min", highest="max", runs="count"))
        return table.loc[[(line, x) for line in self.lines for x in self.where if (line, x) in table.index]]


def accuracy_by_setting(
    runs: Sequence[Run | str | Path],
    x: str,
    line: str = "",
    metric: str = "",
    *,
    unfinished: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Median and range of a metric over the runs of each value of a setting.

    Args:
        runs: run folders, or what `read_runs` returns.
        x: a setting of the recipe, `section.field`, also inside a table: `model.options.dropout`.
        line: another one, to tell runs of equal x apart; empty: none.
        metric: a column of `metrics.csv`, or a metric of the validation such as `top1`, at a run's last epoch; with
            `best_` before it (`best_top1`), at its best epoch. Empty: the one that the first run is judged by.
        unfinished: take runs that did not reach their last epoch too, as far as they came.
        defaults: the value of each setting in a recipe that was recorded before the setting existed.

    Returns:
        Index (line, x), or x alone without a line; columns `median`, `lowest`, `highest` and `runs`, their number. The
        name of the columns is the metric's. Accuracies are fractions.

    Raises:
        UserError: an unknown setting or metric, or no run that has them.

    >>> def run(batch_size: int, top1: float) -> Run:
    ...     metrics = pd.DataFrame({"epoch": [1], "validation_top1": [top1]})
    ...     recipe = f"training = {{ batch_size = {batch_size}, epochs = 1 }}"
    ...     return Run(Path("runs"), "a run", metrics, *[pd.DataFrame()] * 3, recipe, {})
    >>> table = accuracy_by_setting([run(16, 0.625), run(2, 0.75), run(2, 0.25)], "training.batch_size")
    >>> table["median"].to_dict(), table.loc[2].to_dict()
    ({2: 0.5, 16: 0.625}, {'median': 0.5, 'lowest': 0.25, 'highest': 0.75, 'runs': 2.0})
    """
    found = by_setting(runs, x, line, metric, unfinished=unfinished, defaults=defaults)
    table = found.summary().rename_axis(index=[line, x], columns=found.metric)
    return table if line else table.droplevel(0)


def by_setting(
    runs: Sequence[Run | str | Path],
    x: str,
    line: str = "",
    metric: str = "",
    *,
    unfinished: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> BySetting:
    """Place runs by their settings; the arguments and errors are those of `accuracy_by_setting`."""
    read = [run if isinstance(run, Run) else Run.read(run) for run in runs]
    defaults = defaults or {}
    _check_settings(x, line, known_settings(read, defaults))
    column, best = _resolve_metric(metric, read)
    drawn: list[Run] = []
    rows: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = {}
    not_finished = []
    for run in read:
        where, which = (setting_value(run.settings, name, defaults) for name in (x, line))
        value = run.best(column)[0] if best else run.last(column)
        done, planned = run.epochs
        progress = f"{run.name} ({run.progress})"
        if done < planned and not unfinished:
            left_out.setdefault("not finished", []).append(progress)
        elif where is None:
            left_out.setdefault(f"{x} is not set", []).append(run.name)
        elif not math.isfinite(value):
            left_out.setdefault(f"no {label(column)}", []).append(run.name)
        else:
            drawn.append(run)
            rows.append({"run": run.name, "line": which, "x": where, "value": value})
            not_finished += [progress] if done < planned else []
    notes = [f"Left out, {reason}: {', '.join(names)}." for reason, names in left_out.items()]
    if not rows:
        remedy = " Take unfinished runs with unfinished." if "not finished" in left_out else ""
        raise UserError(f"no run to compare by {x}. {' '.join(notes)}{remedy}".strip())
    points = pd.DataFrame(rows, dtype=object).astype({"value": float})  # object: None stays None, 2 stays 2
    points["x"], places = _ordered(x, points["x"])
    values, lines = _ordered(line, points["line"])
    points["line"] = values.map(lambda value: show_setting(line, value) if line else "")
    if not_finished:
        notes.append(f"Not finished: {', '.join(not_finished)}.")
    if best:
        notes.append("The best epoch is chosen by the same figure that is shown.")
    notes += other_differences(drawn, points, x, line, defaults)
    shown = tuple(show_setting(line, value) if line else "" for value in lines)
    return BySetting(x, line, column, best, points, shown, tuple(places), tuple(notes))


def _check_settings(x: str, line: str, known: set[str]) -> None:
    if line == x:
        raise UserError(f"x and line are both {x!r}; give line another setting, or none")
    for name in (x, line) if line else (x,):
        if name not in known:
            raise UserError(f"unknown setting {name!r}: {did_you_mean(name, known)} (see `anysize settings`)")


def _ordered(name: str, values: "pd.Series[Any]") -> tuple["pd.Series[Any]", list[Any]]:
    """The values, as text for people unless all are numbers, and the distinct ones: numbers ascending, then text."""
    numbers = sorted({value for value in values if is_number(value)})
    shown = [show_setting(name, value) for value in values]
    if all(map(is_number, values)):
        return values, numbers
    order = [show_setting(name, number) for number in numbers]
    return pd.Series(shown, index=values.index, dtype=object), list(dict.fromkeys([*order, *shown]))


def _resolve_metric(metric: str, runs: Sequence[Run]) -> tuple[str, bool]:
    """The column that a metric's name means, and whether its best epoch is asked for."""
    if not metric:
        return judged_by(runs), False
    numbers = {str(column) for run in runs for column in run.metrics.select_dtypes("number").columns}
    known = sorted(numbers - set(HOW_VALIDATED))
    name = metric.removeprefix("best_")
    best = name != metric
    for column in (name, f"validation_{name}"):
        if column in known and (split_of(column)[0] or not best):
            return column, best
    raise UserError(f"unknown metric {metric!r}: {did_you_mean(name, [*known, *metrics_of(known)])}")
