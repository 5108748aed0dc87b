"""Tables of evaluations and comparisons: as data frames, and for the console."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from anysize.reports.by_setting import BySetting
from anysize.reports.columns import EVALUATION_FACTS, label, lower_is_better, main_metric, show
from anysize.reports.runs import Run
from anysize.reports.setting_values import show_setting

AS_TRAINED, CALIBRATED = "as trained", "calibrated"
_MANY = 8  # columns: more stand closer together, with a word of their names a line


def evaluation_metrics(evaluation: pd.DataFrame) -> list[str]:
    """The metrics of an evaluation, the one that models are judged by first.

    >>> evaluation_metrics(pd.DataFrame(columns=["size", "calibrated", "loss", "top5", "top1", "images"]))
    ['top1', 'top5', 'loss']
    """
    metrics = [column for column in evaluation.columns if column not in EVALUATION_FACTS]
    return sorted(metrics, key=lambda metric: (metric != main_metric(metrics), metric == "loss"))


def by_size(evaluation: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of an evaluation: a row a size (ascending), a column each for `as trained` and `calibrated`, if there.

    >>> frame = pd.DataFrame({"size": [32, 16, 16], "calibrated": [False, False, True], "top1": [0.9, 0.5, 0.7]})
    >>> by_size(frame, "top1").loc[16].to_dict()
    {'as trained': 0.5, 'calibrated': 0.7}
    """
    if column not in evaluation:
        return pd.DataFrame()
    how = evaluation["calibrated"].map({False: AS_TRAINED, True: CALIBRATED})
    return evaluation.assign(how=how).pivot_table(index="size", columns="how", values=column, sort=True)


def evaluation_cells(
    evaluation: pd.DataFrame, *, all_twice: bool = False
) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Header, rows and best cells (row, column) of an evaluation's table, a row a size.

    The main metric stands as trained and calibrated, with `all_twice` the others do too; else they are the calibrated
    ones where there are any.
    """
    metrics = evaluation_metrics(evaluation)
    columns: list[tuple[str, str, pd.Series]] = []  # label, column, values by size
    for name in [*metrics, *(fact for fact in ("images_per_second", "flops") if fact in evaluation)]:
        values = by_size(evaluation, name)
        if values.empty:  # such as of small objects, where there is none
            continue
        if name == metrics[0] or (all_twice and name in metrics):
            columns += [(f"{label(name)} {how}", name, values[how]) for how in values]
        else:
            columns.append((label(name), name, values.iloc[:, -1]))
    sizes = sorted(evaluation["size"].unique())
    header = ["size"] + [name for name, _, _ in columns]
    rows = [[f"{size} px"] + [show(name, values.get(size)) for _, name, values in columns] for size in sizes]
    best = {
        (sizes.index(values.idxmin() if lower_is_better(name) else values.idxmax()), column + 1)
        for column, (_, name, values) in enumerate(columns)
        if name not in EVALUATION_FACTS and values.notna().any() and len(sizes) > 1
    }
    return header, rows, best


def evaluation_table(evaluation: pd.DataFrame, width: int = 80) -> Group:
    """An evaluation for the console: a row an image size, the best value of each metric in bold.

    Columns for which `width` characters are too few stand in a further table below.
    """
    header, rows, best = evaluation_cells(evaluation)
    others = ", ".join(label(metric) for metric in evaluation_metrics(evaluation)[1:])
    calibrated = others and evaluation["calibrated"].any()

    def table(columns: Sequence[int]) -> Table:
        return _rich(
            [header[column] for column in columns],
            [[row[column] for column in columns] for row in rows],
            {(row, columns.index(column)) for row, column in best if column in columns},
            caption=f"{others}: calibrated" if calibrated and 1 in columns else None,
            close=len(header) > _MANY,
        )

    def fits(columns: Sequence[int]) -> bool:
        return Console(width=10**6).measure(table(columns)).maximum <= width

    parts = [[0]]
    for column in range(1, len(header)):
        if len(parts[-1]) > 1 and not fits([*parts[-1], column]):
            parts.append([0])
        parts[-1].append(column)
    return Group(*map(table, parts))


def by_metric(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The evaluated runs by the metric that they are judged by: those of different tasks do not compare."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if len(run.evaluation):
            found.setdefault(evaluation_metrics(run.evaluation)[0], []).append(run)
    return found


def accuracy_by_size(runs: Iterable[Run], metric: str = "") -> pd.DataFrame:
    """A metric of each run at each size: index (run, as trained or calibrated), a column a size, named by the metric.

    `metric` is by default the one that models are judged by.
    """
    evaluated = [run for run in runs if len(run.evaluation)]
    metric = metric or main_metric(m for run in evaluated[:1] for m in evaluation_metrics(run.evaluation))
    frames = {run.name: by_size(run.evaluation, metric).T for run in evaluated}
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, names=["run", "how"])
    return table[sorted(table.columns)].rename_axis(columns=metric)


def comparison_cells(accuracy: pd.DataFrame) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Header, rows and best cells (row, column) of what `accuracy_by_size` returns."""
    metric = str(accuracy.columns.name)
    header = ["run", ""] + [f"{size} px" for size in accuracy.columns]
    rows = [
        [str(run), str(how), *(show(metric, value) for value in values)]
        for (run, how), values in zip(accuracy.index, accuracy.to_numpy(), strict=True)
    ]
    best = set()
    if len(rows) > 1:
        for column, size in enumerate(accuracy.columns):
            values = accuracy[size]
            if values.notna().any():
                best.add((int(values.argmin() if lower_is_better(metric) else values.argmax()), column + 2))
    return header, rows, best


