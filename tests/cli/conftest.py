"""The command line as a user meets it, but in this process: a process of its own would load torch anew each time."""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from anysize.cli import main

Anysize = Callable[..., CompletedProcess[str]]


@pytest.fixture
def anysize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Anysize:
    """Runs a command line in the test's own folder, on a console of 160 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["anysize", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return CompletedProcess(arguments, int(stop.value.code or 0), *capsys.readouterr())

    return run
