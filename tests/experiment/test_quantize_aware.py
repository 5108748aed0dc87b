"""Training for int8 from a recipe: stopped and resumed, every task, several processes, and what may be done with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import assert_same_bits, stop_at, weights

from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.quantize.aware import fixed_from_aware
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted

pytestmark = pytest.mark.slow  # tests/quantize holds the arithmetic

Make = Callable[..., Recipe]
AWARE = {
    "quantize__aware": True,
    "quantize__observer_epochs": 1,
    "quantize__statistics_epochs": 1,
    "optimizer__lr": 1e-3,
    "data__limit": 120,
}


@pytest.fixture(scope="module")
def in_float(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(data__limit=400, sizes__mix="fixed"), run=tmp_path_factory.mktemp("aware") / "float")


@pytest.fixture(scope="module")
def aware(tiny: Make, in_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = mixed(tiny, in_float)
    return train(recipe, run=tmp_path_factory.mktemp("aware") / "aware")


def mixed(tiny: Make, in_float: Path) -> Recipe:
    averaged = {"training__average_steps": 2, "training__average_decay": 0.9}
    return tiny(**AWARE, **averaged, sizes__mix="D+", augment__mixup=0.2, model__weights=str(in_float))


def test_stopped_in_any_epoch_and_resumed_the_bits_are_the_same(
    tiny: Make, in_float: Path, aware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 1, 3, 9)
    for _ in range(3):
        with pytest.raises(Interrupted):
            train(mixed(tiny, in_float), run=tmp_path / "broken")
    assert_same_bits(aware, train(mixed(tiny, in_float), run=tmp_path / "broken"))


def test_ranges_and_statistics_stand_after_their_epochs(
    tiny: Make, in_float: Path, aware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 8)  # the last step of the first epoch
    with pytest.raises(Interrupted):
        train(mixed(tiny, in_float), run=tmp_path / "first")
    first, last = weights(tmp_path / "first"), weights(aware)
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert not [name for name in moved if "quantization" in name or "running" in name]
    assert "conv1.weight" in moved
    assert all(torch.isfinite(value).all() for value in last.values())
    averaged = load_run(aware, "last").checkpoint.weights
    ranges = [name for name in last if name.startswith("quantization.values.")]
    assert ranges
    assert all(torch.equal(averaged[name], last[name]) for name in ranges)


def test_a_run_is_evaluated_calibrated_and_fixed(aware: Path, in_float: Path) -> None:
    table = evaluate(aware, sizes=[20, 28])
    assert len(table) == 4
    assert table["top1"].between(0.05, 1).all()
    assert calibrate(aware, 20).is_dir()
    loaded = load_run(aware, "last")
    evaluator = make_evaluator(loaded)
    fixed = fixed_from_aware(loaded.model, torch.zeros(1, 1, 28, 28))
    ours, theirs = (evaluator.evaluate(each, 28).values["top1"] for each in (loaded.model, fixed))
    assert abs(ours - theirs) < 0.02
    with pytest.raises(UserError, match=r"is a checkpoint of a model that is trained for int8"):
        load_run(aware, overrides={"quantize.aware": False})
    with pytest.raises(UserError, match=r"is a checkpoint of a model that is not trained for int8"):
        load_run(in_float, overrides={"quantize.aware": True})


def test_training_goes_on_from_a_run_that_was_trained_for_int8(tiny: Make, aware: Path, tmp_path: Path) -> None:
    changes = {**AWARE, "optimizer__lr": 0.0, "optimizer__weight_decay": 0.0, "training__epochs": 1}
    run = train(
        tiny(**{**changes, "data__limit": 40}, sizes__mix="fixed", model__weights=str(aware)), run=tmp_path / "on"
    )
    before, after = load_run(aware).checkpoint.weights, weights(run)
    assert before.keys() == after.keys()
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])
    low = "quantization.values.conv1:conv2d:0.high"
    assert 0.8 < after[low] / before[low] < 1.25  # it moves on from the range that it had


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_every_task_trains_and_resumes(
    tiny_scenes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    changes: dict[str, Any] = {key: value for key, value in AWARE.items() if not key.startswith("data")}
    recipe = tiny_scenes(task, **changes)  # from first weights: that is worse, and allowed
    whole = train(recipe, run=tmp_path / "whole")
    stop_at(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    assert_same_bits(whole, train(recipe, run=tmp_path / "broken"))
    assert len(evaluate(whole, calibrate=False, sizes=[32])) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__compile": True}, "training.compile does not go with quantize.aware"),
        ({"model__checkpoint_segments": 2}, "model.checkpoint_segments does not go with quantize.aware"),
        ({"quantize__aware": False, "quantize__bits": 7}, "quantize.bits is set without quantize.aware"),
        ({"quantize__keep": ["layer9"]}, "the layer to keep in float 'layer9' is not there"),
    ],
)
def test_what_does_not_go_together_is_said(tiny: Make, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given = {**({} if "quantize__aware" in changes else {"quantize__aware": True}), **changes}
    with pytest.raises(UserError, match=message):
        train(tiny(**given), run=tmp_path / "run")
