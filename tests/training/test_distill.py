"""The loss of a step with a teacher, or at two sizes, is that of its formula; the pixels are those of one picture."""

import contextlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from interruption import stopped_after
from torch import Tensor, nn

from anysize.data.augment.plain import TrainTransform
from anysize.data.loader import PlanLoader
from anysize.data.settings import AugmentSettings
from anysize.data.source import ArraySource
from anysize.experiment.planning import RunCost, plan
from anysize.experiment.train import train
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.second_size import SecondSize
from anysize.sizes.shapes import SQUARE, Aspect
from anysize.stopping import Interrupted
from anysize.tasks.base import create_task
from anysize.training.checkpoint.files import read_checkpoint
from anysize.training.distill import at_own_size, taught_loss
from anysize.training.gradients import ControlVariables
from anysize.training.parts import Parts
from anysize.training.regime import constant
from anysize.training.settings import TrainingSettings

Make = Callable[..., Recipe]

SMALL, LARGE = 8, 12


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), Mean(), nn.Linear(4, 3)
    ).train()


class Mean(nn.Module):
    """Over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def made(
    training: TrainingSettings, second: SecondSize, model: nn.Module, averaged: nn.Module | None
) -> tuple[Any, Any]:
    """Parts and state of a training, as far as a loss asks for them."""
    transform = types.SimpleNamespace(preprocessing=Preprocessing(LARGE, (0.5,), (0.25,)))
    parts = types.SimpleNamespace(
        forward=model, no_sync=contextlib.nullcontext, autocast=contextlib.nullcontext, training=training,
        second=second, task=create_task("classification", ["a", "b", "c"]),
        loader=types.SimpleNamespace(transform=transform), memory_format=torch.channels_last,
    )  # fmt: skip
    control = ControlVariables(model)
    control.unit = 1.0
    state = types.SimpleNamespace(
        model=model, control=control, averaged=averaged and types.SimpleNamespace(model=averaged)
    )
    return parts, state


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.double() / temperature).softmax(1)


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    p, q = probabilities(teacher, temperature), probabilities(student, temperature)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


CASES = {
    "larger": ({"distill": "larger", "distill_weight": constant(0.7), "distill_temperature": 3.0}, False),
    "averaged": ({"distill": "averaged"}, False),
    "averaged at the second size": ({"distill": "averaged-larger"}, False),
    "both sizes": ({"both_sizes": True}, True),
    "both sizes, the larger teaches": ({"both_sizes": True, "distill": "larger"}, True),
    "consistency": ({"consistency": 0.4}, True),
    "consistency of logits": ({"consistency": 0.4, "consistency_loss": "smooth-l1", "both_sizes": True}, True),
    "all": ({"consistency": 0.4, "both_sizes": True, "distill": "averaged-larger"}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_formula(name: str) -> None:
    options, trains = CASES[name]
    training = TrainingSettings(**options)
    model, reference, averaged = network(0), network(0), network(1)
    parts, state = made(training, SecondSize(LARGE, trains, training.distill), model, averaged)
    images = torch.randn(6, 1, LARGE, LARGE, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 1, 2, 2, 1, 0])

    batch = at_own_size(parts, images, targets, SMALL)
    model.zero_grad()
    found = taught_loss(parts, state, batch, contextlib.nullcontext(), lambda loss: loss.backward())
    sum(found.joint, found.loss).backward()

    small = images
    if training.distill != "averaged":
        small = F.interpolate(images, (SMALL, SMALL), mode="bilinear", antialias=True, align_corners=False)
    large_logits = reference(images) if trains or training.distill == "larger" else None
    buffers = [buffer.clone() for buffer in (reference if trains else network(0)).buffers()]
    small_logits = reference(small)
    loss = F.cross_entropy(small_logits, targets).double()
    if training.both_sizes:
        assert large_logits is not None
        loss = (loss + F.cross_entropy(large_logits, targets)) / 2
    if training.distill:
        teacher = {"averaged": small, "averaged-larger": images}.get(training.distill)
        said = network(1)(teacher) if teacher is not None else large_logits
        weight, temperature = float(training.distill_weight[0].value), training.distill_temperature
        loss = loss + weight * divergence(said.detach(), small_logits, temperature)
    if training.consistency:
        assert large_logits is not None
        if training.consistency_loss == "smooth-l1":
            apart = F.smooth_l1_loss(small_logits, large_logits)
        else:
            apart = (divergence(small_logits, large_logits) + divergence(large_logits, small_logits)) / 2
        loss = loss + training.consistency * apart
    reference.zero_grad()
    loss.backward()
    for own, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, small_logits.detach(), rtol=1e-4, atol=1e-6)
    # A teacher leaves no trace in running statistics; a pass that is trained does.
    once = network(0)
    for buffer, value in zip(once.buffers(), buffers, strict=True):
        buffer.copy_(value)
    once(small)
    for own, expected in zip(model.buffers(), once.buffers(), strict=True):
        torch.testing.assert_close(own, expected)
    assert all(torch.equal(a, b) for a, b in zip(averaged.buffers(), network(1).buffers(), strict=True))


def test_the_small_images_are_those_that_would_have_been_loaded() -> None:
    """Crop, flip and padding are the same picture's at both sizes, to the rounding of pixels to whole levels."""
    rng = np.random.default_rng(0)
    preprocessing = Preprocessing(28, (0.5,), (0.25,), resize="stretch")
    for crop, aspect, large, small in (
        ("pad", SQUARE, (28, 28), (14, 14)),
        ("none", SQUARE, (28, 28), (14, 14)),
        ("none", Aspect(4 / 3, 4), (24, 32), (12, 16)),
    ):
        pixels = torch.from_numpy(rng.integers(0, 256, (5, *large, 1), dtype=np.uint8))
        source = ArraySource(pixels, np.zeros(5, np.int64), ("a",), "noise")
        transform = TrainTransform(preprocessing, AugmentSettings(crop=crop, flip=0.5, padding=4))
        loader = PlanLoader(source, transform)
        batch = Batch(3, 14, 2, np.array([4, 0, 2]), aspect=aspect)
        second = SecondSize(28, teacher="larger")
        parts: Any = types.SimpleNamespace(loader=loader, second=second, memory_format=torch.channels_last)
        (loaded,) = Parts.load(parts, [batch])
        assert loaded.size == 14
        assert loaded.images.shape == (6, 1, *large)
        smaller, targets, larger = at_own_size(parts, loaded.images, loaded.targets, loaded.size, loaded.aspect)
        assert smaller.shape == (6, 1, *small)
        (plain,) = loader.load([batch])
        assert larger is not None
        assert larger[1] is targets
        assert (smaller - plain.images).abs().max() < 1.5 / 255 / 0.25


