"""The console: tables, of which those that are too wide are drawn in parts, and what is being done just now."""

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Iterator

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anysize.registry import printable
from anysize.reports.text_table import TextTable

_NAME, _CUT = 24, 5  # characters of a name and of a text for which there should be room; more folds or is cut


_PLAIN_SECONDS = 10.0
"""Between two lines of `progress` where there is no terminal."""


@contextlib.contextmanager
def progress(doing: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show what is being done: yields a function that is told how far it is.

    A terminal has a line that changes. Elsewhere, in a pipe or a file, standard error gets a line every ten seconds,
    so that standard output holds the results alone.

    Args:
        doing: shown until something else is told.
        console: of the results; None: standard output. A quiet one shows nothing.
    """
    console = console or Console()
    if console.quiet:
        yield lambda text: None
        return
    if not console.is_terminal:
        console = Console(stderr=True)
    if console.is_terminal:
        with console.status(Text(doing)) as status:
            yield lambda text: status.update(Text(printable(text)))
        return
    shown = time.monotonic()

    def say(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _PLAIN_SECONDS:
            shown = time.monotonic()
            console.print(Text(printable(text)), soft_wrap=True)

    yield say


def show_table(table: TextTable, console: Console | None = None) -> None:
    """Print a table as wide as the console allows."""
    console = tolerant(console or Console())
    console.print(draw_table(_encodable(table, console.encoding), console.width))


def _encodable(table: TextTable, encoding: str) -> TextTable:
    """The table as a console of this encoding writes it, for the width of its columns."""

    def written(texts: Iterable[str]) -> list[str]:
        return [text.encode(encoding, "backslashreplace").decode(encoding) for text in texts]

    title, caption = written((table.title, table.caption))
    rows, header, total = [*map(written, table.rows)], written(table.header), written(table.total)
    return dataclasses.replace(table, header=header, rows=rows, title=title, caption=caption, total=total)


def tolerant(console: Console) -> Console:
    """The console, whose file writes what it cannot encode as `\\xe9` from now on, where it raised an error.

    >>> import io
    >>> show = tolerant(Console(file=io.TextIOWrapper(io.BytesIO(), "ascii")))
    >>> show.print("café")
    >>> show.file.flush()
    >>> show.file.buffer.getvalue()
    b'caf\\\\xe9\\n'
    """
    if isinstance(console.file, io.TextIOWrapper) and console.file.errors in ("strict", "surrogateescape"):
        console.file.reconfigure(errors="backslashreplace")
    return console


def draw_table(table: TextTable, width: int = 80) -> RenderableType:
    """A table for the console. Columns for which `width` characters are too few stand in a further table below.

    >>> import io
    >>> show_table(TextTable(["run", "top-1"], [["mixed", "81.2%"]]), console := Console(file=io.StringIO()))
    >>> [line.strip() for line in console.file.getvalue().splitlines() if line.strip()]
    ['run     top-1', '─────────────', 'mixed   81.2%']
    """
    if fits(table, width):
        return _drawn(table, close=_width(table, close=False) > width)
    parts = [list(range(table.labels))]
    for column in range(table.labels, len(table.header)):
        if len(parts[-1]) > table.labels and not fits(table.part([*parts[-1], column]), width):
            parts.append(list(range(table.labels)))
        parts[-1].append(column)
    first, *others = map(table.part, parts)
    others = [dataclasses.replace(other, title="", caption="") for other in others]
    return Group(*(_drawn(part, close=True) for part in (first, *others)))


def fits(table: TextTable, width: int) -> bool:
    """True if a table can be drawn whole in `width` characters."""
    return _width(table, close=True) <= width


def _width(table: TextTable, close: bool) -> int:
    """Characters that a table takes, if long names fold."""
    room = {**dict.fromkeys(range(table.labels), _NAME), **dict.fromkeys(table.cut, _CUT)}
    rows = [[cell[: room.get(i)] for i, cell in enumerate(row)] for row in table.rows]
    short = dataclasses.replace(table, rows=rows, title="", caption="")
    return Console(width=10**6).measure(_drawn(short, close)).maximum


def _drawn(table: TextTable, close: bool) -> Table:
    drawn = Table(
        title=escape(printable(table.title)) or None,
        caption=escape(printable(table.caption)) or None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE if table.total else SIMPLE_HEAD,
        show_footer=bool(table.total),
        pad_edge=False,
        padding=(0, 0 if close else 1),
    )
    for i, heading in enumerate(table.header):  # names fold, numbers are never cut
        number = i >= table.labels and i not in table.cut
        drawn.add_column(
            Text(printable(heading.replace(" ", "\n") if close else heading)),
            Text(printable(table.total[i])) if table.total else "",
            justify="right" if number else "left",
            no_wrap=number or (bool(table.cut) and i not in table.cut),
            overflow="fold",
        )
    for i, row in enumerate(table.rows):
        styles = ("bold green" if (i, j) in table.best else "" for j in range(len(row)))
        cells = [Text(printable(cell), style=style) for cell, style in zip(row, styles, strict=True)]
        for j in table.cut:
            cells[j] = Text(printable(row[j]), no_wrap=True, overflow="ellipsis")
        drawn.add_row(*cells)
    return drawn
