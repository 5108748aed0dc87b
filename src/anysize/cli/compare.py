"""`anysize compare RUN...`."""

from collections.abc import Callable
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
    from rich.console import Console

    from anysize.recipe import documented_settings
    from anysize.reports.by_setting import by_setting
    from anysize.reports.compare import X_AXES, Comparison, read_runs, write_comparison, write_comparison_table
    from anysize.reports.console import show_table
    from anysize.reports.grouping import left_out
    from anysize.reports.tables import fitting_setting_table

    setting = x not in X_AXES
    defaults = {name: default for name, default, _, _ in documented_settings()}
    options: dict[str, Any] = {"line": line, "metric": metric, "unfinished": unfinished}
    read = read_runs(runs, legend, untrained=setting)
    compared = Comparison.of(read, together=group, defaults=defaults)
    unwritten, written = [], []
    writes: dict[str, Callable[[], object]] = {
        out: lambda: write_comparison(compared, out, columns=columns or (), x=x, colors=colors, **options),
        csv: lambda: write_comparison_table(compared, csv),
    }
    for path, write in writes.items():
        try:
            if path:
                write()
                written.append(path)
        except UserError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            unwritten.append(error)  # which is said below what can be shown without the file
    if setting:
        found = by_setting(read, x, **options, defaults=defaults)
        show_table(fitting_setting_table(found, Console().width))
        for note in found.notes:
            tell(note)
    else:
        show_table(compared.summary[0])
        for note in left_out(compared.groups):
            tell(note)
    missing = [run.name for run in read if not len(run.evaluation)]
    if missing and not setting:
        tell(f"not evaluated at any size yet: {', '.join(missing)} (`anysize evaluate RUN`)")
    made = {run.name: run.evaluated_with for run in read if len(run.evaluation)}
    if len(set(made.values())) > 1 and not setting:
        told = "; ".join(f"{name} with {how or 'the usual settings'}" for name, how in made.items())
        tell(f"not evaluated alike: {told}")
    for _, _, table in compared.by_size:
        show_table(table)
    for path in written:
        tell(f"the comparison is {path}")
    if unwritten:
        raise unwritten[0]
