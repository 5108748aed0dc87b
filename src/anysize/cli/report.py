"""`anysize report RUN`."""


def command(run: str, /) -> None:
    """Write report.html of a run anew.

    Args:
        run: the run folder
    """
    from anysize.reports.html import write_report

    print(f"the report is {write_report(run)}")
