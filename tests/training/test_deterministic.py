"""Deterministic mode is on while a run trains, and off again afterwards."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.training import loop
from anysize.training.deterministic import deterministic

Make = Callable[..., Recipe]
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def state() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


@pytest.mark.parametrize(("benchmark", "workspace"), [(True, None), (False, ":16:8")])
def test_what_was_set_before_is_put_back(
    monkeypatch: pytest.MonkeyPatch, benchmark: bool, workspace: str | None
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    monkeypatch.delenv(WORKSPACE, raising=False)
    if workspace:
        monkeypatch.setenv(WORKSPACE, workspace)
    before = state()
    with deterministic(wanted=False):
        assert state() == before
    for error in (None, UserError("stopped")):
        with contextlib.suppress(UserError), deterministic(wanted=True):
            assert state() == (True, False, False, workspace or ":4096:8")
            if error:
                raise error
        assert state() == before


def test_an_operation_without_such_a_form_is_named() -> None:
    said = r"^training\.deterministic is true, and put_ has no deterministic form on this device; .* to false$"
    with pytest.raises(UserError, match=said), deterministic(wanted=True):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    with pytest.raises(RuntimeError, match="something else"), deterministic(wanted=True):
        raise RuntimeError("something else")


def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    steps: list[bool] = []
    step = loop.train_step

    def noted(*arguments: Any) -> None:
        steps.append(torch.are_deterministic_algorithms_enabled())
        step(*arguments)

    monkeypatch.setattr(loop, "train_step", noted)
    return steps


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes__mix": "B+D+", "training__copies": 2, "model__norm": "online", "optimizer__adapt_copies": 2},
        {"model__elasticize": "auto", "augment__cutmix": 1.0, "training__average_steps": 2},
    ],
)
def test_a_run_trains_so(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    steps = seen(monkeypatch)
    train(tiny(**changes, training__deterministic=True, training__epochs=1, data__limit=120), run=tmp_path / "run")
    assert steps
    assert all(steps)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_so_does_one_of_each_task(
    tiny_scenes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    steps = seen(monkeypatch)
    train(tiny_scenes(task, training__deterministic=True, training__epochs=1), run=tmp_path / "run")
    assert steps
    assert all(steps)
