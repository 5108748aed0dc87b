"""The tables of a comparison: what differs in the recipes, what came of it, what it cost, and how sure that is."""

import json
import math
import statistics
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from anysize.reports.columns import is_fraction, label, show
from anysize.reports.grouping import Group
from anysize.reports.paired import same_images
from anysize.reports.reading import Run, judged_by
from anysize.reports.setting_values import SEED, show_setting
from anysize.reports.tables import CALIBRATED, by_size, evaluation_metrics
from anysize.reports.text_table import TextTable
from anysize.reports.verdicts import PAIRED, SPREAD, Verdict, verdicts

SETTINGS = 6  # that differ, at most, stand beside the results; all of them have a table of their own
_LETTERS = 24  # of such a value
_COST = {"epoch": "epochs", "seconds": "training time", "flops": "computation", "images": "images"}
AS_GOOD = "="  # behind a value that is not told apart from the best
_NOTES = {
    SPREAD: "Differences are held against the spread of runs that differ in their seed alone (t-test, pooled)",
    PAIRED: "Differences are held against chance by the answers of the last evaluation to the same images (paired)",
}


def differing_settings(groups: Sequence[Group]) -> pd.DataFrame:
    """The settings in which recipes differ, but for the seed: a row a setting, a column a group, for people.

    >>> from pathlib import Path
    >>> from anysize.reports.grouping import group_runs
    >>> runs = [Run(Path(), name, *[pd.DataFrame()] * 4, f"sizes.mix = '{name}'", {}) for name in ("B+", "fixed")]
    >>> differing_settings(group_runs(runs)).to_dict("index")
    {'sizes.mix': {'B+': 'B+', 'fixed': 'fixed'}}
    """
    settings = [group.settings for group in groups]
    names = dict.fromkeys(name for each in settings for name in each if name != SEED)
    rows = {}
    for name in names:
        values = [each.get(name) for each in settings]
        if len({json.dumps(value, sort_keys=True, default=str) for value in values}) > 1:
            rows[name] = ["-" if value is None else show_setting(name, value) for value in values]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[group.name for group in groups], dtype=object)


_Column = tuple[str, list[str], list[Any]]  # heading, cells, and values to sort by, which may be none


def summary_table(groups: Sequence[Group]) -> tuple[TextTable, list[list[Any]]]:
    """A row a group: settings, results and cost; and the same as values, a list a column, to sort by."""
    differences = differing_settings(groups)
    columns: list[_Column] = [("run", [group.name for group in groups], [])]
    if any(len(group.runs) > 1 for group in groups):
        counts = [len(group.counted) for group in groups]
        columns.append(("runs", list(map(str, counts)), counts))
    columns += [(str(name), list(map(_short, differences.loc[name])), []) for name in differences.index[:SETTINGS]]
    place = len(columns)
    judged, came = _results_columns(groups)
    columns += came
    for column, heading in _COST.items():
        cost = [group.cost(column) for group in groups]
        if any(map(math.isfinite, cost)):
            columns.append((heading, [show(column, value) for value in cost], cost))
    winners = {(row, place) for row, verdict in enumerate(judged) if verdict.best}
    rows = list(zip(*(cells for _, cells, _ in columns), strict=True))
    table = TextTable([heading for heading, _, _ in columns], rows, winners, caption=verdict_note(judged))
    return table, [[_plain(value) for value in values] for _, _, values in columns]


def _results_columns(groups: Sequence[Group]) -> tuple[list[Verdict], list[_Column]]:
    """The last and the best value of the metric that the groups are judged by, if there are any, the last one first."""
    metric = judged_by(run for group in groups for run in group.runs)
    last, best = [group.values(metric) for group in groups], [group.best(metric) for group in groups]
    means, bests = [_mean(values) for values in last], [_mean(values) for values in best]
    if all(map(math.isnan, means)):
        return [], []
    judged = verdicts(metric, last, same_images(groups, metric, means))
    top = next((mean for mean, verdict in zip(means, judged, strict=True) if verdict.best), math.nan)
    cells = [
        _with_spread(metric, values) + f" {AS_GOOD}" * verdict.as_good
        for values, verdict in zip(last, judged, strict=True)
    ]
    columns: list[_Column] = [(f"last {label(metric)}", cells, means)]
    if any(verdict.best for verdict in judged):
        gaps = [mean - top for mean in means]
        columns.append(("to the best", [_gap(metric, gap) for gap in gaps], gaps))
    chances = [verdict.chance for verdict in judged]
    if any(chance is not None for chance in chances):
        columns.append(("p", [_chance(verdict) for verdict in judged], chances))
    columns.append((f"best {label(metric)}", [_with_spread(metric, values) for values in best], bests))
    return judged, columns


