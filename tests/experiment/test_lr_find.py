"""`anysize lr-find`: trains as a run begins, on mixed sizes, and leaves nothing but its table and page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anysize.experiment.lr_find import lr_find
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError

Make = Callable[..., Recipe]


def test_steps_are_those_of_a_run_but_for_the_rate(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one rate it would be the same training: here the loss of the first step, before any rate counts."""
    monkeypatch.chdir(tmp_path)
    recipe = tiny(optimizer__batch_size=32, optimizer__batch_rule="linear", training__log_every=1)
    found = lr_find(recipe, low=1e-4, high=1e-1, steps=12)  # more than the nine steps of an epoch
    assert list(tmp_path.iterdir()) == []
    assert (found.given, len(found.sizes)) == (0.05, 12)
    assert found.curve.rates[0] == pytest.approx(1e-4)  # as the recipe writes it, for batches of 32
    assert len(set(found.sizes)) > 1
    run = train(recipe, run=tmp_path / "run")
    steps = pd.read_csv(run / "steps.csv")
    assert found.curve.losses[0] == pytest.approx(steps.loss.iloc[0], rel=1e-5)


def test_phases_that_begin_a_run_count(tiny: Make) -> None:
    ramp = [{"epoch": 0, "start": 14, "stop": 28, "epochs": 0}]
    found = lr_find(tiny(sizes__mix="fixed", sizes__phases=ramp, data__limit=160), steps=10)
    assert set(found.sizes) == {14}


def test_command_writes_table_and_page(anysize: Callable[..., Any], tmp_path: Path) -> None:
    done = anysize("lr-find", "quickstart", "--model.name", "resnet8", "--data.limit", "160", "--steps", "10")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lr-find.csv", "lr-find.html"}
    assert list(pd.read_csv(tmp_path / "lr-find.csv")) == ["step", "lr", "loss", "smoothed", "size"]
    assert "suggestion" in done.stdout
    assert "quickstart: learning rates" in (tmp_path / "lr-find.html").read_text(encoding="utf-8")
    assert anysize("lr-find", "quickstart", "--low", "1", "--high", "0.1").returncode == 2


def test_several_processes_are_refused(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="by one process"):
        lr_find(tiny())
