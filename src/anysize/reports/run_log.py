"""The log of a run while it trains: a live line on a terminal, plain lines elsewhere, and the files that grow."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anysize.files import open_in_place
from anysize.registry import UserError, printable
from anysize.reports import run_files
from anysize.reports.columns import label, metrics_of, show
from anysize.reports.console import tolerant
from anysize.reports.log_reading import ENDS
from anysize.reports.steps import StepsFile

# A number, a tensor of one element (its device is waited for only when the line is drawn), or a function giving one.
Value = SupportsFloat | Callable[[], SupportsFloat]

_LIVE_SECONDS = 0.1
_PLAIN_SECONDS = 10.0
_BAR = (4, 16)  # the fewest and the most characters of the bar
_GAP = 2


class RunLog:
    """Shows and records the progress of a run. Use as a context manager.

    Args:
        folder: the run folder; it exists.
        epochs: epochs of the whole run.
        console: where to show; a terminal gets a live line, anything else plain lines. None: standard output.

    >>> import io, tempfile
    >>> screen = io.StringIO()
    >>> with RunLog(Path(tempfile.mkdtemp()), epochs=8, console=Console(file=screen)) as log:
    ...     log.epoch({"epoch": 3, "train_loss": 0.512, "train_top1": 0.812, "images_per_second": 1210.0})
    >>> print(screen.getvalue().rstrip())
    epoch 3/8  loss 0.512  top-1 81.2%  |  1,210 images/s
    """

    def __init__(self, folder: Path, epochs: int, console: Console | None = None) -> None:
        self.folder = folder
        self.epochs = epochs
        self.console = tolerant(console or Console())
        self._told: set[Path] = set()
        self._log: TextIO | None = None
        self._steps = StepsFile(folder / run_files.STEPS)
        self._live: Live | None = None
        self._without_log(self._open)
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._show(self._live.start)
        self._seconds = _LIVE_SECONDS if self._live else _PLAIN_SECONDS
        self._next = time.monotonic() + self._seconds

    def message(self, text: str) -> None:
        """Show a line and write it to `log.txt` with the time (UTC)."""
        self._write("INFO", text)
        self._print(text)

    def warning(self, text: str) -> None:
        """As `message`, marked as a warning."""
        self._write("WARNING", text)
        self._print(f"warning: {text}", "yellow")

    def step(
        self,
        epoch: int,
        step: int,
        steps: int,
        size: int,
        *,
        loss: Value,
        metrics: Mapping[str, Value],
        lr: Value,
        images_per_second: Value,
        seconds_left: Value,
        waiting: Value = 0.0,
    ) -> None:
        """Show where training is, at most ten times a second (every ten seconds in plain lines).

        A call that shows nothing takes about a microsecond and evaluates none of the values: pass tensors or functions.

        Args:
            epoch, step: the one in progress, counted from 1; `steps` is the number of steps of this epoch.
            size: image size of the step in pixels.
            metrics: names (`top1`) to values of the epoch so far.
            waiting: share of the epoch's time in which images were waited for; one that rounds to 0% is not shown.
        """
        if not self._due():
            return
        shown = [f"{label(name)} {show(name, _number(value))}" for name, value in {"loss": loss, **metrics}.items()]
        speed = f"{show('images_per_second', _number(images_per_second))} img/s"
        waited = [f"{share} waiting"] if (share := f"{_number(waiting):.0%}") != "0%" else []
        rate = f"lr {show('lr', _number(lr))}"
        values = [f"{size} px", *shown, speed, *waited, f"{show('seconds', _number(seconds_left))} left", rate]
        where = f"epoch {epoch}/{self.epochs}"
        if self._live is None:
            self._print("  ".join([where, f"step {step}/{steps}", *values]))
            return
        told = [f"{step}/{steps}", *values]
        room = self.console.width - len(where) - 2 * _GAP
        for least in (rate, speed, *waited, *reversed(shown[1:])):
            if len("  ".join(told)) + _BAR[0] > room:
                told.remove(least)
        text = "  ".join(told)
        bar = ProgressBar(total=steps, completed=step, width=min(_BAR[1], max(_BAR[0], room - len(text))))
        line = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        line.add_row(where, bar, Text(text, no_wrap=True, overflow="ellipsis"))
        self._refresh(line)

    def doing(self, text: str) -> None:
        """Show what is done beside training, such as how far the validation is, as often as a step is shown."""
        if not self._due():
            return
        if self._live is None:
            self._print(text)
        else:
            self._refresh(Text(printable(text), no_wrap=True, overflow="ellipsis"))

    def _due(self) -> bool:
        """Whether it is time to show another line."""
        now = time.monotonic()
        due = now >= self._next
        if due:
            self._next = now + self._seconds
        return due

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show the line of an epoch that is done."""
        self._refresh("")
        self._next = time.monotonic() + self._seconds
        self.message(self._epoch_line(row))

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.csv` with these rows of the epochs that are done, in place of what it has."""
        path = self.folder / run_files.METRICS
        self.go_on_without(path, lambda: run_files.write_rows(path, rows))

    def steps(self, rows: Sequence[Mapping[str, Any]], *, now: bool = False) -> None:
        """Add rows to `steps.csv`, which the system has within a second, or with `now` when this returns."""

        def write() -> None:
            for row in rows:
                self._steps.add(row)
            if now:
                self._steps.flush()

        self.go_on_without(self._steps.path, write)

    def cut_steps(self, step: int) -> None:
        """Remove from `steps.csv` what is behind a step, where a run goes on or starts."""
        self.go_on_without(self._steps.path, lambda: self._steps.cut(step))

    def go_on_without(self, path: Path, write: Callable[[], object]) -> bool:
        """`run_files.go_on_without`, which warns here, and of each file once."""
        return run_files.go_on_without(path, write, self._told, self.warning)

    def close(self) -> None:
        """Take the live line away and close the files."""
        if self._live:
            self._show(self._live.stop)
        self.go_on_without(self._steps.path, self._steps.close)
        if self._log:
            self._without_log(self._log.close)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):  # whoever catches it shows it
            self._write("ERROR" if isinstance(error, UserError) else "INFO", f"{ENDS}{error}")
        self.close()

    def _epoch_line(self, row: Mapping[str, Any]) -> str:
        parts = [f"epoch {row['epoch']}/{self.epochs}  {_metrics(row, 'train')}".rstrip()]
        if validation := _metrics(row, "validation"):
            how = ["calibrated"] if row.get("validation_calibrated") else []
            how += [f"at {row['validation_size']} px"] if row.get("validation_size") else []
            parts.append(f"validation {validation}" + (f" ({' '.join(how)})" if how else ""))
        if row.get("images_per_second") is not None:
            parts.append(f"{show('images_per_second', row['images_per_second'])} images/s")
        return "  |  ".join(parts)

    def _open(self) -> None:
        self._log = open_in_place(self.folder / run_files.LOG, append=True)
        self._log.reconfigure(line_buffering=True)  # type: ignore[attr-defined]

    def _write(self, level: str, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if log := self._log:  # which keeps what it could not write, and tries again with the next line
            self._without_log(lambda: log.write(f"{now} {level} {printable(text)}\n"))

    def _without_log(self, do: Callable[[], object]) -> None:
        run_files.go_on_without(
            self.folder / run_files.LOG, do, self._told, lambda text: self._print(f"warning: {text}", "yellow")
        )

    def _refresh(self, line: RenderableType) -> None:
        if live := self._live:
            self._show(lambda: live.update(line, refresh=True))

    def _print(self, text: str, style: str = "") -> None:
        # Soft wrap: a line in a file stays a line, however long. Plain text: a "[" is no markup.
        self._show(lambda: self.console.print(Text(printable(text), style=style), soft_wrap=True))

    def _show(self, show: Callable[[], object]) -> None:
        """Show something; a console that cannot be written, such as a full disk or a closed pipe, ends no training."""
        try:
            show()
        except OSError as error:
            self._without_console(error)
        except SystemExit as end:  # rich's, which shows nothing from now on
            if not isinstance(end.__context__, BrokenPipeError):
                raise
            self._without_console(end.__context__)

    def _without_console(self, error: OSError) -> None:
        if (console := Path("console")) not in self._told:
            self._told.add(console)
            self._write("WARNING", f"the console cannot be written: {run_files.reason_of(error)}")


class SilentLog(RunLog):
    """The log of a process that writes nothing and shows its own warnings alone: another one of the run does the rest.

    >>> import io
    >>> screen = io.StringIO()
    >>> SilentLog(Path(), 1, Console(file=screen), rank=3).warning("left out cat.jpg")
    >>> print(screen.getvalue().rstrip())
    warning: process 3: left out cat.jpg
    """

    def __init__(self, folder: Path, epochs: int, console: Console | None = None, rank: int = 1) -> None:
        self.epochs = epochs
        self.console = tolerant(console or Console())
        self.rank = rank
        self._log, self._told = None, set()

    def warning(self, text: str) -> None:
        """Show what this process has met."""
        self._print(f"warning: process {self.rank}: {text}", "yellow")

    def step(self, *where: Any, **values: Any) -> None:
        pass

    message = epoch = table = steps = cut_steps = close = doing = step


def _metrics(row: Mapping[str, Any], split: str) -> str:
    """The metrics of a split that have a value: `loss 0.512  top-1 81.2%`."""
    shown = [(name, show(name, row.get(f"{split}_{name}"))) for name in metrics_of(row)]
    return "  ".join(f"{label(name)} {value}" for name, value in shown if value != "-")


def _number(value: Value) -> float:
    return float(value() if callable(value) else value)
