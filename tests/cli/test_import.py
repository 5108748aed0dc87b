"""`anysize import` and `anysize train --pretrained` as a user meets them."""

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from anysize.cli import build_app
from anysize.models.spec import create_model

Anysize = Callable[..., CompletedProcess[str]]


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("made",)


def test_from_a_file_to_an_evaluation(anysize: Anysize, tmp_path: Path, image_folder: Path) -> None:
    model = create_model("resnet8", num_classes=3)
    torch.save({"arch": "resnet8", "epoch": 5, "state_dict": model.state_dict()}, tmp_path / "best.pth.tar")
    done = anysize("import", "best.pth.tar", "--data.root", str(image_folder))
    assert done.returncode == 0, done.stderr
    assert "it says: model 'resnet8', epoch 5" in done.stdout
    *_, last = done.stdout.splitlines()
    assert last == "next: anysize evaluate runs/resnet8-best, or train from it with --model.weights runs/resnet8-best"
    shown = anysize("evaluate", "runs/resnet8-best", "--sizes", "32", "--data.workers", "0")
    assert shown.returncode == 0, shown.stderr
    assert "32 px" in shown.stdout


def test_a_misfit_and_code_end_in_one_sentence_and_status_2(anysize: Anysize, tmp_path: Path) -> None:
    torch.save(create_model("resnet8").state_dict(), tmp_path / "a.pth")
    done = anysize("import", "a.pth", "--as", "resnet14", "--out", "run")
    assert done.returncode == 2
    assert done.stderr.startswith("anysize: a.pth does not fit resnet14: 30 tensors of the model missing, ")
    assert "stage " in done.stderr
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    done = anysize("import", "evil.pth", "--as", "resnet8")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert ".mkdir, which could run code" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "evil.pth"]


def test_a_network_for_segmentation_says_how_to_go_on(anysize: Anysize, tmp_path: Path) -> None:
    options = {"layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2}
    model = create_model("resnext50_elastic", 5, task="segmentation", **options)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({k: v for k, v in state.items() if not k.endswith("tracked")}, tmp_path / "deeplab.pth")
    settings = [f"--model.options.{key}={value}" for key, value in options.items()]
    done = anysize("import", "deeplab.pth", "--as", "resnext50_elastic", "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last == "next: anysize evaluate run --data.root DIR, or train from it with --model.weights run"


def test_pretrained_is_a_flag_of_train(anysize: Anysize) -> None:
    done = anysize("train", "quickstart", "--pretrained", "--run", "run")
    assert done.returncode == 2
    assert "no published weights of resnet14 are known" in done.stderr


@pytest.mark.parametrize(
    "tokens", [["import", "a.pth"], ["import", "a.pth", "--as", "resnet8", "--model.options.x", "1"]]
)
def test_the_verb_is_import(tokens: list[str]) -> None:
    _, bound, unused = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
    assert not unused
    assert bound.arguments["file"] == "a.pth"
