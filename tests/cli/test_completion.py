"""`anysize completion`: what the shell then offers are verbs, options, recipes and settings."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anysize.cli.completion import SHELLS, completion_script

_TRY = """
offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=(); _anysize_with_names; echo "${COMPREPLY[@]}"; }
offer anysize lr
offer anysize train quickst
offer anysize train quickstart --training.epo
offer anysize train quickstart --fast
offer anysize data ch
offer anysize settings --training.epo
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_offers_verbs_options_recipes_and_settings(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", completion_script("bash") + _TRY], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names = "quickstart quickstart-fixed quickstart-multilabel quickstart-segmentation"
    assert done.stdout.splitlines() == ["lr-find", names, "--training.epochs", "--fast-dev-run", "check", ""]
    assert not done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_ones_that_the_shell_takes(shell: str) -> None:
    script = completion_script(shell)
    assert "lr-find" in script
    if shutil.which(shell) and shell != "powershell":
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_command_prints_or_installs(
    anysize: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/fish")
    assert anysize("completion").stdout == completion_script("fish")
    done = anysize("completion", "--install")
    path = tmp_path / ".config/fish/completions/anysize.fish"
    assert path.read_text(encoding="utf-8") == completion_script("fish"), done.stderr
    monkeypatch.setenv("SHELL", "")
    refused = anysize("completion")
    assert (refused.returncode, "the shell is ''" in refused.stderr) == (2, True)
