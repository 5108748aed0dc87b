"""A run with a norm for each training size: what it keeps, how it goes on, and what other verbs make of it."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_group import in_group
from interruption import stopped_after

from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.export import export_run
from anysize.experiment.loaded import load_run
from anysize.experiment.planning import plan
from anysize.experiment.train import train
from anysize.export.runtimes import open_runtime
from anysize.models.spec import ModelSpec
from anysize.norms.by_size.model import norm_sizes
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_checkpoint

Make = Callable[..., Recipe]
BY_SIZE = {
    "data__limit": 64,
    "model__norm_by_size": True,
    "sizes__mix": "custom",
    "sizes__weights": {"16": 0.5, "28": 0.5},
    "sizes__budget": "",
}


@pytest.fixture(scope="module")
def recipe(tiny: Make) -> Recipe:
    return tiny(**BY_SIZE, model__norm_by_size_affine=True, training__average_steps=2)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, run=tmp_path_factory.mktemp("by-size") / "run")


def test_it_keeps_a_norm_for_each_size_and_validates_without_calibration(run: Path) -> None:
    loaded = load_run(run, "best")
    assert norm_sizes(loaded.model) == (16, 28)
    small, large = (getattr(loaded.model.bn1, f"at_{size}") for size in (16, 28))
    assert not torch.equal(small.running_mean, large.running_mean)
    assert not torch.equal(small.weight, large.weight)
    rows = run_files.read_rows(run / run_files.METRICS)
    assert {row["validation_calibrated"] for row in rows} == {"False"}
    with pytest.raises(UserError, match=r"its model.norm_by_size is True, the run's recipe says False"):
        load_run(run, "best", {"model.norm_by_size": "false", "model.norm_by_size_affine": "false"})


@pytest.mark.parametrize(
    "shapes",
    [{"evaluation__shape": "own"}, {"sizes__aspect_ratios": (0.75, 1.0), "augment__crop": "random-resized"}],
)
def test_the_best_of_several_shapes_keeps_all_sizes(tiny: Make, tmp_path: Path, shapes: dict[str, Any]) -> None:
    recipe = tiny(**{**BY_SIZE, "data__limit": 32}, training__epochs=1, sizes__multiple=4, **shapes)
    assert norm_sizes(load_run(train(recipe, run=tmp_path / "run"), "best").model) == (16, 28)


@pytest.mark.parametrize("affine", [False, True])
def test_two_sizes_of_a_step_are_compared(tiny: Make, tmp_path: Path, *, affine: bool) -> None:
    recipe = tiny(**{**BY_SIZE, "data__limit": 32}, training__consistency=0.5, model__norm_by_size_affine=affine)
    run = train(recipe, run=tmp_path / "run")
    assert all(float(row["train_loss"]) < 10 for row in run_files.read_rows(run / run_files.METRICS))


def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, recipe: Recipe, run: Path) -> None:
    for backward_passes in (3, 4):
        with pytest.raises(Interrupted), stopped_after(backward_passes):
            train(recipe, run=tmp_path / "broken")
    broken = read_checkpoint(train(recipe, run=tmp_path / "broken") / "checkpoints/last")
    whole = read_checkpoint(run / "checkpoints/last")
    for part in ("model", "averaged", "optimizer"):
        assert all(torch.equal(value, broken.tensors[part][name]) for name, value in whole.tensors[part].items())


def test_the_cost_is_that_of_plain_norms(tiny: Make) -> None:
    plain = tiny(**{**BY_SIZE, "model__norm_by_size": False})
    assert plan(tiny(**BY_SIZE)).flops == plan(plain).flops


def test_a_calibrated_copy_has_plain_norms(run: Path) -> None:
    table = evaluate(run, [16, 22]).set_index(["size", "calibrated"])
    folder = calibrate(run, 22)
    copy = load_run(run, folder.name)
    assert norm_sizes(copy.model) == ()
    assert ModelSpec.from_dict(copy.checkpoint.state["model"]).settings["norm_by_size"]
    again = evaluate(run, [22], checkpoint=folder.name, calibrate=False)
    assert again["loss"][0] == pytest.approx(table.loc[(22, True), "loss"], rel=1e-5)
    assert table.loc[(22, True), "prepared_flops"] >= 48 * table.loc[(22, True), "flops"]


def test_weights_of_it_start_a_network_with_plain_norms(run: Path, tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(data__limit=16, training__epochs=1, model__weights=str(run), optimizer__lr=0.0, sizes__mix="fixed")
    began = read_checkpoint(train(recipe, run=tmp_path / "run") / "checkpoints/last").model
    given = read_checkpoint(run / "checkpoints/best").model
    assert torch.equal(began["bn1.weight"], given["bn1.at_28.weight"])


@pytest.mark.slow
def test_a_file_has_the_norms_of_one_size(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = torch.randn(2, 1, 16, 16)
    for size in (16, None):
        with caplog.at_level(logging.WARNING):
            exported = export_run(run, tmp_path / f"{size}.onnx", size=size)
        assert f"keeps norms for 16, 28 px; in the file are those for {size or 28} px" in caplog.text
        given = open_runtime(exported.path)(images)
        own = load_run(run, "last").model(images)
        assert torch.allclose(given, own, atol=1e-4) == (size == 16)


def test_what_does_not_go_together_is_refused(tiny: Make, tmp_path: Path) -> None:
    for changes, message in (
        ({"model__norm_by_size_affine": True}, "set without model.norm_by_size"),
        ({"model__norm_by_size": True, "model__norm": "group"}, "keep no running statistics"),
        ({"model__norm_by_size": True, "quantize__aware": True}, "does not go with quantize.aware"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny(**changes), run=tmp_path / "run")


def _trained(recipe: Recipe, folder: Path, rank: int) -> dict[str, Any]:
    run = train(recipe, run=folder / "run")
    return dict(read_checkpoint(run / "checkpoints/last").tensors["replicas" if rank else "model"])


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path, tiny: Make) -> None:
    recipe = tiny(**BY_SIZE, model__norm_by_size_affine=True)
    model, replicas = in_group(2, functools.partial(_trained, recipe, tmp_path), tmp_path, seconds=600)
    own = [replicas[f"{rank}/model/bn1.at_16.running_mean"] for rank in range(2)]
    assert not torch.equal(*own)
    torch.testing.assert_close(model["bn1.at_16.running_mean"], (own[0] + own[1]) / 2)
    assert model["norm_steps"].sum() == 4  # of two epochs, batches of 32
    assert not torch.equal(model["bn1.at_16.weight"], model["bn1.at_28.weight"])
