"""`anysize compare RUN...`."""

from typing import Annotated, Any

from cyclopts import Parameter

from anysize.cli import tell
from anysize.registry import UserError


def command(
    *runs: str,
    out: str = "comparison.html",
    csv: str = "",
    columns: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    x: str = "epoch",
    legend: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    colors: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    group: bool = True,
    line: str = "",
    metric: str = "",
    unfinished: bool = False,
) -> None:
    """Compare runs: results, cost and accuracy by image size or by a setting here, curves too in an HTML file.

    Runs whose recipes differ in the seed alone are one: their mean and standard deviation, and a difference from the
    best is told from chance.

    Args:
        runs: run folders, or folders of runs
        out: the HTML file to write; empty: none
        csv: a CSV file to write, too: a row a run, with the settings that differ, results and cost
        columns: a figure each: a column of metrics.csv, or a metric such as loss or error
            for training and validation at once
        x: horizontal axis: epoch, step, images, flops or seconds, which the page switches, or a setting such as
            training.batch_size
        legend: a name for each run
        colors: a CSS colour for each run
        group: take runs that differ in the seed alone as one
        line: with a setting as x: another setting, such as model.norm; each of its values is a line
        metric: with a setting as x: what is drawn, such as top1, loss or best_top1
            (by default the main metric, last epoch)
        unfinished: with a setting as x: take runs too that did not reach their last epoch
    """
    from pathlib import Path

    from rich.console import Console

    from anysize.recipe import documented_settings
    from anysize.reports.by_setting import by_setting
    from anysize.reports.compare import X_AXES, read_runs, write_comparison
    from anysize.reports.comparison_tables import comparison_frame, size_tables, summary_table
    from anysize.reports.console import show_table
    from anysize.reports.grouping import group_runs, left_out
    from anysize.reports.run_files import write_atomically
    from anysize.reports.tables import fitting_setting_table

    setting = x not in X_AXES
    defaults = {name: default for name, default, _, _ in documented_settings()}
    options: dict[str, Any] = {"line": line, "metric": metric, "unfinished": unfinished, "defaults": defaults}
    read = read_runs(runs, legend, untrained=setting)
    groups = group_runs(read, together=group, defaults=defaults)
    unwritten, written = [], []
    for path, write in (
        (out, lambda: write_comparison(read, out, columns=columns or (), x=x, colors=colors, group=group, **options)),
        (csv, lambda: write_atomically(Path(csv), comparison_frame(groups).to_csv(index=False, lineterminator="\n"))),
    ):
        try:
            if path:
                write()
                written.append(path)
        except UserError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            unwritten.append(error)  # which is said below what can be shown without the file
    if setting:
        found = by_setting(read, x, **options)
        show_table(fitting_setting_table(found, Console().width))
        for note in found.notes:
            tell(note)
    else:
        show_table(summary_table(groups)[0])
        for note in left_out(groups):
            tell(note)
    missing = [run.name for run in read if not len(run.evaluation)]
    if missing and not setting:
        tell(f"not evaluated at any size yet: {', '.join(missing)} (`anysize evaluate RUN`)")
    made = {run.name: run.evaluated_with for run in read if len(run.evaluation)}
    if len(set(made.values())) > 1 and not setting:
        told = "; ".join(f"{name} with {how or 'the usual settings'}" for name, how in made.items())
        tell(f"not evaluated alike: {told}")
    for table in size_tables(groups):
        show_table(table)
    for path in written:
        tell(f"the comparison is {path}")
    if unwritten:
        raise unwritten[0]
