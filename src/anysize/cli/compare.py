"""`anysize compare RUN...`."""

from typing import Annotated, Any

from cyclopts import Parameter

from anysize.cli import tell
from anysize.registry import UserError


def command(
    *runs: str,
    out: str = "comparison.html",
    columns: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    x: str = "epoch",
    legend: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    colors: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    line: str = "",
    metric: str = "",
    unfinished: bool = False,
) -> None:
    """Compare runs: accuracy by image size or by a setting here, curves and tables in an HTML file.

    Args:
        runs: run folders
        out: the HTML file to write
        columns: a figure each: a column of metrics.csv, or a metric such as loss or error
            for training and validation at once
        x: horizontal axis: epoch, step, images, flops or seconds, or a setting such as training.batch_size
        legend: a name for each run
        colors: a CSS colour for each run
        line: with a setting as x: another setting, such as model.norm; each of its values is a line
        metric: with a setting as x: what is drawn, such as top1, loss or best_top1
            (by default the main metric, last epoch)
        unfinished: with a setting as x: take runs too that did not reach their last epoch
    """
    from rich.console import Console

    from anysize.recipe import documented_settings
    from anysize.reports.by_setting import by_setting
    from anysize.reports.compare import X_AXES, read_runs, write_comparison
    from anysize.reports.console import show_table
    from anysize.reports.tables import accuracy_by_size, by_metric, comparison_table, fitting_setting_table

    setting = x not in X_AXES
    defaults = {name: default for name, default, _, _ in documented_settings()}
    options: dict[str, Any] = {"line": line, "metric": metric, "unfinished": unfinished, "defaults": defaults}
    unwritten = None
    try:
        write_comparison(runs, out, columns=columns or (), x=x, legend=legend, colors=colors, **options)
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        unwritten = error  # which is said below what can be shown without the file
    read = read_runs(runs, legend, untrained=setting)
    if setting:
        found = by_setting(read, x, **options)
        show_table(fitting_setting_table(found, Console().width))
        for note in found.notes:
            tell(note)
    missing = [run.name for run in read if not len(run.evaluation)]
    if missing and not setting:
        tell(f"not evaluated at any size yet: {', '.join(missing)} (`anysize evaluate RUN`)")
    made = {run.name: run.evaluated_with for run in read if len(run.evaluation)}
    if len(set(made.values())) > 1 and not setting:
        told = "; ".join(f"{name} with {how or 'the usual settings'}" for name, how in made.items())
        tell(f"not evaluated alike: {told}")
    for judged_by, evaluated in by_metric(read).items():
        show_table(comparison_table(accuracy_by_size(evaluated, judged_by)))
    if unwritten:
        raise unwritten
    tell(f"the comparison is {out}")