def test_masks_become_smaller_with_their_images() -> None:
    parts: Any = types.SimpleNamespace(
        loader=types.SimpleNamespace(transform=types.SimpleNamespace(preprocessing=Preprocessing(4, (0.5,), (0.25,)))),
        second=SecondSize(4, teacher="larger"), memory_format=torch.channels_last,
    )  # fmt: skip
    masks = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [255, 255, 2, 2], [255, 255, 2, 2]], dtype=torch.uint8)[None]
    smaller = at_own_size(parts, torch.zeros(1, 1, 4, 4), masks, 2)
    assert smaller.targets.tolist() == [[[0, 1], [255, 2]]]
    assert smaller.larger is not None
    assert smaller.larger[1] is masks


@pytest.mark.parametrize(
    "changes",
    [
        {"training.distill": "larger"},
        {"training.distill": "larger", "training.second_size": "largest"},
        {"training.distill": "averaged", "training.average_steps": 1},
        {"training.both_sizes": True},
    ],
)
def test_a_mixture_that_moves_comes_to_its_end_with_a_teacher_too(changes: dict[str, Any]) -> None:
    points = [{"at": 0.5, "weights": {"14": 1}}, {"at": 1, "weights": {"14": 1, "35": 1}}]
    own = {"sizes.points": points, "training.epochs": 40}
    alone, taught = plan("quickstart", own), plan("quickstart", {**own, **changes})
    assert taught.epochs < alone.epochs
    assert taught.flops == pytest.approx(alone.flops, rel=0.001)

    def share(run: RunCost) -> float:
        return sum(part.samples for part in run.cost.sizes if part.size == 35) / run.cost.samples

    assert share(taught) == pytest.approx(share(alone), rel=0.1)


