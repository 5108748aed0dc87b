"""The command line as a user meets it: in a process of its own."""

import os
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


def test_a_typo_is_answered_without_torch(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from anysize.cli import main\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "lines = ['train quikstart', 'train quickstart --lr 1', 'plan quikstart', 'evaluate nowhere', 'policy nowhere',"
        " 'calibrate nowhere --size 8', 'quantize nowhere', 'predict nowhere a.png', 'settings zzz', 'recipes zzz']\n"
        "for line in lines:\n"
        "    sys.argv = ['anysize', *line.split()]\n"
        "    try:\n        main()\n    except SystemExit as stop:\n        assert stop.code == 2, line\n"
        "    assert 'torch' not in sys.modules, line"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("anysize: ") == 10


def test_recipes_are_found_by_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*pattern: str) -> list[str]:
        build_app()(["recipes", *pattern], result_action="return_value")
        return [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]

    assert listed("quickstart-") == ["quickstart-fixed", "quickstart-multilabel", "quickstart-segmentation"]
    assert listed("elastic/voc*60x") == ["elastic/voc-dla60x"]
    assert "finetune" in listed("fine-tuned")  # by its title
    assert listed("list") == listed()
    build_app()(["recipes", "quickstart-fixed"], result_action="return_value")
    assert "cost: 7.24 TFLOPs, about" in capsys.readouterr().out  # as the plan says it


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, anysize; dir(anysize); anysize.SizeMix, anysize.load_recipe; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from anysize.cli import main; import sys; sys.argv = ['anysize', 'recipes']; main()"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_package_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anysize", "recipes", "show", "quikstart"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "anysize: unknown recipe 'quikstart': did you mean 'quickstart'?\n"


@pytest.mark.slow
@pytest.mark.report
def test_from_training_to_a_comparison(anysize: Anysize, tmp_path: Path) -> None:
    first = anysize("train", "quickstart", *SMALL)
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("quickstart-")  # settings were given, so the folder has their digest
    again = anysize("train", "quickstart", *SMALL)
    assert "trained to its end already" in again.stdout
    relative = f"runs/{run.name}"
    assert "trained to its end already" in anysize("train", relative).stdout
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
    for expected in ("14 px", "42 px", "times training 6 epochs at 28 px", "TFLOPs", "GiB"):
        assert expected in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "quickstart", "--training.epoch", "3"], "did you mean 'training.epochs'?"),
        (["train", "quickstart", "--training.epochs"], "--training.epochs has no value"),
        (["train", "quickstart", "--lr", "0.1"], "--lr: unknown setting: did you mean 'optimizer.lr'?"),
        (["train", "quickstart", "--epochs", "3"], "did you mean 'training.epochs' or"),
        (["train", "quickstart", "--batch-size", "3"], "did you mean 'training.batch_size' or"),
        (["train", "quickstart", "--learning-rate", "3"], "did you mean 'optimizer.lr'?"),
        (["train", "quickstart", "--model", "resnet18"], "did you mean 'model.name'?"),
        (["train", "quickstart", "--training.device", "cpux"], "'cpux', which cannot be used: there is no such kind"),
        (["train", "."], "train folder --data.root ."),
        (["settings", "smothing"], "did you mean 'optimizer.gradient_smoothing' or 'task.label_smoothing'"),
        (["settings", "zzz"], "no setting has 'zzz' in its name or description"),
        (["recipes", "zzz"], "no recipe has 'zzz' in its name or title"),
        (["train", "quickstart", "--siez", "3"], "--siez: unknown setting: settings have a section"),
        (["train", "quickstart", "--pretraind"], "--pretraind is no option of this command; --help lists them"),
        (["train", "quickstart", "--pretrained", "--model.weights", "a.pth"], "are both given; leave one of them out"),
        (["train", "quickstart", "3"], "received '3'; expected settings as --section.field VALUE"),
        (["train", "quickstart", "--data.name", "folder"], "needs a folder: set data.root"),
        (["train", "quickstart", "--data.name", "folder", "--data.root", "nowhere"], "nowhere"),
        (["train", "quickstart", "--model.name", "resnet2O"], "did you mean 'resnet20'?"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "nowhere.onnx"], "there is no file nowhere.onnx; `anysize export` writes one"),
        (["bench", "resnet8", "--checkpoint", "int8"], "resnet8 is no run folder and has no checkpoint 'int8'"),
        (["bench", "quickstart", "--find-batch", "--checkpoint", "int8"], "leave --checkpoint out"),
        (["compare", "nowhere"], "nowhere"),
        (["recipes", "show"], "no recipe named"),
        (["recipes", "show", "elastic/coco-bass"], "unknown recipe 'elastic/coco-bass': did you mean"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_status_2(
    anysize: Anysize, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = anysize(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("anysize: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # no run folder


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
