"""A run with activation checkpointing ends with the bits of one without, wherever it is switched on or off."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.experiment.planning import plan
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.checkpoint.files import read_checkpoint

Make = Callable[..., Recipe]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["", "online"])
def test_a_run_may_change_its_segments_on_the_way(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    options = {"depth": 14, "widths": [8, 8, 16], "dropout": 0.1}  # two blocks a stage: one makes no stage
    small = {"data__limit": 80, "sizes__mix": "fixed", "sizes__base": 16, "training__epochs": 1}
    changes = {**small, "model__norm": norm, "training__chunks": 2, "model__options": options}
    plain = read_checkpoint(train(tiny(**changes), run=tmp_path / "plain") / "checkpoints/last")
    original = loop.record

    def record(progress: Any, *arguments: Any) -> None:
        original(progress, *arguments)
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "record", record)
    with pytest.raises(Interrupted):
        train(tiny(**changes, model__checkpoint_segments=1), run=tmp_path / "run")
    run = train(tiny(**changes, model__checkpoint_segments=2), run=tmp_path / "run")
    other = read_checkpoint(run / "checkpoints/last")
    assert set(other.model) == set(plain.model)
    assert all(torch.equal(value, other.model[name]) for name, value in plain.model.items())


def test_the_plan_says_less_memory_and_the_same_flops(tiny: Make) -> None:
    changes = {"model__options": {"depth": 20}, "sizes__mix": "fixed"}
    plain, other = plan(tiny(**changes)), plan(tiny(**changes, model__checkpoint_segments=1))
    assert other.memory < plain.memory / 2
    assert other.flops == plain.flops


def test_online_norm_is_not_compiled_and_recomputed_at_once(tmp_path: Path, tiny: Make) -> None:
    recipe = tiny(model__norm="online", model__checkpoint_segments=1, training__compile=True)
    with pytest.raises(UserError, match="online norm cannot be compiled and recomputed at once"):
        train(recipe, run=tmp_path / "run")


def test_a_model_without_stages_is_refused(tmp_path: Path, tiny: Make) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, num_classes=10, in_channels=1):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, num_classes, 3)\n"
        "    def forward(self, x): return self.conv(x).mean((2, 3))\n"
    )
    recipe = tiny(model__name=f"{path}:Mine", model__options={}, model__checkpoint_segments=2)
    with pytest.raises(UserError, match="Mine has no stages to recompute"):
        train(recipe, run=tmp_path / "run")