def comparison_table(accuracy: pd.DataFrame) -> Table:
    """What `accuracy_by_size` returns, for the console; the best run at each size is in bold."""
    header, rows, best = comparison_cells(accuracy)
    return _rich(header, rows, best, text_columns=2, title=f"{label(str(accuracy.columns.name))} by image size")


def setting_cells(found: BySetting) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Header, rows and best cells (row, column) of a metric by a setting: a row a line, a column an x.

    A cell is what `setting_key` says: lines of text, the median first.
    """
    summary = found.summary()
    header = [found.line] + [show_setting(found.x, value) for value in found.where]
    rows, best = [[line or "all runs"] for line in found.lines], set()
    counted = summary["runs"].nunique() > 1
    for column, value in enumerate(found.where):
        at = summary.xs(value, level="x")
        for row, line in zip(rows, found.lines, strict=True):
            row.append("\n".join(_spread(found.metric, at.loc[line], counted)) if line in at.index else "-")
        if len(rows) > 1:
            top = at["median"].min() if lower_is_better(found.metric) else at["median"].max()
            best |= {(found.lines.index(line), column + 1) for line in at.index[at["median"] == top]}
    return header, rows, best


def setting_key(found: BySetting) -> str:
    """What the cells of a metric by a setting hold; empty where each is of a single run."""
    counts = found.summary()["runs"].unique()
    if len(counts) > 1:
        return "median (lowest-highest) n=runs"
    return f"median (lowest-highest) of {counts[0]} runs" if found.several else ""


def setting_table(found: BySetting, width: int = 80) -> Table:
    """A metric by a setting, for the console: the first that fits `width` characters of wide, turned and long.

    Wide has a row a line and a column an x, turned a row an x and a column a line, long a row for both.
    """
    header, rows, best = setting_cells(found)
    turned = [list(column) for column in zip([found.x, *header[1:]], *rows, strict=True)]
    labels = 1
    if _width([header, *rows]) > width >= _width(turned):
        header, rows, best = turned[0], turned[1:], {(column - 1, row + 1) for row, column in best}
    elif _width([header, *rows]) > width:
        places = [
            (row, column) for row in range(len(rows)) for column in range(1, len(header)) if rows[row][column] != "-"
        ]
        best = {(i, 2) for i, place in enumerate(places) if place in best}
        rows = [[rows[row][0], header[column], rows[row][column].replace("\n", " ")] for row, column in places]
        header, labels = [found.line, found.x, found.label], 2
    return _rich(header, rows, best, text_columns=labels, title=found.title, caption=setting_key(found))


def _width(cells: Sequence[Sequence[str]]) -> int:
    """Characters that a table of these rows takes on the console."""
    columns = zip(*cells, strict=True)
    return sum(3 + max(len(part) for cell in column for part in cell.split("\n")) for column in columns)


def _spread(metric: str, point: Any, counted: bool) -> list[str]:
    """Median of a point's runs; their range where there are several; their number if it is to be told."""
    median, lowest, highest = (show(metric, point[name]) for name in ("median", "lowest", "highest"))
    if point["runs"] == 1:
        return [median]
    return [
        median,
        f"({lowest.removesuffix('%')}-{highest.removesuffix('%')})",
        *([f"n={point['runs']:.0f}"] * counted),
    ]


def _rich(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    best: set[tuple[int, int]],
    *,
    text_columns: int = 0,
    title: str | None = None,
    caption: str | None = None,
    close: bool | None = None,
) -> Table:
    if close is None:
        close = len(header) > _MANY
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0 if close else 1),
    )
    for i, cell in enumerate(header):  # in a narrow console names fold, numbers are never cut
        words = cell.replace(" ", "\n") if close else cell
        heading = Text(re.sub(f" ({AS_TRAINED}|{CALIBRATED})$", r"\n\1", words))
        number = i >= text_columns
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*(Text(cell, style="bold green" if (i, j) in best else "") for j, cell in enumerate(row)))
    return table
