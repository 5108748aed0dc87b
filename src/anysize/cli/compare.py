"""`anysize compare RUN...`."""

from typing import Annotated

from cyclopts import Parameter


def command(
    *runs: str,
    out: str = "comparison.html",
    columns: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    x: str = "epoch",
    legend: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    colors: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
) -> None:
    """Compare runs: accuracy by image size here, curves and tables in an HTML file.

    Parameters
    ----------
    runs
        run folders
    out
        the HTML file to write
    columns
        a figure each: a column of metrics.csv, or a metric such as loss or error for training and validation at once
    x
        horizontal axis: epoch, step, images, flops or seconds
    legend
        a name for each run
    colors
        a CSS colour for each run
    """
    from rich.console import Console

    from anysize.reports.compare import read_runs, write_comparison
    from anysize.reports.tables import accuracy_by_size, comparison_table

    path = write_comparison(runs, out, columns=columns or (), x=x, legend=legend, colors=colors)
    console = Console()
    read = read_runs(runs, legend)
    evaluated = [run for run in read if len(run.evaluation)]
    if missing := [run.name for run in read if not len(run.evaluation)]:
        console.print(f"not evaluated at any size yet: {', '.join(missing)} (`anysize evaluate RUN`)", soft_wrap=True)
    if evaluated:
        console.print(comparison_table(accuracy_by_size(evaluated)))
    console.print(f"the comparison is {path}", soft_wrap=True)
