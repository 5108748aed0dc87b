"""After a divergence the advice that is given works, and no checkpoint that is not finite is used without a word."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

import anysize
from anysize.experiment.calibrate import calibrate
from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.experiment.weights import find_weights
from anysize.recipe import Recipe
from anysize.registry import NotFinite, UserError
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint
from anysize.training.guards import Diverged

Make = Callable[..., Recipe]
SMALL = {"data__limit": 80, "sizes__mix": "fixed", "training__batch_size": 16, "training__epochs": 3}  # 5 steps each


def poison(checkpoint: Path, part: str, tensor: str) -> None:
    """Let a checkpoint hold NaN, with a checksum that matches, as earlier versions wrote it."""
    whole = json.loads((checkpoint / "state.json").read_text())["state"]
    tensors = {name.stem: safetensors.torch.load_file(name) for name in checkpoint.glob("*.safetensors")}
    tensors[part][tensor].view(-1)[0] = float("nan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anysize.training.checkpoint.tensors.first_not_finite", lambda tensors: None)
        write_checkpoint(checkpoint, Checkpoint(tensors, whole))


@pytest.mark.parametrize(
    ("lr", "keep", "advised"),
    [
        ("1e9", 1, "--resume never"),  # at once: nothing is left that is older
        pytest.param("0:0.01 2:1e12", 1, "--allow-changes --resume previous", marks=pytest.mark.slow),
        ("0:0.01 2:1e4", 1, "--allow-changes --resume best"),
        ("0:0.01 2:1e4", 6, r"--allow-changes --resume previous-\d"),
    ],
)
def test_the_advice_after_a_divergence_that_was_saved_works(
    tiny: Make, tmp_path: Path, lr: str, keep: int, advised: str
) -> None:
    how: dict[str, Any] = {
        **SMALL, "training__checkpoint_steps": 1, "training__keep_previous": keep,
        "optimizer__gradient_smoothing": 0.0, "training__checkpoint_background": keep == 1,
    }  # fmt: skip
    with pytest.raises(Diverged, match=advised) as raised:
        train(tiny(**how, optimizer__lr=lr), run=tmp_path)
    found = re.search(r"--resume ([\w-]+)", str(raised.value))
    assert found
    allow = "--allow-changes" in str(raised.value)
    train(tiny(**how, optimizer__lr=0.001), run=tmp_path, resume_from=found[1], allow_changes=allow)
    assert list(pd.read_csv(tmp_path / "metrics.csv")["epoch"]) == [1, 2, 3]
    ended = read_checkpoint(tmp_path / "checkpoints/last")
    assert ended.state["progress"]["step"] == 15
    assert ended.state["progress"]["images"] == 240
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()} - {"last", "best"}
    assert len(names) <= keep
    assert "previous" in names


@pytest.fixture(scope="module")
def sound(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with averaged weights; who writes takes a copy."""
    changes = {**SMALL, "training__epochs": 2, "training__average_steps": 2}
    return train(tiny(**changes), run=tmp_path_factory.mktemp("sound") / "run")


@pytest.mark.parametrize("part", ["model", pytest.param("averaged", marks=pytest.mark.slow), "optimizer"])
def test_a_checkpoint_that_is_not_finite_is_used_by_nothing(tiny: Make, tmp_path: Path, sound: Path, part: str) -> None:
    run = shutil.copytree(sound, tmp_path / "run")
    tensor = "fc.weight/momentum_buffer" if part == "optimizer" else "fc.weight"
    poison(run / "checkpoints/last", part, tensor)
    named = rf"last is not used: {tensor} in {part}\.safetensors is NaN or infinite.* with --checkpoint best"
    for use in (
        lambda: load_run(run, "last"),
        lambda: anysize.evaluate(run, [28]),
        lambda: calibrate(run, 21),
        lambda: anysize.predict(run, [], checkpoint="last"),
    ):
        with pytest.raises(NotFinite, match=named):
            use()
    with pytest.raises(NotFinite, match=r"take another one of the run, .*/checkpoints/best"):
        find_weights(run / "checkpoints/last", "resnet8")
    recipe = tiny(**{**SMALL, "training__epochs": 4, "training__average_steps": 2})
    with pytest.raises(NotFinite, match=r"last is not used: .*go on from the other save with --resume previous"):
        train(recipe, run=run, allow_changes=True)
    train(recipe, run=run, allow_changes=True, resume_from="best")
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [1, 2, 3, 4]


def test_nothing_that_is_not_finite_is_written(tmp_path: Path, sound: Path) -> None:
    last = tmp_path / "last"
    write_checkpoint(last, Checkpoint({"model": {"w": torch.ones(2)}}, {}))
    for bad in (float("nan"), float("inf")):
        for dtype in (torch.float32, torch.float16, torch.complex64):
            with pytest.raises(NotFinite, match=r"last is not written, since fc\.weight is not finite"):
                write_checkpoint(last, Checkpoint({"model": {"fc.weight": torch.tensor([1, bad], dtype=dtype)}}, {}))
    assert torch.equal(read_checkpoint(last).model["w"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    file = tmp_path / "foreign.pth"
    weights = anysize.create_model("resnet8").state_dict()
    weights["fc.bias"][3] = float("inf")
    torch.save(weights, file)
    with pytest.raises(NotFinite, match=r"foreign\.pth holds values that are NaN or infinite, first in fc\.bias"):
        anysize.import_checkpoint(file, "resnet8", out=tmp_path / "imported")
    with pytest.raises(NotFinite, match=r"first in fc\.bias"):
        anysize.load_weights(anysize.create_model("resnet8"), file)


def test_saves_that_are_not_there_are_said(tiny: Make, tmp_path: Path, sound: Path) -> None:
    run = shutil.copytree(sound, tmp_path / "run")
    recipe = tiny(**{**SMALL, "training__epochs": 2, "training__average_steps": 2})
    with pytest.raises(UserError, match=r"has no checkpoint 'previous-2'; "):
        train(recipe, run=run, resume_from="previous-2")
    with pytest.raises(UserError, match=r"resume is 'int8'; expected last, previous, previous-2"):
        train(recipe, run=run, resume_from="int8")
