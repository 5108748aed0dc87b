"""Several runs side by side: a summary, and an HTML page of their curves and their accuracy by image size."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from bokeh.core.properties import Color
from markupsafe import Markup

from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files
from anysize.reports.by_setting import BySetting, by_setting
from anysize.reports.columns import HOW_VALIDATED, SPLITS, error_of, label, metrics_of, show, split_of
from anysize.reports.figures import Line, line_color, line_figure, size_figures
from anysize.reports.page import card, cards, page, plot, section, table
from anysize.reports.reading import Run
from anysize.reports.run_files import write_atomically
from anysize.reports.schema import say_once
from anysize.reports.setting_figure import setting_figure
from anysize.reports.setting_values import known_settings
from anysize.reports.tables import accuracy_by_size, by_metric, comparison_table, setting_table
from anysize.reports.text_table import TextTable

X_AXES = ("epoch", "step", "images", "flops", "seconds")

_LEFT_OUT, _GREY = "left out", "#8a929c"  # runs whose curves belong to no line of the figure against a setting
_NAMED = 24  # at most this many runs are named under the title


def read_runs(
    folders: Sequence[str | Path], legend: Sequence[str] | None = None, *, untrained: bool = False
) -> list[Run]:
    """Read run folders; `legend` names them, else the folders' names do (with their parents' where two are alike).

    A folder of `train --repeat` stands for the runs in it. With `untrained`, a run that ended before its first epoch
    did is read too.

    Raises:
        UserError: a folder that is no run or has neither trained nor been evaluated, a legend of another length, or
            two runs of one name.
    """
    if not folders:
        raise UserError("no run to compare; give the folders of one or more runs")
    folders = [run for folder in folders for run in _seeds(Path(folder))]
    if legend is not None and len(legend) != len(folders):
        raise UserError(f"legend has {len(legend)} names for {len(folders)} runs; give one a run")
    paths = [Path(folder).resolve() for folder in folders]
    often = Counter(path.name for path in paths)
    names = legend or [path.name if often[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{times} runs are called {name!r}; give each a name of its own with legend")
    runs = [Run.read(folder, name) for folder, name in zip(folders, names, strict=True)]
    for run in runs:
        if not os.path.lexists(path := run.folder / run_files.METRICS):
            say_once(f"{path} is not there: nothing of a training is compared")
        if not untrained and not len(run.metrics) and not len(run.evaluation):
            raise UserError(f"{run.folder} has no metrics.csv and no evaluation.csv; train or evaluate the run first")
    return runs


def _seeds(folder: Path) -> list[Path]:
    """The runs of a folder that `train --repeat` wrote, else the folder itself."""
    if (folder / run_files.RECIPE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"seed-*/{run_files.RECIPE}")) or [folder]


def compare_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run: epochs, best and last validation, images, seconds and FLOPs of training.

    Runs are judged by the first run's main metric, named in the columns `best_METRIC` and `last_METRIC`.
    """
    metric = next((run.main_metric for run in runs if len(run.metrics)), "validation_loss")
    return pd.DataFrame(
        {
            "run": run.name,
            "epochs": run.last("epoch"),
            f"best_{metric}": run.best(metric)[0],
            "best_epoch": run.best(metric)[1] or float("nan"),
            f"last_{metric}": run.last(metric),
            **{column: run.last(column) for column in ("images", "seconds", "flops")},
        }
        for run in runs
    )


