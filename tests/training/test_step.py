"""A step waits for nothing, and one that is not finite changes nothing."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transfers import transfers

from anysize.experiment.train import train
from anysize.recipe import Recipe, override
from anysize.training import gradients, loop, recorder
from anysize.training.guards import Diverged
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.regime import parse_schedule
from anysize.training.settings import OptimizerSettings

Make = Callable[..., Recipe]


def test_what_is_counted_is_what_python_asks_for() -> None:
    values = torch.tensor([1.0, 2.0])
    with transfers() as seen:
        assert values.sum().item() == float(values.sum()) == 3
        assert bool(values[0] > 0)
        assert values.tolist() == [1, 2]
        assert values.numpy().shape == values.cpu().shape
        torch.where(values > 1, values, 0.0)
    assert seen == {"item": 3, "tolist": 1, "numpy": 1, "cpu": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"model__norm": "online", "training__chunks": 2},
        {
            "training__precision": "float16",
            "model__norm": "online",
            "optimizer__name": "rmsprop",
            "optimizer__lr": 0.001,
        },
        {"optimizer__name": "rmsprop", "optimizer__clip_norm": 0.1, "training__average_steps": 2},
        {"optimizer__gradient_smoothing": 0.9, "optimizer__adapt_copies": 2, "sizes__mix": "D+"},
        {"model__elasticize": "auto"},
        {
            "training__distill": "larger",
            "training__both_sizes": True,
            "training__consistency": 0.5,
            "optimizer__weigh_sizes": "variance",
        },
    ],
)
def test_a_step_asks_the_device_for_nothing(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_fp16": True})
    assert_no_transfers(tiny(training__epochs=1, data__limit=96, **changes), tmp_path, monkeypatch)


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_a_step_with_labels_or_masks_asks_the_device_for_nothing(
    tiny_scenes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    recipe = tiny_scenes(task, training__epochs=1, training__batch_size=4, training__chunks=2)
    assert_no_transfers(recipe, tmp_path, monkeypatch)


def assert_no_transfers(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch asks at its second and its last step, for what was sent at log points before, and at its end for what is
    on its way and for what there is. Its steps never ask."""
    step, epoch = loop.train_step, loop.train_epoch
    in_steps: list[int] = []
    in_epochs: list[dict[str, int]] = []

    def train_step(*arguments: Any) -> None:
        with transfers() as seen:
            step(*arguments)
        in_steps.append(seen.total())

    def train_epoch(*arguments: Any) -> None:
        with transfers() as seen:
            epoch(*arguments)
        in_epochs.append(dict(seen))

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    train(override(recipe, {"training.log_every": 1000}), run=tmp_path / "run")
    assert len(in_steps) > 3
    assert set(in_steps) == {0}
    if recipe.task.name == "segmentation":  # torchvision asks a mask for its border while it is loaded, on the CPU
        in_epochs[0].pop("item", None)
    assert in_epochs == [{"tolist": 4}]


def test_a_step_that_is_not_finite_is_told_at_the_next_log_points(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = loop.train_step, []

    def poisoned(parts: Any, state: Any, batch: Any, seed: int) -> None:
        if state.progress.step == 3:
            batch.images[0] = float("inf")
        original(parts, state, batch, seed)
        made.append(state.progress.step)

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(Diverged, match=r"loss is nan at epoch 1, step 4 \(image size \d+\), samples fashion-mini"):
        train(tiny(training__log_every=3), run=tmp_path / "run")
    assert len(made) == 9  # step 4 fails, its failure is sent after step 6 and read after step 9


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_step_that_does_not_count_leaves_no_trace(optimizer: str) -> None:
    model = nn.Linear(3, 2)
    settings = OptimizerSettings(name=parse_schedule(optimizer), lr=parse_schedule(0.1))
    skipping, other = RegimeOptimizer(model, settings), copy.deepcopy(model)
    plain = RegimeOptimizer(other, settings)
    for value, counts in ((math.nan, False), (1.0, True), (math.inf, False), (2.0, True)):
        for network, own in ((model, skipping), (other, plain)):
            if network is other and not counts:
                continue
            own.torch.zero_grad()
            network(torch.full((1, 3), value)).square().sum().backward()
            own.step(torch.tensor(counts))
    held, expected = skipping.state_dict(), plain.state_dict()
    assert held.keys() == expected.keys()
    for name, value in {**held, **model.state_dict()}.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, {**expected, **other.state_dict()}[name]), name


@pytest.mark.parametrize("task", ["classification", pytest.param("multilabel", marks=pytest.mark.slow), "segmentation"])
def test_a_step_on_mps_makes_nothing_in_float64(
    tiny: Make, tiny_scenes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """MPS has no float64. Here the CPU stands for it, with the widest type that MPS has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_fp16": True})
    for module in (recorder, gradients):
        monkeypatch.setattr(module, "wide", lambda device: torch.float32)
    made: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            wide = any(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in tree_leaves(out))
            if wide and not unscaling:
                made.add(str(func))
            return out

    original, unscale = loop.train_step, torch.amp.GradScaler.unscale_
    steps: list[int] = []
    unscaling: list[bool] = []

    def unscaled(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        unscaling.append(True)  # torch itself asks whether the device is MPS
        unscale(self, optimizer)
        unscaling.clear()

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", unscaled)

    def watched(parts: Any, state: Any, batch: Any, seed: int) -> None:
        steps.append(seed)
        with Watch():
            original(parts, state, batch, seed)

    monkeypatch.setattr(loop, "train_step", watched)
    changes: dict[str, Any] = {
        "training__precision": "float16", "training__chunks": 2, "training__copies": 2, "training__epochs": 1,
        "training__average_steps": 1, "optimizer__adapt_copies": 2, "optimizer__clip_norm": 1.0,
        "optimizer__gradient_smoothing": 0.9, "data__limit": 8,
        "evaluation__calibrate": False, "evaluation__pictures": 0,
    }  # fmt: skip
    changes["training__batch_size"] = 4
    recipe = tiny(**changes) if task == "classification" else tiny_scenes(task, **changes)
    train(recipe, run=tmp_path / "run")
    assert steps
    assert not made
