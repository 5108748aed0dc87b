"""`anysize report RUN`."""

from anysize.cli import tell


def command(run: str, /) -> None:
    """Write report.html of a run anew.

    Args:
        run: the run folder
    """
    from anysize.reports.html import write_report

    tell(f"the report is {write_report(run)}")
