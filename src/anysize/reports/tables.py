"""Tables of evaluations and comparisons: as data frames, and for people."""

import dataclasses
from typing import Any

import pandas as pd

from anysize.reports.by_setting import BySetting
from anysize.reports.columns import EVALUATION_FACTS, best_places, label, main_metric, show
from anysize.reports.console import fits
from anysize.reports.setting_values import show_setting
from anysize.reports.text_table import TextTable

AS_TRAINED, CALIBRATED, ADAPTED = "as trained", "calibrated", "adapted"


def evaluation_metrics(evaluation: pd.DataFrame) -> list[str]:
    """The metrics of an evaluation, the one that models are judged by first.

    >>> evaluation_metrics(pd.DataFrame(columns=["size", "calibrated", "loss", "top5", "top1", "images"]))
    ['top1', 'top5', 'loss']
    """
    metrics = [column for column in evaluation.columns if column not in EVALUATION_FACTS]
    return sorted(metrics, key=lambda metric: (metric != main_metric(metrics), metric == "loss"))


def by_size(evaluation: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of an evaluation: a row a size (ascending), a column each for `as trained` and `calibrated`, if there.

    Rows of copies that were adapted to their size, beside those of another checkpoint, stand in a column `adapted`.

    >>> frame = pd.DataFrame({"size": [32, 16, 16], "calibrated": [False, False, True], "top1": [0.9, 0.5, 0.7]})
    >>> by_size(frame, "top1").loc[16].to_dict()
    {'as trained': 0.5, 'calibrated': 0.7}
    """
    if column not in evaluation:
        return pd.DataFrame()
    how = evaluation["calibrated"].map({False: AS_TRAINED, True: CALIBRATED})
    if "checkpoint" in evaluation and evaluation["checkpoint"].nunique() > 1:
        how = how.mask(evaluation["checkpoint"].astype(str).str.startswith("adapted-"), ADAPTED)
    table = evaluation.assign(how=how).pivot_table(index="size", columns="how", values=column, sort=True)
    return table[[each for each in (AS_TRAINED, CALIBRATED, ADAPTED) if each in table]]


def evaluation_table(evaluation: pd.DataFrame, *, all_twice: bool = False) -> TextTable:
    """An evaluation: a row an image size, the best value of each metric stands out.

    The main metric stands as trained and calibrated, with `all_twice` the others do too; else they are the calibrated
    ones where there are any.
    """
    metrics = evaluation_metrics(evaluation)
    columns: list[tuple[str, str, pd.Series[float]]] = []  # heading, name of the column in the files, values
    for name in [*metrics, *(fact for fact in ("images_per_second", "latency", "flops") if fact in evaluation)]:
        values = by_size(evaluation, name)
        if values.empty:  # such as of small objects, where there is none
            continue
        if name == metrics[0] or (all_twice and name in metrics):
            columns += [(f"{label(name)}\n{how}", name, values[how]) for how in values]
        else:
            columns.append((label(name), name, values.drop(columns=ADAPTED, errors="ignore").iloc[:, -1]))
    costs = by_size(evaluation, "prepared_flops")
    if ADAPTED in costs:
        columns += [(f"FLOPs,\n{how}", "prepared_flops", costs[how]) for how in costs if how != AS_TRAINED]
    sizes = sorted(evaluation["size"].unique())
    others = ", ".join(label(metric) for metric in metrics[1:])
    caption = f"{others}: calibrated" if others and evaluation["calibrated"].any() and not all_twice else ""
    columns = [(heading, name, values.reindex(sizes)) for heading, name, values in columns]
    cells = [[show(name, value) for value in values] for _, name, values in columns]
    best = {
        (row, place)
        for place, (_, name, values) in enumerate(columns, start=1)
        if name not in EVALUATION_FACTS
        for row in best_places(name, list(values))
    }
    rows = [[f"{size} px", *(column[i] for column in cells)] for i, size in enumerate(sizes)]
    headings = ["size", *(heading for heading, _, _ in columns)]
    if len(chosen := evaluation[evaluation["calibrated"] & evaluation.get("strength", pd.Series(dtype=float)).notna()]):
        taken = {row["size"]: taken_of_calibration(row["strength"], row["part"]) for _, row in chosen.iterrows()}
        headings.append("calibration")
        rows = [[*row, taken.get(size, "-")] for row, size in zip(rows, sizes, strict=True)]
    return TextTable(headings, rows, best, caption=caption)


def taken_of_calibration(strength: float, part: float) -> str:
    """How much of a calibration was taken, for a table.

    >>> [taken_of_calibration(*taken) for taken in ((0, 1), (1, 1), (0.25, 1), (0.5, 0.25))]
    ['none', 'full', '25%', '50% of the first 25% of norms']
    """
    if not strength:
        return "none"
    if strength == part == 1:
        return "full"
    return f"{100 * strength:g}%" + (f" of the first {100 * part:g}% of norms" if part < 1 else "")


def setting_table(found: BySetting) -> TextTable:
    """A metric by a setting: a row a line, a column an x. A cell has lines of text, the median first."""
    summary = found.summary()
    rows, best = [[line or "all runs"] for line in found.lines], set()
    counted = summary["runs"].nunique() > 1
    for column, value in enumerate(found.where):
        at = summary.xs(value, level="x").reindex(found.lines)
        for row, (_, point) in zip(rows, at.iterrows(), strict=True):
            row.append("\n".join(_spread(found.metric, point, counted)) if point["runs"] > 0 else "-")
        best |= {(row, column + 1) for row in best_places(found.metric, list(at["median"]))}
    caption = f"median (lowest-highest) of {summary['runs'].iloc[0]} runs" if found.several else ""
    caption = "median (lowest-highest) n=runs" if counted else caption
    header = [found.line, *(show_setting(found.x, value) for value in found.where)]
    return TextTable(header, rows, best, title=found.title, caption=caption)


def fitting_setting_table(found: BySetting, width: int = 80) -> TextTable:
    """A metric by a setting, as the first of wide, turned and long that fits `width` characters of the console.

    Wide has a row a line and a column an x, turned a row an x and a column a line, long a row for both.
    """
    wide = setting_table(found)
    for table in (wide, wide.turned(found.x)):
        if fits(table, width):
            return table
    places = [(i, j) for i, row in enumerate(wide.rows) for j, cell in enumerate(row) if j and cell != "-"]
    return dataclasses.replace(
        wide,
        header=[found.line, found.x, found.label],
        rows=[[wide.rows[i][0], wide.header[j], wide.rows[i][j].replace("\n", " ")] for i, j in places],
        best={(place, 2) for place, at in enumerate(places) if at in wide.best},
        labels=2,
    )


def _spread(metric: str, point: Any, counted: bool) -> list[str]:
    """Median of a point's runs; their range where there are several; their number if it is to be told."""
    median, lowest, highest = (show(metric, point[name]) for name in ("median", "lowest", "highest"))
    if point["runs"] == 1:
        return [median]
    extent = f"({lowest.removesuffix('%')}-{highest.removesuffix('%')})"
    return [median, extent, *([f"n={point['runs']:.0f}"] * counted)]
