"""The command line as a user meets it: in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anysize.cli import build_app, parse_settings
from anysize.registry import UserError

Anysize = Callable[..., subprocess.CompletedProcess[str]]

SMALL = ["--data.limit", "100", "--training.epochs", "1", "--training.batch-size", "8", "--model.name", "resnet8"]


def test_asking_what_there_is_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from anysize.cli import main\n"
        "for line in ['--help', 'train --help', 'recipes', 'recipes show mnist', 'settings', 'data', '--version']:\n"
        "    sys.argv = ['anysize', *line.split()]\n"
        "    try:\n        main()\n    except SystemExit as stop:\n        assert not stop.code, line\n"
        "    assert 'torch' not in sys.modules, line"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for shown in ("Commands", "--repeat", "Published".lower(), "# default", "--training.epochs", "fashion-mini"):
        assert shown in done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, anysize; dir(anysize); anysize.SizeMix, anysize.load_recipe; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anysize", "recipes", "show", "quikstart"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "anysize: unknown recipe 'quikstart': did you mean 'quickstart'?\n"


@pytest.mark.report
def test_from_training_to_a_comparison(anysize: Anysize, tmp_path: Path) -> None:
    first = anysize("train", "quickstart", *SMALL)
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("quickstart-")  # settings were given, so the folder has their digest
    again = anysize("train", "quickstart", *SMALL)
    assert "trained to its end already" in again.stdout
    relative = f"runs/{run.name}"
    shown = anysize("evaluate", relative, "--sizes", "14,28", "--budget", "10MFLOPs")
    assert shown.returncode == 0, shown.stderr
    assert "calibrated" in shown.stdout
    assert "best for 10MFLOPs: 14 px" in shown.stdout
    calibrated = anysize("calibrate", relative, "--size", "21")
    assert "is calibrated for 21 px" in calibrated.stdout
    compared = anysize("compare", relative, "--out", "both.html")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "both.html").stat().st_size > 100_000
    assert anysize("report", relative).returncode == 0


def test_a_plan_is_printed(anysize: Anysize) -> None:
    shown = anysize("plan", "quickstart", "--sizes.mix", "D+", "--training.equal-flops", "false")
    assert shown.returncode == 0, shown.stderr
    for expected in ("14 px", "42 px", "times training 6 epochs at 28 px", "PFLOPs", "GiB"):
        assert expected in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "quickstart", "--training.epoch", "3"], "did you mean 'training.epochs'?"),
        (["train", "quickstart", "--training.epochs"], "--training.epochs has no value"),
        (["train", "quickstart", "--siez", "3"], "--siez: unknown setting: settings have a section"),
        (["train", "quickstart", "--pretraind"], "--pretraind is no option of this command; --help lists them"),
        (["train", "quickstart", "--pretrained", "--model.weights", "a.pth"], "are both given; leave one of them out"),
        (["train", "quickstart", "3"], "received '3'; expected settings as --section.field VALUE"),
        (["train", "quickstart", "--data.name", "folder"], "needs a folder: set data.root"),
        (["train", "quickstart", "--data.name", "folder", "--data.root", "nowhere"], "nowhere"),
        (["train", "quickstart", "--model.name", "resnet2O"], "did you mean 'resnet20'?"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["compare", "nowhere"], "nowhere"),
        (["recipes", "show"], "no recipe named"),
        (["recipes", "show", "elastic/coco-bass"], "unknown recipe 'elastic/coco-bass': did you mean"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_status_2(anysize: Anysize, arguments: list[str], said: str) -> None:
    done = anysize(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("anysize: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_settings_are_paired_up() -> None:
    tokens = ("--a.b", "-3", "--c.d-e=x=y", "--f.g", "")
    assert parse_settings(tokens) == {"a.b": "-3", "c.d_e": "x=y", "f.g": ""}
    with pytest.raises(UserError, match="has no value"):
        parse_settings(("--a.b", "--c.d", "1"))


def test_every_verb_has_help() -> None:
    app = build_app()
    verbs = [name for name in app if not name.startswith("-")]
    assert {"train", "evaluate", "calibrate", "plan", "compare", "report", "data", "models", "recipes"} <= set(verbs)
    assert all(app[verb].help for verb in verbs)
