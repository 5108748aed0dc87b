"""Settings of the augmentation, from the recipe to the pixels of training, evaluation and prediction."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from gloo_group import in_group, trained_weights
from interruption import stopped_after

from anysize.experiment.build import build_data, feed_alike
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.planning import plan
from anysize.experiment.predict import predict
from anysize.experiment.sizing import build_plan
from anysize.experiment.targets import build_evaluator
from anysize.experiment.train import train
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted

Make = Callable[..., Recipe]
ALL = {
    "augment__autoaugment": "trivialaugment",
    "augment__random_erasing": 0.5,
    "augment__backend": "pil",
    "data__interpolation": "bicubic",
    "training__repeats": 2,
}


@pytest.mark.slow
def test_a_run_is_trained_and_evaluated_as_its_recipe_says(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(**ALL, data__limit=48, training__epochs=1, training__batch_size=16, augment__mixup=0.2)
    folder = train(recipe, run=tmp_path / "run")
    own = load_run(folder).preprocessing
    assert (own.backend, own.interpolation) == ("pil", "bicubic")
    assert own == build_data(recipe).preprocessing
    plan = build_plan(recipe, 48)
    assert len({int(i) for batch in plan.batches(0) for i in batch.indices}) == 24

    table = evaluate(folder, [42], calibrate=False)
    other = evaluate(folder, [42], calibrate=False, overrides={"data.interpolation": "nearest"})
    assert other["loss"][0] != table["loss"][0]
    changes = {"augment.backend": "tensor", "data.interpolation": "bilinear"}
    evaluator = make_evaluator(load_run(folder, overrides=changes))
    for loader in (evaluator.loader, evaluator.validation_loader):  # to calibrate with, to measure with
        assert loader.transform.preprocessing == dataclasses.replace(own, backend="tensor", interpolation="bilinear")


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tiny: Make, tmp_path: Path) -> None:
    settings = {**ALL, "augment__autoaugment": "augmix", "data__interpolation": "bilinear", "training__repeats": 3}
    recipe = tiny(**settings, data__limit=64, training__epochs=2, training__batch_size=8)
    whole = train(recipe, run=tmp_path / "whole")
    with stopped_after(5), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "stopped")
    train(recipe, run=tmp_path / "stopped")
    weights = [(folder / "checkpoints/last/model.safetensors").read_bytes() for folder in (whole, tmp_path / "stopped")]
    assert weights[0] == weights[1]
    with pytest.raises(UserError, match="repeats"):
        train(tiny(**{**settings, "training__repeats": 1}), run=tmp_path / "stopped")


MOVING = {
    "sizes__mix": "window",
    "sizes__sizes": [14, 28],
    "optimizer__lr_by_batch": "sqrt",
    "augment__autoaugment": "randaugment",
    "augment__by_size": {"magnitude": [[14, 2], [28, 12]], "mixup": [[14, 0.0], [28, 0.4]]},
    "augment__random_erasing": 0.5,
    "augment__by_epoch": {"random_erasing": [[0, 0.0], [2, 1.0]]},
}


@pytest.mark.slow
def test_a_run_whose_sizes_rates_and_augmentation_move_goes_on_to_the_same_weights(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(**MOVING, data__limit=64, training__epochs=2, training__batch_size=8)
    planned = plan(recipe)
    whole = train(recipe, run=tmp_path / "whole")
    with stopped_after(9), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "stopped")
    train(recipe, run=tmp_path / "stopped")
    weights = [(folder / "checkpoints/last/model.safetensors").read_bytes() for folder in (whole, tmp_path / "stopped")]
    assert weights[0] == weights[1]
    rows = pd.read_csv(whole / "metrics.csv")
    assert int(rows["flops"].iloc[-1]) == planned.flops
    assert len(rows) == planned.epochs
    shares = [part.share for part in build_plan(recipe, 64).sizes(0)]
    assert shares != [part.share for part in build_plan(recipe, 64).sizes(planned.epochs - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("norm_by_size", [False, True])
def test_two_processes_follow_a_moving_mixture(tiny: Make, tmp_path: Path, norm_by_size: bool) -> None:
    recipe = tiny(
        **MOVING, data__limit=64, training__epochs=2, training__batch_size=8, model__norm_by_size=norm_by_size
    )
    planned = plan(recipe, devices=2)
    one, other = in_group(2, functools.partial(trained_weights, recipe=recipe, run=tmp_path / "run"), tmp_path)
    assert torch.equal(one, other)
    rows = pd.read_csv(tmp_path / "run/metrics.csv")
    assert (int(rows["flops"].iloc[-1]), len(rows)) == (planned.flops, planned.epochs)
    steps = pd.read_csv(tmp_path / "run/steps.csv")
    assert {size for cell in steps["sizes"] for size in json.loads(cell)} == {"14", "28"}


def test_images_to_calibrate_with_are_augmented_as_at_the_end(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(augment__cutout=14, augment__by_epoch={"cutout": [[0, 0.0], [3, 1.0]]}, data__limit=20)
    data = build_data(recipe)
    evaluator = build_evaluator(
        recipe, data.preprocessing, data.train, lambda: data.loader(recipe.data, torch.device("cpu")),
        torch.device("cpu"),
    )  # fmt: skip
    batches = evaluator.calibration_batches(torch.nn.BatchNorm2d(1), 28)
    assert {batch.epoch for batch in batches} == {3}
    assert all((loaded.images == 0).flatten(1).any(1).all() for loaded in evaluator.loader.load(batches))


def test_segmentation_has_nothing_to_mix_by_size() -> None:
    changes = {"augment.by_size": {"mixup": [[14, 0.0], [28, 0.4]]}}
    with pytest.raises(UserError, match="has mixup, but the task 'segmentation'"):
        plan(load_recipe("quickstart-segmentation", changes))


@pytest.mark.slow
def test_predictions_resize_as_the_overrides_say(tiny: Make, tmp_path: Path, image_folder: Path) -> None:
    folder = train(
        tiny(data__name="folder", data__root=str(image_folder), training__epochs=1, sizes__base=28, model__options={}),
        run=tmp_path / "run",
    )
    paths = sorted((image_folder / "val").rglob("*.jpg"))[:3]
    tables = [predict(folder, paths, overrides={"data.crop_ratio": ratio}) for ratio in (0, 0.6)]
    assert not np.allclose(*(table.select_dtypes("number") for table in tables))
    assert load_run(folder, overrides={"data.crop_ratio": 0.6}).preprocessing.crop_ratio == 0.6


def test_what_the_recipe_says_of_resizing_goes_before_the_weights(tiny: Make) -> None:
    data, weights = Preprocessing(28), Preprocessing(224, interpolation="bicubic", crop_ratio=0.95)
    settings = tiny().data
    alike = feed_alike(data, weights, settings)
    assert (alike.interpolation, alike.crop_ratio) == ("bicubic", 0.95)
    alike = feed_alike(data, weights, dataclasses.replace(settings, interpolation="nearest"))
    assert (alike.interpolation, alike.crop_ratio) == ("nearest", 0.95)
    alike = feed_alike(data, weights, dataclasses.replace(settings, crop_ratio=224 / 232))
    assert (alike.interpolation, alike.resize_side(224)) == ("bicubic", 232)


@pytest.mark.parametrize("changes", [{}, {"augment.backend": "pil"}, {"augment.autoaugment": "augmix"}])
def test_images_with_labels_take_all_of_it(changes: dict[str, str]) -> None:
    settings = {
        "data.limit": 6,
        "sizes.mix": "fixed",
        "augment.autoaugment": "randaugment",
        "augment.random_erasing": 1.0,
        **changes,
    }
    recipe = load_recipe("quickstart-multilabel", {**settings, "training.repeats": 3, "training.batch_size": 6})
    loader = build_data(recipe).loader(recipe.data, torch.device("cpu"))
    batch = next(loader.load(build_plan(recipe, 6).batches(0)))
    assert len(set(batch.indices.tolist())) == 2
    assert len({image.numpy().tobytes() for image in batch.images}) == len(batch.images) == 6
    assert (batch.images == 0).all(1).any(2).any(1).all()  # a hole in each


def test_images_with_masks_are_repeated_and_refuse_the_rest() -> None:
    def batch(**changes: object) -> list[int]:
        settings = {key.replace("__", "."): value for key, value in changes.items()}
        settings |= {"data.limit": 6, "training.batch_size": 6, "sizes.mix": "fixed"}
        recipe = load_recipe("quickstart-segmentation", settings)
        loader = build_data(recipe).loader(recipe.data, torch.device("cpu"))
        loaded = next(loader.load(build_plan(recipe, 6).batches(0)))
        assert len({image.numpy().tobytes() for image in loaded.images}) == len(loaded.images)
        return loaded.indices.tolist()

    assert len(set(batch(training__repeats=3))) == 2
    for name, value in (("autoaugment", "augmix"), ("random_erasing", 0.5), ("backend", "pil")):
        with pytest.raises(UserError, match=rf"^augment\.{name} is"):
            batch(**{f"augment__{name}": value})