def test_the_largest_size_is_that_of_the_whole_run() -> None:
    points = [{"at": 0.5, "weights": {"14": 1}}, {"at": 1, "weights": {"14": 1, "35": 1}}]
    run = plan("quickstart", {"sizes.points": points, "training.distill": "larger", "training.second_size": "largest"})
    forward = {part.size: part.flops.forward for part in run.cost.sizes}
    assert {part.size: part.beside for part in run.cost.sizes} == {14: forward[35], 35: 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"training__distill": "larger", "training__both_sizes": True, "optimizer__weigh_sizes": "variance"},
        pytest.param(
            {"training__distill": "averaged-larger", "training__average_steps": 1, "training__consistency": 0.5},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_is_stopped_ends_with_the_same_bits(tiny: Make, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = tiny(data__limit=100, training__epochs=1, training__chunks=2, augment__mixup=0.2, **changes)
    whole = train(recipe, run=tmp_path / "whole")
    with stopped_after(6), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "stopped")
    ended = read_checkpoint(train(recipe, run=tmp_path / "stopped") / "checkpoints/last")
    expected = read_checkpoint(whole / "checkpoints/last")
    assert expected.tensors.keys() == ended.tensors.keys()
    for part, tensors in expected.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, ended.tensors[part][name]), f"{part}: {name}"
    if "optimizer__weigh_sizes" in changes:
        assert expected.state["size_weights"] == ended.state["size_weights"]
        assert sum(value > 0 for value in expected.state["size_weights"]["squares"].values()) > 1
    row = pd.read_csv(whole / "metrics.csv").iloc[0]
    assert row["flops"] == plan(recipe).flops
    assert row["train_distill"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_labels_and_masks_are_taught_too(tiny_scenes: Make, tmp_path: Path, task: str) -> None:
    recipe = tiny_scenes(
        task, training__epochs=1, training__distill="larger", training__consistency=0.1, training__both_sizes=True
    )
    row = pd.read_csv(train(recipe, run=tmp_path / "run") / "metrics.csv").iloc[0]
    assert row["train_distill"] > 0
    assert row["train_consistency"] > 0
    assert row["train_larger_loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "online"])
def test_weights_of_a_teacher_that_says_nothing_are_those_of_no_teacher(tiny: Make, tmp_path: Path, norm: str) -> None:
    """As far as the pixels are the same: at the step's own size nothing is resized."""
    options = {"depth": 8, "widths": [8, 8, 16]}  # no dropout, from whose generator a teacher draws, too
    recipe = tiny(
        data__limit=100, training__epochs=1, training__average_steps=1, model__norm=norm, model__options=options
    )
    plain = read_checkpoint(train(recipe, run=tmp_path / "plain") / "checkpoints/last")
    silent = {"training.distill": "averaged", "training.distill_weight": "0:0 1:1"}
    taught = read_checkpoint(train(recipe, silent, run=tmp_path / "taught") / "checkpoints/last")
    for name, value in plain.model.items():
        assert torch.equal(value, taught.model[name]), name


@pytest.mark.slow
def test_given_weights_scale_the_steps_of_their_size(tiny: Make, tmp_path: Path) -> None:
    """With plain SGD a weight of all sizes is a learning rate, whatever smoothing does to the norm of gradients."""
    base = {
        "data__limit": 100, "training__epochs": 1, "sizes__mix": "custom", "sizes__weights": {"14": 0.5, "28": 0.5},
        "optimizer__momentum": 0.0, "optimizer__weight_decay": 0.0, "optimizer__gradient_smoothing": 0.9,
    }  # fmt: skip
    one = train(tiny(**base, optimizer__lr=0.025), run=tmp_path / "one")
    weights = {"14": 0.5, "28": 0.5}
    other = train(tiny(**base, optimizer__lr=0.05, optimizer__size_weights=weights), run=tmp_path / "other")
    expected, found = (read_checkpoint(run / "checkpoints/last").model for run in (one, other))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__distill": "averaged"}, "there are no averaged weights; set training.average_steps"),
        ({"training__distill": "larger", "sizes__mix": "fixed"}, "the smallest size of this run is 28 px"),
        ({"training__distill_weight": 0.5}, "training.distill_weight is set without training.distill"),
        ({"training__distill": "larger", "training__distill_weight": 0.0}, "paid for nothing"),
        ({"training__consistency_loss": "smooth-l1"}, "is set without training.consistency"),
        ({"training__second_size": "largest"}, "but nothing is computed there"),
        ({"training__distill": "larger", "optimizer__adapt_copies": 2}, "optimizer.adapt_copies measures"),
        ({"training__consistency": 1.0, "model__norm": "online"}, "the control variables of online norms"),
        (
            {"training__distill": "averaged", "training__average_steps": 1, "quantize__aware": True},
            "does not go with quantize.aware",
        ),
        ({"optimizer__size_weights": {"99": 0.5}}, "expected sizes of this run: 14, 21, 28, 42"),
        ({"optimizer__weigh_sizes": "variance", "sizes__mix": "fixed"}, "each epoch of this run has one"),
        ({"optimizer__weigh_sizes": "variance", "optimizer__size_weights": {"14": 0.5}}, "leave one of them out"),
    ],
)
def test_what_has_no_effect_or_does_not_go_together_is_refused(
    tiny: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(tiny(**changes))
