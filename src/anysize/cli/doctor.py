"""`anysize doctor`."""

from typing import Annotated

from cyclopts import Parameter


def command(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Tell what is installed, which features of processor and GPU are used, and what would be faster.

    Args:
        json: print the findings as JSON
    """
    from rich.console import Console
    from rich.text import Text

    from anysize.experiment.doctor import examine, to_dicts
    from anysize.registry import printable
    from anysize.reports.console import tolerant

    findings = examine()
    if json:
        import json as writer

        print(writer.dumps(to_dicts(findings), indent=2))
        return
    console, area = tolerant(Console()), ""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        if finding.area != area:
            area = finding.area
            console.print(Text(area, style="bold"))
        line = f"  {finding.name:{width}}  {printable(finding.value)}"
        console.print(Text(line, style="" if finding.good else "yellow"), soft_wrap=True)
    advice = [finding for finding in findings if finding.advice]
    for title, good in (("to be mended, or faster", False), ("if you like", True)):
        if chosen := [finding for finding in advice if finding.good == good]:
            console.print(Text(title, style="bold"))
            for finding in chosen:
                console.print(Text(f"  {finding.name}: {printable(finding.advice)}"), soft_wrap=True)
