"""A recipe's norm is what trains, what a checkpoint holds, and what comes back from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import stopped_after
from torch import nn

from anysize.experiment import build
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.models.spec import ModelSpec
from anysize.norms.layers import ElementwiseLayerNorm
from anysize.norms.online.norm import OnlineNorm2d
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint
from anysize.training.guards import Diverged

Make = Callable[..., Recipe]
# Online norm follows the size, and FLOPs are counted for each.
TWO_SIZES = {"sizes__mix": "custom", "sizes__weights": {"20": 0.5, "28": 0.5}}


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith(("bn1", "bn2"))]


@pytest.fixture(scope="module")
def online(tiny: Make) -> Recipe:
    return tiny(
        data__limit=64,
        **TWO_SIZES,
        training__chunks=2,
        model__norm="online",
        model__norm_options={"alpha_fwd": 0.9, "ecm": "ac"},
    )


@pytest.fixture(scope="module")
def online_run(online: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(online, run=tmp_path_factory.mktemp("online") / "run")


def test_online_norm_trains_and_comes_back_with_its_options(online_run: Path) -> None:
    loaded = load_run(online_run, "last")
    for norm in norms(loaded.model):
        assert isinstance(norm, OnlineNorm2d)
        assert (norm.options.alpha_fwd, norm.options.ecm) == (0.9, "ac")
        assert norm.norm.m.any()  # the state that training left
    assert len(evaluate(online_run, [28], calibrate=False)) == 1
    with pytest.raises(UserError, match=r"checkpoint of another model: its model.norm_options is .*, the run's recipe"):
        load_run(online_run, "last", {"model.norm_options.alpha_fwd": 0.8})


def test_norm_with_a_weight_a_value_takes_the_base_size(tmp_path: Path, tiny: Make) -> None:
    recipe = tiny(data__limit=16, training__epochs=1, sizes__mix="fixed", model__norm="layer_elementwise")
    run = train(recipe, run=tmp_path / "run")
    loaded = load_run(run)
    assert isinstance(loaded.model.bn1, ElementwiseLayerNorm)
    assert loaded.model.bn1.weight.shape[1:] == (28, 28)
    with pytest.raises(UserError, match="cannot take images of 14 pixels: this layer norm has a weight for each value"):
        evaluate(run, [14])
    with pytest.raises(UserError, match=r"cannot take images of \d+ pixels: this layer norm"):
        train(tiny(model__norm="layer_elementwise"), run=tmp_path / "mixed")


def test_checkpoints_without_a_word_on_norms_load_and_others_are_compared(tmp_path: Path, tiny: Make) -> None:
    run = train(tiny(data__limit=16, training__epochs=1), run=tmp_path / "run")
    saved = read_checkpoint(run / "checkpoints/last")
    assert ModelSpec.from_dict(saved.state["model"]).settings["norm"] == ""
    old = {key: saved.state["model"][key] for key in ("name", "options", "num_classes", "in_channels")}
    state = {key: value for key, value in saved.state.items() if key not in ("files", "format")}
    write_checkpoint(run / "checkpoints/old", Checkpoint({"model": saved.model}, {**state, "model": old}))
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(load_run(run, "old").model(images), load_run(run, "last").model(images))
    with pytest.raises(UserError, match=r"checkpoint of another model: its model.norm is .*, the run's recipe"):
        load_run(run, "old", {"model.norm": "group"})


def test_command_line_values_become_options(tiny: Make) -> None:
    recipe = load_recipe("quickstart", {"model.norm": "group", "model.norm_options.num_groups": "4"})
    assert recipe.model.norm_options == {"num_groups": 4}
    model = build.build_model(recipe, build.build_data(recipe).preprocessing)
    assert model.bn1.num_groups == 4
    with pytest.raises(UserError, match=r"--model.norm is 'gruop': did you mean 'group'"):
        load_recipe("quickstart", {"model.norm": "gruop"})
    with pytest.raises(UserError, match="given without a norm"):
        build.build_model(tiny(model__norm_options={"eps": 0.1}), build.build_data(recipe).preprocessing)


def test_online_norm_stopped_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, online: Recipe, online_run: Path
) -> None:
    for backward_passes in (3, 4):  # of two chunks a step
        with pytest.raises(Interrupted), stopped_after(backward_passes):
            train(online, run=tmp_path / "broken")
    whole = read_checkpoint(online_run / "checkpoints/last")
    broken = read_checkpoint(train(online, run=tmp_path / "broken") / "checkpoints/last")
    assert whole.model["bn1.norm.u"].any()
    assert all(torch.equal(value, broken.model[name]) for name, value in whole.model.items())
    assert broken.state["control"] == whole.state["control"]


def test_chunks_change_nothing_with_online_norm(tmp_path: Path, tiny: Make) -> None:
    changes = {
        "model__norm": "online",
        # layer scaling behind a weight of zero divides by the root of 1e-5 and would blow rounding up
        "model__options": {"depth": 8, "widths": [4, 8, 16], "stem": 4, "zero_init_residual": False},
        "data__limit": 24,
        "training__epochs": 1,
        **TWO_SIZES,
    }
    runs = [train(tiny(**changes, training__chunks=n), run=tmp_path / str(n)) for n in (1, 4)]
    one, four = (read_checkpoint(run / "checkpoints/last").model for run in runs)
    for name, value in one.items():
        torch.testing.assert_close(value, four[name], rtol=1e-3, atol=1e-6, msg=name)


def test_values_that_are_not_finite_are_told_with_the_norm_that_met_them(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.train_step

    def poisoned(parts: Any, state: Any, batch: Any, seed: int) -> None:
        if state.progress.step == 2:
            batch.images[1] = float("nan")
        original(parts, state, batch, seed)

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(Diverged, match=r"loss is nan .*; the first of the model that is not finite is bn1\.norm\.m;"):
        train(tiny(model__norm="online", sizes__mix="fixed", data__limit=64), run=tmp_path / "run")
