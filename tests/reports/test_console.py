"""What is being done just now, on a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from anysize.reports import console as module
from anysize.reports.console import progress, show_table
from anysize.reports.text_table import TextTable


def test_a_pipe_gets_lines_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every ten seconds at most, so that the results alone go through the pipe."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("evaluating") as say:
        for second in range(35):
            now[0] = float(second)
            say(f"evaluated {second} images")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["evaluated 10 images", "evaluated 20 images", "evaluated 30 images"]


def test_a_terminal_gets_a_line_that_changes_and_a_quiet_console_nothing() -> None:
    screen = io.StringIO()
    with progress("evaluating", Console(file=screen, force_terminal=True)) as say:
        say("evaluated 3 images")
    assert "evaluat" in screen.getvalue()
    silent = io.StringIO()
    with progress("evaluating", Console(file=silent, quiet=True)) as say:
        say("evaluated 3 images")
    assert silent.getvalue() == ""


def test_columns_are_as_wide_as_the_console_writes_them() -> None:
    screen = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), width=60)
    show_table(TextTable(["class", "café"], [["日本", "1"], ["caf\udce9", "20"]]), screen)
    screen.file.flush()
    assert isinstance(screen.file, io.TextIOWrapper)
    shown = screen.file.buffer.getvalue().decode().splitlines()  # type: ignore[attr-defined]
    rows = [line for line in shown if "\\" in line]
    assert [cell.strip("| ") for cell in rows] == [
        r"class        | caf\xe9",
        r"\u65e5\u672c |       1",
        r"caf\udce9    |      20",
    ]
    assert len({len(row) for row in rows}) == 1
