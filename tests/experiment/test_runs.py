"""Evaluating, calibrating and planning from a run folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import anysize
from anysize.data.catalog import load_dataset
from anysize.evaluation.sizes import best_for_budget, parse_sizes
from anysize.experiment import build
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.norms.calibration import has_running_statistics
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.training import loop, step

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Make) -> Path:
    return train(tiny(data__limit=300, training__epochs=3), run=tmp_path_factory.mktemp("run"))


@pytest.mark.report
def test_the_table_has_each_size_as_trained_and_calibrated(run: Path) -> None:
    seen = []
    table = evaluate(run, "14:42:14", on_row=lambda row: seen.append(row["size"]))
    assert seen == [14, 14, 28, 28, 42, 42]
    assert list(table["calibrated"]) == [False, True] * 3
    assert set(table["images"]) == {300}  # each validation image once
    assert table["top1"].between(0, 1).all()
    assert (table["top5"] >= table["top1"]).all()
    assert (table["flops"].diff().dropna() >= 0).all()
    written = pd.read_csv(run / "evaluation.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    assert ">42<" in (run / "report.html").read_text() or "42 px" in (run / "report.html").read_text()


def test_metrics_equal_a_plain_computation(run: Path) -> None:
    loaded = load_run(run, "last")
    table = evaluate(run, [28], calibrate=False)
    source = load_dataset(loaded.recipe.data, "validation")
    mean, std = loaded.preprocessing.mean[0], loaded.preprocessing.std[0]
    images = torch.stack([source.image(i) for i in range(len(source))]).double().div(255).sub(mean).div(std)
    targets = torch.from_numpy(source.targets)
    with torch.no_grad():
        logits = loaded.model.double()(images)
    assert table["top1"][0] == pytest.approx(float((logits.argmax(1) == targets).double().mean()))
    assert table["loss"][0] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    top5 = (logits.topk(5).indices == targets[:, None]).any(1).double().mean()
    assert table["top5"][0] == pytest.approx(float(top5))


def test_evaluation_leaves_the_checkpoint_and_repeats_itself(run: Path) -> None:
    before = (run / "checkpoints/last/model.safetensors").read_bytes()
    first, second = evaluate(run, [21]), evaluate(run, [21])
    same = ["size", "calibrated", "top1", "top5", "loss", "images", "flops"]
    pd.testing.assert_frame_equal(first[same], second[same])
    assert (run / "checkpoints/last/model.safetensors").read_bytes() == before


def test_a_calibrated_copy_evaluates_as_the_calibrated_row(run: Path) -> None:
    folder = calibrate(run, 42)
    assert folder == run / "checkpoints/calibrated-42"
    table = evaluate(run, [42])
    copied = evaluate(run, [42], calibrate=False, checkpoint="calibrated-42")
    assert copied["top1"][0] == table["top1"][1]
    assert copied["loss"][0] == pytest.approx(table["loss"][1], rel=1e-6)
    assert load_run(run, "calibrated-42").preprocessing.image_size == 42


def test_outputs_are_averaged_over_copies_and_crops(run: Path) -> None:
    one = evaluate(run, [28], calibrate=False)
    for option in ({"evaluation.crops": "10"}, {"evaluation.copies": 3}):
        several = evaluate(run, [28], calibrate=False, overrides=option)
        assert several["images"][0] == 300
        assert several["loss"][0] != one["loss"][0]
    loaded = load_run(run, "last", {"evaluation.copies": 2})
    evaluator = make_evaluator(loaded)
    batch = next(iter(evaluator.validation_loader.load(evaluator.validation_batches(28))))
    assert batch.copies == 2
    assert len(batch.images) == 2 * len(batch.indices)
    assert torch.equal(batch.targets[: len(batch.indices)], batch.targets[len(batch.indices) :])
    with pytest.raises(UserError, match="expected one of them to be 1"):
        evaluate(run, [28], overrides={"evaluation.crops": "5", "evaluation.copies": 2})


def test_crop_or_pad_is_there_by_name(run: Path) -> None:
    resized = evaluate(run, [42], calibrate=False)
    padded = evaluate(run, [42], calibrate=False, overrides={"data.resize": "crop-or-pad"})
    assert padded["loss"][0] != resized["loss"][0]


def test_another_mean_than_that_of_the_training_is_refused(run: Path) -> None:
    """Else images would be prepared in one way to calibrate and in another to evaluate."""
    with pytest.raises(UserError, match=r"data\.mean is \[0\.5\] and the model was trained with \[0\.286\]"):
        evaluate(run, [28], overrides={"data.mean": "0.5"})
    (mean,) = load_run(run).preprocessing.mean
    assert len(evaluate(run, [28], overrides={"data.mean": str(mean)})) == 2


def test_a_network_without_running_statistics_is_evaluated_as_trained_alone(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(model__name="squeezenet1_1", model__options={}, sizes__base=40, data__limit=40, training__epochs=1)
    folder = train(recipe, run=tmp_path / "run")
    loaded = load_run(folder)
    assert not has_running_statistics(loaded.model)
    assert list(evaluate(folder, [32, 48])["calibrated"]) == [False, False]
    with pytest.raises(UserError, match="keeps no running statistics"):
        calibrate(folder, 48)


def test_the_best_size_for_a_budget() -> None:
    table = pd.DataFrame(
        {"size": [16, 24, 32], "top1": [0.6, 0.9, 0.8], "flops": [1e7, 3e7, 5e7], "images_per_second": [500, 200, 100]}
    )
    assert best_for_budget(table, "1GFLOPs")["size"] == 24
    assert best_for_budget(table, "20 MFLOPs")["size"] == 16
    assert best_for_budget(table, "5ms")["size"] == 24
    with pytest.raises(UserError, match=r"the cheapest takes 10\.0 MFLOPs"):
        best_for_budget(table, "5MFLOPs")
    with pytest.raises(UserError, match=r"the cheapest takes 10\.0 MFLOPs"):  # and not 1e+04 kFLOPs
        best_for_budget(table, "5kFLOPs")
    with pytest.raises(UserError, match="expected FLOPs or time"):
        best_for_budget(table, "5 bananas")


@pytest.mark.parametrize("given", ["", "a", "16:", "0:8:4", "32:16:4", "-3"])
def test_sizes_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="sizes are"):
        parse_sizes(given)


def test_what_is_wrong_with_a_run_folder_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint 'bset': did you mean 'best'"):
        evaluate(run, checkpoint="bset")
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoints/last/state.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged: state\.json"):
        evaluate(copy)
    with pytest.raises(UserError, match=r"names no size"):
        evaluate(run, [0])


@pytest.mark.slow
def test_the_plan_says_what_training_will_spend(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with the images that have gone through forward and backward passes, whatever they were for."""
    computed: list[tuple[int, int]] = []
    plain = step.backward

    def backward(parts: Any, state: Any, images: torch.Tensor, *args: Any, **options: Any) -> Any:
        computed.append((len(images), images.shape[-1]))
        return plain(parts, state, images, *args, **options)

    monkeypatch.setattr(step, "backward", backward)
    monkeypatch.setattr(loop, "fit_into_memory", lambda *_: None)
    for mix, equal, adapt in (("D+", False, 2), ("B+", True, 0), ("D+", True, 2)):
        changes = {"optimizer__adapt_copies": adapt, "training__batch_size": 16, "data__limit": 100}
        recipe = tiny(sizes__mix=mix, training__equal_flops=equal, **changes)
        cost = anysize.plan(recipe)
        computed.clear()
        folder = train(recipe, run=tmp_path / f"{mix}{equal}")
        spent = pd.read_csv(folder / "metrics.csv").iloc[-1]
        flops = build.flops_by_size(load_run(folder, "last").model, 1)
        assert cost.flops == spent["flops"] == sum(images * flops(size).total for images, size in computed)
        assert cost.steps == spent["step"] == cost.cost.steps
        assert cost.epochs == spent["epoch"]
        assert cost.images == spent["images"] == cost.cost.images
        assert cost.ratio == pytest.approx(cost.cost.ratio)
        assert (cost.cost.measured_flops > 0) == bool(adapt)
        if equal:
            assert cost.ratio == pytest.approx(1, abs=0.15)


def test_a_plan_needs_no_data() -> None:
    cost = anysize.plan(
        Recipe(), {"data.name": "imagenet", "model.name": "resnet18", "sizes.mix": "B+", "sizes.base": 144}
    )
    assert cost.length == 1_281_167
    assert {part.size for part in cost.cost.sizes} == {96, 128, 224, 256}
    assert cost.memory > 2**30
