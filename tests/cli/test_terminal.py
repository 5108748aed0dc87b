"""Names from elsewhere are shown as they are: they steer no terminal, and are no markup."""

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rich.console import Console

from anysize.cli import main, tell
from anysize.registry import in_a_line
from anysize.reports.console import progress, show_table
from anysize.reports.run_log import RunLog, SilentLog
from anysize.reports.text_table import TextTable

NAME = "\x1b[2J\x1b]0;x\x07[bold]cat[/bold]\x9b31m\u202egnp.exe"
SHOWN = "\\x1b[2J\\x1b]0;x\\x07[bold]cat[/bold]\\x9b31m\\u202egnp.exe"


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=300, color_system=None, **options)  # type: ignore[arg-type]


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_tables_and_progress() -> None:
    screen = console()
    show_table(TextTable(["class", NAME], [[NAME, "1"]], title=NAME, caption=NAME, total=[NAME, "1"]), screen)
    assert text_of(screen).count(SHOWN) == 5
    assert "\x1b" not in text_of(screen)
    terminal = console(force_terminal=True)
    with progress(f"reading {NAME[:4]}", terminal) as say:
        say(NAME)
        terminal.print("")
    assert "[bold]cat" in text_of(terminal)
    assert "\x1b]0;x" not in text_of(terminal)


def test_the_log_of_a_run(tmp_path: Path) -> None:
    screen = console()
    with RunLog(tmp_path, 1, screen) as log:
        log.message(NAME)
        log.warning(NAME)
    SilentLog(tmp_path, 1, screen, 3).warning(NAME)
    assert text_of(screen).splitlines() == [SHOWN, f"warning: {SHOWN}", f"warning: process 3: {SHOWN}"]
    assert (tmp_path / "log.txt").read_text().count(SHOWN) == 2


def test_errors_warnings_and_results(
    anysize: Callable[..., CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert SHOWN in anysize("evaluate", NAME).stderr
    tell(NAME)
    assert capsys.readouterr().out == f"{SHOWN}\n"
    record = logging.LogRecord("anysize", logging.WARNING, "", 0, "left out %s", (NAME,), None)
    assert logging.lastResort
    assert logging.lastResort.format(record) == f"left out {SHOWN}"


def test_a_message_has_a_line_of_what_it_received() -> None:
    assert in_a_line("a\nb\tc" + "x" * 10_000, most=10) == "a\\nb\\...xxxxx (10,007 characters)"
    assert in_a_line([1, 2]) == "[1, 2]"


def test_who_has_read_enough_ends_a_command_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "argv", ["anysize", "settings", "optimizer.lr"])
    monkeypatch.setattr(sys, "stdout", Pipe())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert not capsys.readouterr().err
