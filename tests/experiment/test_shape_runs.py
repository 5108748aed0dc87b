"""Runs on images that are not square: trained in groups of their shapes, resumed, evaluated at their own shape."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from gloo_group import in_group, trained_weights
from image_files import smooth_image, write_folder
from interruption import stopped_after
from PIL import Image

from anysize.experiment.adapt import adapt
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.planning import plan
from anysize.experiment.predict import predict
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.reports import html
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_checkpoint

SHAPES = [(40, 54), (54, 40), (44, 44), (41, 55)]
Make = Callable[..., Recipe]

pytestmark = pytest.mark.slow


def settings_of(root: Path) -> dict[str, Any]:
    return {
        "data.root": str(root), "data.workers": 0, "data.mean": [0.5] * 3, "data.std": [0.25] * 3,
        "model.name": "cifar_resnet", "model.options": {"depth": 8, "widths": [8, 8, 8], "dropout": 0.1},
        "model.weights": "",
        "sizes.mix": "custom", "sizes.weights": {"24": 0.5, "32": 0.5}, "sizes.base": 32,
        "sizes.aspect_ratios": [0.75, 1.0, 1.333], "sizes.multiple": 4,
        "training.epochs": 2, "training.batch_size": 3, "training.equal_flops": False, "training.precision": "float32",
        "training.validate_every": 1, "optimizer.lr": 0.05, "optimizer.warmup_epochs": 0, "training.drop_last": False,
        "evaluation.calibration_images": 12, "evaluation.calibration_strength": "full", "evaluation.pictures": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    return write_folder(root, 9, size=lambda i: SHAPES[i % len(SHAPES)], ending="png")


@pytest.fixture(scope="module")
def make(folder: Path) -> Make:
    def recipe(**changes: Any) -> Recipe:
        given = {key.replace("__", "."): value for key, value in changes.items()}
        return load_recipe("folder", {**settings_of(folder), **given})

    return recipe


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "write_report", lambda folder: None)


ONE_SHAPE = {"sizes__base": 0, "sizes__aspect_ratios": [], "sizes__mix": "fixed", "sizes__weights": {}}
TAUGHT = {"training__distill": "larger", "training__both_sizes": True, "training__consistency": 0.5}


@pytest.fixture(scope="module")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make(), run=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def taught(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make(**TAUGHT), run=tmp_path_factory.mktemp("taught"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints/last/model.safetensors")


@pytest.mark.parametrize(("name", "changes"), [("run", {}), ("taught", TAUGHT)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    name: str, changes: dict[str, Any], request: pytest.FixtureRequest, make: Make, tmp_path: Path
) -> None:
    with stopped_after(9), pytest.raises(Interrupted):
        train(make(**changes), run=tmp_path / "stopped")
    train(make(data__workers=2, **changes), run=tmp_path / "stopped")
    resumed = weights(tmp_path / "stopped")
    whole = weights(request.getfixturevalue(name))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_each_image_is_evaluated_once_at_its_own_shape(run: Path, folder: Path) -> None:
    table = evaluate(run, "32,24x40", calibrate=True)
    assert list(table["images"]) == [18] * 4
    assert list(table["calibrated"]) == [False, True] * 2
    assert list(table["size"]) == [32, 32, 31, 31]
    assert "shape=24x40" in table["settings"][2]
    square = evaluate(run, "32", calibrate=False, overrides={"evaluation.shape": "square"})
    assert square["settings"][0] != table["settings"][0]
    assert table["flops"][0] != square["flops"][0] == pytest.approx(table["flops"][0], rel=0.1)
    answers = pd.read_csv(run / "predictions.csv")
    assert len(answers) == 18
    said = predict(run, folder / "val", size=32)
    assert list(said["file"]) == sorted(said["file"])
    for row in predict(run, said["file"][4:5], size=32).to_dict("records"):  # alone as among others
        of_all = said[said["file"] == row["file"]].iloc[0]
        assert all(of_all[name] == pytest.approx(value, rel=1e-4) for name, value in row.items() if "p(" in name)


def test_the_larger_shape_teaches_and_the_plan_knows_what_it_costs(run: Path, taught: Path, make: Make) -> None:
    planned = plan(make(**TAUGHT))
    own = {(part.size, part.aspect): part.flops.total for part in planned.cost.sizes}
    for part in planned.cost.sizes:
        assert part.beside == (own[32, part.aspect] if part.size == 24 else 0)
    metrics = pd.read_csv(taught / "metrics.csv")
    assert metrics["flops"].iloc[-1] == planned.flops > plan(make()).flops
    assert (metrics[["train_distill", "train_larger_loss", "train_consistency"]] > 0).all(axis=None)
    assert any(not torch.equal(value, weights(run)[name]) for name, value in weights(taught).items())


def test_the_plan_knows_the_shapes(make: Make) -> None:
    cost = plan(make()).cost
    assert {part.extent for part in cost.sizes} == {(36, 28), 32, (28, 36), (28, 20), 24, (20, 28)}
    assert cost.samples == 2 * 18
    assert plan(make(), images=36).cost.samples == 2 * 36


def test_a_run_of_one_shape_is_adapted_in_that_shape(make: Make, tmp_path: Path) -> None:
    run = train(make(**ONE_SHAPE, sizes__shape="24x32", training__epochs=1), run=tmp_path / "run")
    state = read_checkpoint(adapt(run, 42)).state
    (row,) = evaluate(run, "42", calibrate=False).iloc[:1].to_dict("records")
    assert row["checkpoint"] == "adapted-42"
    (part,) = plan(make(**ONE_SHAPE, sizes__shape="36x48")).cost.sizes
    assert row["flops"] == part.flops.forward
    own = state["adapted"]
    assert own["flops"] > own["images"] * part.flops.forward  # and a backward pass of head and norms
    calibrated = read_checkpoint(calibrate(run, 42)).state["calibrated"]
    assert calibrated["flops"] == 12 * part.flops.forward
    chosen = {"evaluation.calibration_strength": "chosen"}
    few = read_checkpoint(calibrate(run, 42, overrides={"data.limit": 3, **chosen})).state["calibrated"]
    assert (few["strength"], few["flops"]) == (0, 0)  # too few to judge by, and nothing was computed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                **TAUGHT,
                "sizes__weights": {"28": 1, "32": 1},
                "sizes__multiple": 8,
                "sizes__aspect_ratios": [0.75, 1.333],
            },
            "the smallest size of this run is 28 px, and training.distill = larger",
        ),
        (
            {"sizes__shape": "32x48", "sizes__base": 0},
            "sizes.shape is 32x48 and sizes.aspect_ratios .* leave one of them out",
        ),
        ({"sizes__shape": "32x48", "sizes__aspect_ratios": []}, "sizes.base is 32 and sizes.shape 32x48, which has as"),
        ({"sizes__aspect_ratios": []}, "sizes.multiple is 4, and all images are square; set sizes.shape"),
        ({"augment__crop": "pad"}, "augment.crop is pad, which cuts squares of the base size"),
        ({"optimizer__adapt_copies": 4}, "optimizer.adapt_copies measures gradients every so many steps"),
        ({"evaluation__crops": "5"}, "evaluation.crops is 5, but at their own shape"),
        ({"model__name": "alexnet", "model__options": {}}, "cannot take images of .* the smallest it takes is 63"),
    ],
)
def test_what_does_not_go_together_is_refused(
    make: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(make(**changes), run=tmp_path)


def test_two_processes_train_the_same_shapes(make: Make, tmp_path: Path) -> None:
    recipe = make(training__distill="larger")
    one, other = in_group(2, functools.partial(trained_weights, recipe=recipe, run=tmp_path / "run"), tmp_path)
    assert torch.equal(one, other)
    metrics = pd.read_csv(tmp_path / "run/metrics.csv")
    assert list(metrics["images"]) == [18, 36]


def test_masks_in_groups_and_at_their_own_shape(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("validation", 5)):
        for i in range(count):
            height, width = SHAPES[i % len(SHAPES)]
            for name in ("images", "masks"):
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            smooth_image(i, height, width).save(tmp_path / split / "images" / f"{i}.png")
            mask = Image.new("L", (width, height), 0)
            mask.paste(1, (5, 5, 20, 25))
            mask.save(tmp_path / split / "masks" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("background\none\n")
    network = {
        "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2, "stem": 8, "aspp_width": 8,
        "aspp_rates": [1, 2, 3],
    }  # fmt: skip
    base = load_recipe("quickstart-segmentation")
    recipe = load_recipe("quickstart-segmentation", {
        **settings_of(tmp_path), "data.name": "folder-masks", "model.name": base.model.name, "model.options": network,
        "training.epochs": 1, "data.mean": [0.5] * 3, "evaluation.shape": "own",
        "training.both_sizes": True, "training.distill": "larger",
    })  # fmt: skip
    run = train(recipe, run=tmp_path / "run")
    assert pd.read_csv(run / "metrics.csv")["train_larger_loss"].iloc[-1] > 0
    table = evaluate(run, "32", calibrate=True)
    assert list(table["images"]) == [5, 5]
    padded = evaluate(run, "32", calibrate=False, overrides={"evaluation.shape": "auto"})
    assert padded["loss"][0] != table["loss"][0]


def test_labels_in_groups_and_at_their_own_shape(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("validation", 5)):
        rows = ["image,labels"]
        for i in range(count):
            smooth_image(i, *SHAPES[i % len(SHAPES)]).save(tmp_path / f"{split}-{i}.png")
            rows.append(f"{split}-{i}.png,{'a;b' if i % 3 else 'b'}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    recipe = load_recipe("quickstart-multilabel", {
        **settings_of(tmp_path), "data.name": "folder-labels", "training.epochs": 1, "evaluation.shape": "own",
    })  # fmt: skip
    run = train(recipe, run=tmp_path / "run")
    assert pd.read_csv(run / "metrics.csv")["images"].iloc[-1] == 12
    table = evaluate(run, "32", calibrate=True)
    assert list(table["images"]) == [5, 5]
    square = evaluate(run, "32", calibrate=False, overrides={"evaluation.shape": "square"})
    assert square["loss"][0] != table["loss"][0]
