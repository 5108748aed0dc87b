"""Averaged weights: their rule, and that validation, the best checkpoint and evaluation use them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from interruption import stopped_after
from torch import nn

from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.experiment.weights import find_weights
from anysize.norms.calibration import calibrated, has_running_statistics
from anysize.norms.factory import create_norm
from anysize.recipe import Recipe
from anysize.stopping import Interrupted
from anysize.training.averaging import AveragedWeights, average_decay
from anysize.training.checkpoint.files import read_checkpoint

Make = Callable[..., Recipe]


def test_the_average_is_torchvisions_with_buffers_and_copies_of_counts() -> None:
    """Reference, as its training script does it: theta' = d theta' + (1 - d) theta every so many steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    averaged = AveragedWeights(model, every=2, decay=0.9)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for step in range(1, 7):
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(3, 3))
        averaged.update(model, step, restart=step == 2)
        for name, value in model.state_dict().items():
            if step == 2 or (step % 2 == 0 and not value.is_floating_point()):
                expected[name] = value.clone().double()
            elif step % 2 == 0:
                expected[name] = 0.9 * expected[name] + 0.1 * value.double()
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-6, msg=name)
    assert int(averaged.model[1].num_batches_tracked) == 6


NORMS: dict[str, dict[str, Any]] = {
    "batch": {}, "sync_batch": {}, "frozen_batch": {}, "group": {"num_groups": 2}, "layer": {}, "online": {},
    "instance": {"affine": True}, "layer_elementwise": {"shape": (6, 6)}, "none": {},
}  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_averaged_and_its_average_is_calibrated(norm: str) -> None:
    """Calibration is of the averaged copy, which has its own statistics afterwards; the trained model never moves."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), create_norm(norm, 4, **NORMS[norm]), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    averaged = AveragedWeights(model, every=1, decay=0.8)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 5):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 8, 8) + 1).square().sum().backward()
        optimizer.step()
        averaged.update(model, step)
        for name, value in model.state_dict().items():
            share = 0.8 if value.is_floating_point() else 0.0
            expected[name] = share * expected[name] + (1 - share) * value.double()
    before, trained = copy.deepcopy(averaged.state_dict()), copy.deepcopy(model.state_dict())
    for name, value in before.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    moves = [name for name in before if name.endswith(("running_mean", "norm.m"))] if norm != "frozen_batch" else []
    if moves:
        with calibrated(averaged.model, [torch.randn(4, 1, 8, 8) - 1 for _ in range(2)]):
            assert not any(torch.equal(averaged.state_dict()[name], before[name]) for name in moves)
    for name, value in averaged.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(model.state_dict()[name], trained[name]), name
    assert bool(moves) == has_running_statistics(model)


@pytest.mark.parametrize(
    ("decay", "every", "batch_size", "epochs", "expected"),
    [(0.99998, 32, 1024, 600, 1 - 2e-5 * 1024 * 32 / 600), (0.9, 32, 1024, 1, 0.0)],
)
def test_the_decay_follows_batch_and_length(
    decay: float, every: int, batch_size: int, epochs: int, expected: float
) -> None:
    assert average_decay(decay, every, batch_size, epochs) == pytest.approx(expected)


AVERAGED: dict[str, Any] = {"training__average_steps": 2, "training__average_decay": 0.97}


@pytest.mark.parametrize("norm", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("online", "group"))])
def test_validation_best_and_evaluation_are_those_of_the_average(tiny: Make, tmp_path: Path, norm: str) -> None:
    run = train(tiny(**AVERAGED, model__norm=norm, data__limit=120), run=tmp_path / "run")
    last, best = (read_checkpoint(run / "checkpoints" / name) for name in ("last", "best"))
    assert not torch.equal(last.tensors["averaged"]["fc.weight"], last.model["fc.weight"])
    rows = pd.read_csv(run / "metrics.csv")
    if rows["validation_top1"].idxmax() == len(rows) - 1:
        assert torch.equal(best.model["fc.weight"], last.tensors["averaged"]["fc.weight"])
    loaded = load_run(run, "last")
    assert torch.equal(loaded.model.state_dict()["fc.weight"], last.tensors["averaged"]["fc.weight"])
    evaluator = make_evaluator(loaded)
    with evaluator.calibrated(loaded.model, 28):
        measured = evaluator.evaluate(loaded.model, 28).values["loss"]
    assert measured == pytest.approx(rows["validation_loss"].iloc[-1], rel=1e-6)
    assert torch.equal(
        find_weights(run / "checkpoints/last", "cifar_resnet").tensors["fc.weight"],
        last.tensors["averaged"]["fc.weight"],
    )
    trained = load_run(run, "last", {"evaluation.averaged": False})
    assert torch.equal(trained.model.state_dict()["fc.weight"], last.model["fc.weight"])
    assert len(evaluate(run, [28], calibrate=False)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model__norm": "online", "training__channels_last": False},
        pytest.param(
            {"model__elasticize": "auto", "optimizer__warmup_epochs": 1, "optimizer__name": "adamw"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_with_averaged_weights_is_resumed_to_the_bit(tiny: Make, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert_resumed(tiny(**AVERAGED, **changes, data__limit=100), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_so_is_one_of_each_task(tiny_scenes: Make, tmp_path: Path, task: str) -> None:
    assert_resumed(tiny_scenes(task, **AVERAGED, training__epochs=1, training__batch_size=4), tmp_path)


def assert_resumed(recipe: Recipe, tmp_path: Path) -> None:
    """Every part of the state, whatever it is, has the same bits after a stop."""
    whole = read_checkpoint(train(recipe, run=tmp_path / "whole") / "checkpoints/last")
    with stopped_after(2), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    resumed = read_checkpoint(train(recipe, run=tmp_path / "broken") / "checkpoints/last")
    assert whole.tensors.keys() == resumed.tensors.keys()
    for part, tensors in whole.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, resumed.tensors[part][name]), f"{part}: {name}"
    times = ("seconds", "epoch_seconds", "epoch_waiting", "csv")  # the table of figures tells times, too
    for part, values in whole.state.items():
        if isinstance(values, dict) and part not in ("files",):
            left, right = ({k: v for k, v in each.items() if k not in times} for each in (values, resumed.state[part]))
            assert left == right, part
