"""Several runs side by side: an HTML page of their results, their curves and their accuracy by image size."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh.core.properties import Color
from markupsafe import Markup

from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files
from anysize.reports.by_setting import BySetting, by_setting
from anysize.reports.comparison_curves import evaluation_section, training_section
from anysize.reports.comparison_tables import by_metric, comparison_frame, differences_table, size_table, summary_table
from anysize.reports.finding import naturally_ordered, runs_in
from anysize.reports.grouping import Group, group_runs, left_out
from anysize.reports.overlay_controls import CSS, choice_of_runs, choosing, sortable
from anysize.reports.overlays import AXES, Entry, legend_entries
from anysize.reports.page import card, cards, page, plot, section, style, table
from anysize.reports.reading import Run
from anysize.reports.run_files import write_atomically
from anysize.reports.schema import say_once
from anysize.reports.setting_figure import setting_figure
from anysize.reports.setting_values import known_settings
from anysize.reports.tables import setting_table
from anysize.reports.text_table import TextTable

X_AXES = AXES

_LEFT_OUT, _GREY = "left out", "#8a929c"  # runs whose curves belong to no line of the figure against a setting
_NAMED = 24  # at most this many runs are named under the title


def read_runs(
    folders: Sequence[str | Path], legend: Sequence[str] | None = None, *, untrained: bool = False
) -> list[Run]:
    """Read run folders; `legend` names them, else the folders' names do (with their parents' where two are alike).

    A folder without a recipe stands for the runs in it, such as those of `train --repeat`. Without a legend, names that
    a shell has sorted by their letters come in the order of their numbers. With `untrained`, a run that ended before
    its first epoch did is read too.

    Raises:
        UserError: a folder that is no run or has neither trained nor been evaluated, a legend of another length, or
            two runs of one name.
    """
    if not folders:
        raise UserError("no run to compare; give the folders of one or more runs")
    given = [Path(folder) for folder in folders]
    ordered = given if legend is not None else naturally_ordered(given)
    folders = [run for folder in ordered for run in runs_in(folder) or [folder]]
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


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Runs by recipe, and what is told of them on the page as on the console: each table is made once.

    Whether a difference is chance takes a bootstrap over all images for each pair of runs.
    """

    runs: Sequence[Run]
    groups: Sequence[Group]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, runs: Sequence[Run], *, together: bool = True, defaults: Mapping[str, Any] | None = None
    ) -> "Comparison":
        """The comparison of runs that `read_runs` returns; the options are those of `group_runs`."""
        return cls(runs, group_runs(runs, together=together, defaults=defaults), defaults or {})

    @functools.cached_property
    def summary(self) -> tuple[TextTable, list[list[Any]]]:
        """A row a recipe: what differs, what came of it, what it cost; and the values to sort by (`summary_table`)."""
        return summary_table(self.groups)

    @functools.cached_property
    def by_size(self) -> list[tuple[str, Sequence[Group], TextTable]]:
        """For each metric that runs are judged by its groups, and their values by image size."""
        return [(metric, members, size_table(members, metric)) for metric, members in by_metric(self.groups).items()]


