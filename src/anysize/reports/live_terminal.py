"""Running runs on a terminal: a table that is renewed until somebody has seen enough."""

import time
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from anysize.registry import printable
from anysize.reports.columns import label, show
from anysize.reports.console import draw_table, tolerant
from anysize.reports.live import Followed, Watched
from anysize.reports.text_table import TextTable

_AROUND = 6  # lines of a screen that are not rows


def runs_table(runs: Sequence[Followed], most: int = 1000) -> TextTable:
    """A row a run: state, epoch, loss, main metric, speed, waiting for images, time that is left."""
    told = [(run, run.progress()) for run in runs[:most]]
    metrics = {progress.metric for _, progress in told}
    alike = len(metrics) == 1
    rows = []
    for run, progress in told:
        value = show(progress.metric, progress.value)
        epoch = f"{progress.epoch:.1f}".removesuffix(".0")
        rows.append(
            [
                run.name,
                run.state,
                f"{epoch}/{progress.planned}" if progress.planned else epoch,
                show("loss", progress.loss),
                value if alike or value == "-" else f"{label(progress.metric)} {value}",
                show("images_per_second", progress.images_per_second),
                show("waiting", progress.waiting),
                show("seconds", progress.left),
            ]
        )
    heading = label(metrics.pop()) if alike else "validation"
    header = ["run", "state", "epoch", "loss", heading, "images/s", "waiting", "time left"]
    more = len(runs) - len(rows)
    return TextTable(header, rows, labels=2, caption=f"and {more} more" if more > 0 else "")


def watch(watched: Watched, seconds: float = 2.0, console: Console | None = None) -> None:
    """Show the runs until interrupted; where there is no terminal, once."""
    console = tolerant(console or Console())
    watched.look()
    if not console.is_terminal:
        console.print(_drawn(watched, console, len(watched.runs)), soft_wrap=not watched.runs)  # a path stays whole
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_drawn(watched, console, max(1, console.height - _AROUND)), refresh=True)
            time.sleep(seconds)
            watched.look()


def _drawn(watched: Watched, console: Console, most: int) -> RenderableType:
    if not watched.runs:
        return Text(printable(f"no run in {', '.join(map(str, watched.paths))} yet"))
    return draw_table(runs_table(watched.runs, most), console.width)