def write_comparison(
    folders: Sequence[str | Path],
    path: str | Path,
    *,
    columns: Sequence[str] = (),
    x: str = "epoch",
    legend: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    line: str = "",
    metric: str = "",
    unfinished: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> Path:
    """Write one HTML file that compares runs, and return its path.

    Args:
        folders: the run folders.
        path: the file to write.
        columns: a figure each: a column of `metrics.csv`, `train_error` and `validation_error` (1 - top-1), or a metric
            without its split (`error`, `loss`), which draws training dashed and validation solid. Empty: each metric.
        x: one of `epoch`, `step`, `images`, `flops`, `seconds`, or a setting of the recipe, which adds a figure of a
            metric against it; the curves are then by epoch.
        legend, colors: a name and a colour (CSS) each run.
        line, metric, unfinished, defaults: of the figure against a setting, as `accuracy_by_setting` explains them.

    Raises:
        UserError: as `read_runs` and `accuracy_by_setting`; an unknown column or x, colours of another number than
            runs, or none at all.
    """
    options = {"line": line, "metric": metric, "unfinished": unfinished}
    given = [name for name, value in options.items() if value]
    if x in X_AXES and given:
        raise UserError(f"{given[0]} goes with an x that is a setting, such as training.batch_size; x is {x!r}")
    runs = read_runs(folders, legend, untrained=x not in X_AXES)
    color, groups = _colors(colors, runs), {run.name: run.name for run in runs}
    first: Markup | str = ""
    axis = x
    if x not in X_AXES:
        known = known_settings(runs, defaults)
        if x not in known:
            raise UserError(f"unknown x axis {x!r}: {did_you_mean(x, [*X_AXES, *known])}")
        found = by_setting(runs, x, line, metric, unfinished=unfinished, defaults=defaults)
        first, axis = _by_setting(found), "epoch"
        if line:
            drawn = dict(zip(found.points["run"], found.points["line"], strict=True))
            groups = dict.fromkeys(groups, _LEFT_OUT) | drawn
            own = {name: line_color(i) for i, name in enumerate(found.lines)}
            color = color if colors else {run: own.get(group, _GREY) for run, group in groups.items()}
    parts = [first, _summary(runs), _curves(runs, columns, axis, color, groups), _evaluations(runs, color)]
    title = f"Comparison of {len(runs)} runs" if len(runs) > 1 else runs[0].name
    names = [run.name for run in runs[:_NAMED]] + ([f"and {len(runs) - _NAMED} more"] if len(runs) > _NAMED else [])
    write_atomically(Path(path), page(title, ", ".join(names), [*parts, _recipes(runs)]))
    return Path(path)


def recipe_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """The settings in which the recipes of runs differ: a row a setting, a column a run; NaN where it is not set."""
    recipes = {run.name: {key: json.dumps(value, default=str) for key, value in run.settings.items()} for run in runs}
    settings = pd.DataFrame(recipes)
    differs = [len(set(row)) > 1 for row in settings.fillna("").to_numpy()]
    return settings[pd.Series(differs, index=settings.index, dtype=bool)]


def _colors(colors: Sequence[str] | None, runs: Sequence[Run]) -> dict[str, str]:
    """The colour of each run by its name."""
    colors = colors or [line_color(i) for i in range(len(runs))]
    if len(colors) != len(runs):
        raise UserError(f"colors has {len(colors)} colours for {len(runs)} runs; give one a run")
    for color in colors:
        if not Color().is_valid(color):
            raise UserError(f"unknown colour {color!r}; give a CSS colour, such as 'red' or '#0072b2'")
    return {run.name: color for run, color in zip(runs, colors, strict=True)}


def _by_setting(found: BySetting) -> Markup:
    marks = ["Large marks: medians; bars: lowest to highest run; small marks: the runs."] if found.several else []
    medians = setting_table(found)
    drawn = cards(plot("", setting_figure(found), " ".join([*marks, *found.notes])))
    title = found.title[0].upper() + found.title[1:]
    return section(title, drawn, card("", table(medians), medians.caption.capitalize()))


def _summary(runs: Sequence[Run]) -> Markup:
    summary = compare_runs(runs)
    header, columns = [], []
    for column, values in summary.items():
        first, _, rest = str(column).partition("_")
        header.append(f"{first} {label(rest)}" if first in ("best", "last") else label(str(column)))
        metric = rest if rest.startswith("validation_") else "epoch" if "epoch" in str(column) else str(column)
        columns.append(list(values) if column == "run" else [show(metric, value) for value in values])
    return section("Summary", card("", table(TextTable(header, list(zip(*columns, strict=True))))))


def _curves(
    runs: Sequence[Run], columns: Sequence[str], x: str, color: dict[str, str], groups: dict[str, str]
) -> Markup | str:
    """The curves; runs of one group (by the run's name) share an entry of the legend."""
    numbers = dict.fromkeys(str(column) for run in runs for column in run.metrics.select_dtypes("number").columns)
    known = [column for column in numbers if column not in HOW_VALIDATED]
    metrics = metrics_of(known)
    wanted = columns or [metric for metric in metrics if not error_of(metric)]
    figures = []
    for column in wanted:
        if column not in known and column not in metrics:
            raise UserError(f"unknown column {column!r}: {did_you_mean(column, [*known, *metrics])}")
        drawn = [column] if column in known else [f"{split}_{column}" for split in SPLITS]
        lines, without = [], []
        for run in runs:
            found = [name for name in drawn if name in run.metrics and run.metrics[name].notna().any()]
            for name in found if x in run.metrics else ():
                split, _ = split_of(name)
                where, values, group = run.metrics[x], run.metrics[name], groups[run.name]
                detail = label(split) if group == run.name else f"{run.name} {label(split)}".strip()
                lines.append(Line(group, where, values, color[run.name], split == "train", detail))
            without += [] if found and x in run.metrics else [run.name]
        notes = ["dashed: training, solid: validation"] if len({line.dashed for line in lines}) == 2 else []
        notes += [f"not recorded: {', '.join(without)}"] if without else []
        figures.append(plot(label(column), line_figure(lines, x, column), "; ".join(notes)))
    return section("Training", cards(*figures)) if figures else ""


def _evaluations(runs: Sequence[Run], color: dict[str, str]) -> Markup | str:
    parts = []
    for metric, evaluated in by_metric(runs).items():
        frames = [(run.name, run.evaluation) for run in evaluated]
        figures = size_figures(frames, [color[run.name] for run in evaluated], metric)
        note = "dashed: as trained, solid: calibrated" if len(evaluated) > 1 else ""
        compared = comparison_table(accuracy_by_size(evaluated, metric))
        parts.append(cards(*(plot(title, figure, note) for title, figure in figures.items())))
        parts.append(card(compared.title, table(compared)))
    return section("Evaluation by image size", *parts) if parts else ""


def _recipes(runs: Sequence[Run]) -> Markup | str:
    differences = recipe_differences(runs) if len(runs) > 1 else pd.DataFrame()
    if differences.empty:
        return ""
    values = differences.fillna("-").to_numpy()
    rows = [[str(key), *row] for key, row in zip(differences.index, values, strict=True)]
    names = [str(name) for name in differences.columns]
    return section("Where the recipes differ", card("", table(TextTable(["", *names], rows, labels=len(names) + 1))))