def write_comparison(
    folders: Sequence[str | Path] | Comparison,
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
    group: bool = True,
) -> Path:
    """Write one HTML file that compares runs, and return its path.

    Args:
        folders: the run folders; or a comparison, whose runs have their names and defaults and are grouped already.
        path: the file to write.
        columns: a figure each: a column of `metrics.csv`, `train_error` and `validation_error` (1 - top-1), or a metric
            without its split (`error`, `loss`), for training and validation at once. Empty: each metric.
        x: what the curves are over at first: `epoch`, `step`, `images`, `flops` or `seconds`; or a setting of the
            recipe, which adds a figure of a metric against it.
        legend, colors: a name and a colour (CSS) each run; runs of one group have the colour of the first of them.
        line, metric, unfinished, defaults: of the figure against a setting, as `accuracy_by_setting` explains them.
        group: take runs whose recipes differ in the seed alone as one: their mean and spread.

    Raises:
        UserError: as `read_runs` and `accuracy_by_setting`; an unknown column or x, colours of another number than
            runs, or none at all.
    """
    options = {"line": line, "metric": metric, "unfinished": unfinished}
    given = [name for name, value in options.items() if value]
    if x in X_AXES and given:
        raise UserError(f"{given[0]} goes with an x that is a setting, such as training.batch_size; x is {x!r}")
    if not isinstance(folders, Comparison):
        read = read_runs(folders, legend, untrained=x not in X_AXES)
        folders = Comparison.of(read, together=group, defaults=defaults)
    runs, groups, defaults = folders.runs, folders.groups, folders.defaults
    own = _checked(colors, runs)
    first: Markup | str = ""
    axis, lines = x, {run.name: run.name for run in runs}
    if x not in X_AXES:
        known = known_settings(runs, defaults)
        if x not in known:
            raise UserError(f"unknown x axis {x!r}: {did_you_mean(x, [*X_AXES, *known])}")
        found = by_setting(runs, x, line, metric, unfinished=unfinished, defaults=defaults)
        first, axis = _by_setting(found), "epoch"
        if line:
            drawn = dict(zip(found.points["run"], found.points["line"], strict=True))
            lines = dict.fromkeys(lines, _LEFT_OUT) | drawn
    entries, place = _legend(groups, lines if line else None, own)
    trained = training_section(groups, entries, place, columns, axis)
    evaluated = evaluation_section(folders.by_size, entries, dict(zip(groups, place, strict=True)))
    curves = [choice_of_runs(entries), trained, evaluated] if trained or evaluated else []
    title = f"Comparison of {len(runs)} runs" if len(runs) > 1 else runs[0].name
    names = [run.name for run in runs[:_NAMED]] + ([f"and {len(runs) - _NAMED} more"] if len(runs) > _NAMED else [])
    parts = [style(CSS), first, _summary(folders), *curves, _recipes(groups), choosing()]
    write_atomically(Path(path), page(title, ", ".join(names), parts))
    return Path(path)


def write_comparison_table(comparison: Comparison, path: str | Path) -> Path:
    """Write the comparison as CSV, a row a run as `comparison_frame` has them, and return its path."""
    text = comparison_frame(comparison.groups).to_csv(index=False, lineterminator="\n")
    write_atomically(Path(path), text)
    return Path(path)


def _checked(colors: Sequence[str] | None, runs: Sequence[Run]) -> dict[str, str]:
    """The colour of each run by its name; empty where none are given."""
    if colors is None:
        return {}
    if len(colors) != len(runs):
        raise UserError(f"colors has {len(colors)} colours for {len(runs)} runs; give one a run")
    for color in colors:
        if not Color().is_valid(color):
            raise UserError(f"unknown colour {color!r}; give a CSS colour, such as 'red' or '#0072b2'")
    return {run.name: color for run, color in zip(runs, colors, strict=True)}


def _legend(
    groups: Sequence[Group], lines: Mapping[str, str] | None, own: Mapping[str, str]
) -> tuple[list[Entry], list[int]]:
    """The entries of the legend, and the place of each group's; `lines` are entries for several groups, by run."""
    if lines is None:
        colors = [own[group.runs[0].name] for group in groups] if own else None
        return legend_entries([group.name for group in groups], colors), list(range(len(groups)))
    of_group = [lines[group.counted[0].name] for group in groups]
    names = [name for name in dict.fromkeys(of_group) if name != _LEFT_OUT]
    entries = legend_entries([name or "all runs" for name in names])
    if _LEFT_OUT in of_group:
        names, entries = [*names, _LEFT_OUT], [*entries, Entry(_LEFT_OUT, _GREY)]
    return entries, [names.index(name) for name in of_group]


def _by_setting(found: BySetting) -> Markup:
    marks = ["Large marks: medians; bars: lowest to highest run; small marks: the runs."] if found.several else []
    medians = setting_table(found)
    drawn = cards(plot("", setting_figure(found), " ".join([*marks, *found.notes])))
    title = found.title[0].upper() + found.title[1:]
    return section(title, drawn, card("", table(medians), medians.caption.capitalize()))


def _summary(comparison: Comparison) -> Markup:
    summary, values = comparison.summary
    notes = [summary.caption, *left_out(comparison.groups)]
    body = sortable(table(summary), values)
    return section("Summary", card("", body, " ".join(filter(None, notes)), tall=len(comparison.groups) > _NAMED))


def _recipes(groups: Sequence[Group]) -> Markup | str:
    differences = differences_table(groups)
    return section("Where the recipes differ", card("", table(differences), tall=True)) if differences else ""