def size_table(groups: Sequence[Group], metric: str) -> TextTable:
    """A metric by image size: a row a group, as trained and calibrated; the best at each size stand out."""
    names, values = [], []
    for group in groups:
        tables = [by_size(run.evaluation, metric) for run in group.counted]
        for how in dict.fromkeys(how for table in tables for how in table.columns):
            names.append([group.name, str(how)])
            values.append([table[how].dropna() for table in tables if how in table])
    sizes = sorted({int(size) for of_group in values for run in of_group for size in run.index})
    rows, best, judged_by = [list(name) for name in names], set(), []
    for column, size in enumerate(sizes, start=2):
        found = [[float(run[size]) for run in of_group if size in run.index] for of_group in values]
        judged = verdicts(metric, found)
        judged_by += judged
        best |= {(row, column) for row, verdict in enumerate(judged) if verdict.best}
        for row, of_group, verdict in zip(rows, found, judged, strict=True):
            row.append(_with_spread(metric, of_group) + f" {AS_GOOD}" * verdict.as_good)
    header = ["run", "evaluated", *(f"{size} px" for size in sizes)]
    title = f"{label(metric)} by image size"
    return TextTable(header, rows, best, labels=2, title=title, caption=verdict_note(judged_by))


def by_metric(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The evaluated groups by the metric that they are judged by: those of different tasks do not compare."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if evaluated := [run.evaluation for run in group.counted if len(run.evaluation)]:
            found.setdefault(evaluation_metrics(evaluated[0])[0], []).append(group)
    return found


def comparison_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """A row a run, as values: its group, the settings in which recipes differ, results, cost, and accuracy by size.

    The columns are `run`, `group`, `seed`, the settings, `epochs`, `best_METRIC`, `best_epoch`, `last_METRIC`,
    `images`, `seconds`, `flops`, and `METRIC_SIZEpx` and `METRIC_SIZEpx_calibrated` of the latest evaluation.
    """
    metric = judged_by(run for group in groups for run in group.runs)
    names = list(differing_settings(groups).index)
    rows = []
    for group in groups:
        for run in group.runs:
            row = {"run": run.name, "group": group.name, "seed": run.settings.get(SEED)}
            row |= {str(name): group.settings.get(str(name)) for name in names}
            rows.append(row | results(run, metric) | _sizes(run))
    return pd.DataFrame(rows)


def results(run: Run, metric: str) -> dict[str, Any]:
    """Epochs, best and last validation, images, seconds and FLOPs of training of a run."""
    return {
        "epochs": run.last("epoch"),
        f"best_{metric}": run.best(metric)[0],
        "best_epoch": run.best(metric)[1] or float("nan"),
        f"last_{metric}": run.last(metric),
        **{column: run.last(column) for column in ("images", "seconds", "flops")},
    }


def differences_table(groups: Sequence[Group]) -> TextTable | None:
    """All settings that differ, where the summary has not all of them whole: a row a setting, or a group if many."""
    settings = differing_settings(groups)
    if len(settings) <= SETTINGS and all(_short(value) == value for value in settings.to_numpy().ravel()):
        return None
    names = [str(name) for name in settings.columns]
    table = TextTable(
        ["setting", *names],
        [[str(key), *values] for key, values in zip(settings.index, settings.to_numpy(), strict=True)],
    )
    return table if len(names) <= len(settings) else table.turned("run")


def verdict_note(judged: Collection[Verdict]) -> str:
    """What the marks of a table mean; empty where nothing is known of chance."""
    by = next((verdict.by for verdict in judged if verdict.by), "")
    if not by:
        return ""
    several = ", adjusted for the number of comparisons" if sum(bool(verdict.by) for verdict in judged) > 1 else ""
    return f"{_NOTES[by]}{several}. {AS_GOOD}: not told apart from the best."


def _sizes(run: Run) -> dict[str, float]:
    found = {}
    for metric in evaluation_metrics(run.evaluation)[:1] if len(run.evaluation) else ():
        for how, values in by_size(run.evaluation, metric).items():
            for size, value in values.dropna().items():
                found[f"{metric}_{size}px{'_calibrated' * (how == CALIBRATED)}"] = float(value)
    return found


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _with_spread(column: str, values: Sequence[float]) -> str:
    """The mean, and the standard deviation of several."""
    told = show(column, _mean(values))
    if len(values) < 2:
        return told
    deviation = statistics.stdev(values)
    return f"{told} ± {100 * deviation:.2f}" if is_fraction(column) else f"{told} ± {deviation:.2g}"


def _gap(column: str, gap: float) -> str:
    if math.isnan(gap):
        return "-"
    told = f"{100 * gap:+.2f}" if is_fraction(column) else f"{gap:+.3g}"
    return "" if gap == 0 else told.replace("-", "\N{MINUS SIGN}")


def _chance(verdict: Verdict) -> str:
    if verdict.chance is None:
        return ""
    return "< 0.1%" if verdict.chance < 0.001 else f"{verdict.chance:.1%}"


def _short(value: str) -> str:
    """The value of a setting beside others, such as a learning rate of many parts."""
    return value if len(value) <= _LETTERS else f"{value[: _LETTERS - 3]}..."


def _plain(value: Any) -> Any:
    """A number that JSON has; None for what is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.9g}")
