"""Runs that end where their validation gets no better, stopped and resumed, too."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.reading import Run
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.checkpoint.files import read_checkpoint, read_state

NEVER_BETTER = {"training__early_stopping": 2, "training__early_stopping_delta": 1.0}


def test_it_ends_with_the_same_bits_where_it_was_stopped_on_its_way(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data__limit": 60, "sizes__mix": "fixed", "training__epochs": 6, "training__keep_best": 2}
    recipe = tiny(**changes, **NEVER_BETTER)
    whole = train(recipe, run=tmp_path / "whole")
    assert pd.read_csv(whole / "metrics.csv")["epoch"].tolist() == [1, 2, 3]
    assert "stopped early, after epoch 3 of 6: top1 has not risen by more than 1 since epoch 1" in log_of(whole)
    assert Run.read(whole).ended_early

    train_step, asked = loop.train_step, []

    def stopping(parts: Any, state: Any, *arguments: Any) -> None:
        train_step(parts, state, *arguments)
        if state.progress.step + 1 in {2, 8, 9} - {*asked}:
            asked.append(state.progress.step + 1)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "train_step", stopping)
    for _ in range(3):
        with pytest.raises(Interrupted):
            train(recipe, run=tmp_path / "broken")
    broken = train(recipe, run=tmp_path / "broken")
    for name in ("last", "best", "best-2"):
        one, other = (read_checkpoint(run / "checkpoints" / name) for run in (whole, broken))
        assert one.tensors.keys() == other.tensors.keys()
        for part, tensors in one.tensors.items():
            assert all(torch.equal(value, other.tensors[part][key]) for key, value in tensors.items())
    times = ["seconds", "images_per_second", "waiting"]
    for file in ("metrics.csv", "steps.csv"):
        rows = [pd.read_csv(run / file).drop(columns=times) for run in (whole, broken)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)

    scores = pd.read_csv(whole / "metrics.csv")["validation_top1"].sort_values(ascending=False).tolist()
    states = [read_state(whole / "checkpoints" / name) for name in ("best", "best-2")]
    assert [state["metrics"]["top1"] for state in states] == scores[:2]
    assert load_run(whole, "best-2").checkpoint.state["progress"] == states[1]["progress"]

    train(recipe, run=broken)  # changes nothing
    assert pd.read_csv(broken / "metrics.csv")["epoch"].tolist() == [1, 2, 3]
    assert "was stopped early, after epoch 3 of 6" in log_of(broken)
    with pytest.raises(UserError, match=r"training.early_stopping was 2 and is now 0"):
        train(recipe, {"training.early_stopping": 0}, run=broken)
    train(recipe, {"training.early_stopping": 0}, run=broken, allow_changes=True)
    assert pd.read_csv(broken / "metrics.csv")["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert not Run.read(broken).ended_early


def test_a_run_ends_at_a_validation_alone(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    changes = {"data__limit": 32, "sizes__mix": "fixed", "training__epochs": 8, "training__validate_every": 3}
    run = train(tiny(**changes, **NEVER_BETTER), run=tmp_path / "run")
    assert pd.read_csv(run / "metrics.csv")["epoch"].iloc[-1] == 6  # three epochs after the first validation


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text()
