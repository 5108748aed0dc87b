"""Runs on images with masks, of several shapes: what other images, chunks and damaged files may not change."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.policy import run_scale_policy
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError

SHAPES = ((47, 81), (90, 33), (61, 61), (30, 30), (101, 64))
NETWORK = {
    "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2, "stem": 8, "aspp_width": 8,
    "aspp_rates": [1, 2, 3],
}  # fmt: skip
Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 + 7 images of five shapes, with masks of three classes and void."""
    root, random = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 7)):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for i in range(count):
            height, width = SHAPES[i % len(SHAPES)]
            image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            mask = np.zeros((height, width), np.uint8)
            mask[height // 4 : height // 2, width // 4 : width // 2] = 1 + i % 2
            mask[:3] = 255
            image[mask == 1] //= 3
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("background\none\ntwo\n")
    return root


@pytest.fixture(scope="module")
def make(folder: Path) -> Make:
    """A recipe of a small DeepLab with the global average, at 64 pixels and others."""

    def recipe(**changes: Any) -> Recipe:
        settings = {
            "data.name": "folder-masks",
            "data.root": str(folder),
            "data.workers": 0,
            "model.options": NETWORK,
            "sizes.mix": "fixed",
            "sizes.base": 64,
            "training.epochs": 1,
            "training.equal_flops": False,
            "training.batch_size": 4,
            "optimizer.warmup_epochs": 0,
            "evaluation.calibration_images": 8,
            "evaluation.calibration_strength": "full",
            "evaluation.pictures": 0,
        }
        settings.update({key.replace("__", "."): value for key, value in changes.items()})
        return load_recipe("quickstart-segmentation", settings)

    return recipe


def run_of(recipe: Recipe, run: Path) -> Path:
    return train(recipe, run=run, console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(make(), tmp_path_factory.mktemp("run"))


def test_the_batch_of_the_evaluation_changes_no_figure(run: Path) -> None:
    one, many = (
        evaluate(run, [64, 96], calibrate=False, overrides={"evaluation.batch_size": images}) for images in (1, 7)
    )
    figures = ["mean_iou", "pixel_accuracy", "iou_small", "loss"]
    pd.testing.assert_frame_equal(one[figures], many[figures], rtol=1e-5)


def test_a_calibrated_copy_sees_the_images_that_it_was_calibrated_with(run: Path) -> None:
    calibrate(run, 48)
    table = evaluate(run, [48])
    copied = evaluate(run, [48], calibrate=False, checkpoint="calibrated-48")
    assert copied["loss"][0] == pytest.approx(table["loss"][1], rel=1e-5)
    loaded = load_run(run, "calibrated-48").preprocessing
    assert (loaded.image_size, loaded.own_size) == (48, 64)


@pytest.mark.parametrize(("images", "used"), [(9, 8), (8, 8), (6, 6), (0, 16)])
def test_calibration_leaves_out_a_lone_image_that_batch_norm_cannot_use(run: Path, images: int, used: int) -> None:
    loaded = load_run(run, "last", {"evaluation.calibration_images": images})
    evaluator = make_evaluator(loaded)
    batches = evaluator.calibration_batches(loaded.model, 64)
    assert sum(len(batch.indices) for batch in batches) == used
    with evaluator.calibrated(loaded.model, 64) as calibrated:
        assert calibrated


def test_sizes_that_leave_one_image_a_batch_are_calibrated_with_two(run: Path) -> None:
    loaded = load_run(run, "last", {"evaluation.batch_size": 1})
    batches = make_evaluator(loaded).calibration_batches(loaded.model, 96)
    assert {len(batch.indices) for batch in batches} == {2}


@pytest.mark.parametrize("changes", [{"evaluation__crops": "5"}, {"evaluation__copies": 2}])
def test_what_evaluation_does_not_take_is_said_before_the_first_step(
    make: Make, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(UserError, match=r"expected 1: evaluation\.scales and evaluation.flip"):
        run_of(make(**changes), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


def test_chunks_accumulate_the_gradient_of_the_whole_batch(make: Make, tmp_path: Path) -> None:
    """Also where their images have different numbers of pixels that count."""
    model = tmp_path / "plain.py"
    model.write_text("from torch import nn\n\ndef build(num_classes, in_channels, task):\n"
                     "    return nn.Conv2d(in_channels, num_classes, 3, padding=1)\n")  # fmt: skip
    plain = {"model__name": f"{model}:build", "model__options": {}, "training__drop_last": False}
    runs = [run_of(make(**plain, training__chunks=n), tmp_path / str(n)) for n in (1, 3)]
    one, three = (safetensors.torch.load_file(run / "checkpoints/last/model.safetensors") for run in runs)
    for name, value in one.items():
        torch.testing.assert_close(value, three[name], rtol=1e-4, atol=1e-5)
    rows = [pd.read_csv(run / "metrics.csv") for run in runs]
    assert rows[0]["train_loss"][0] == pytest.approx(rows[1]["train_loss"][0], rel=1e-5)
    assert rows[0]["train_pixel_accuracy"][0] == pytest.approx(rows[1]["train_pixel_accuracy"][0], rel=1e-3)


def test_a_batch_that_damaged_files_leave_one_image_of_is_passed_over(make: Make, folder: Path, tmp_path: Path) -> None:
    (root := tmp_path / "data").mkdir()
    for name in ("validation", "classes.txt"):
        (root / name).symlink_to(folder / name)
    (root / "train/images").mkdir(parents=True)
    (root / "train/masks").symlink_to(folder / "train/masks")
    for i, path in enumerate(sorted((folder / "train/images").iterdir())):
        (root / "train/images" / path.name).write_bytes(b"none" if i % 4 else path.read_bytes())
    run = run_of(make(data__root=str(root), data__on_bad_image="skip", training__batch_size=2), tmp_path / "run")
    assert "passed over a batch at 64 px" in (run / "log.txt").read_text()
    assert math.isfinite(pd.read_csv(run / "metrics.csv")["validation_loss"][0])


def test_the_scale_policy_is_that_of_images_in_their_own_shapes(make: Make, folder: Path, tmp_path: Path) -> None:
    run = run_of(make(model__name="resnext50_elastic"), tmp_path / "run")
    files = [str(folder / "validation/images" / f"{i}.png") for i in range(7)]
    each = run_scale_policy(run, files, size=48)
    every = run_scale_policy(run, size=48)
    mean = each.groupby("block", sort=False)["low_share"].mean()
    assert every[every["label"] == ""]["low_share"].to_numpy() == pytest.approx(mean.to_numpy(), rel=1e-4)


def test_calibration_leaves_out_a_batch_of_one_wherever_it_is(run: Path) -> None:
    loaded = load_run(run, "last", {"evaluation.calibration_images": 0, "evaluation.batch_size": 1, "data.limit": 15})
    evaluator = make_evaluator(loaded)
    assert sorted(len(batch.indices) for batch in evaluator.calibration_batches(loaded.model, 64)) == [2] * 7
    convolution = torch.nn.Conv2d(3, 1, 1)
    assert sum(len(batch.indices) for batch in evaluator.calibration_batches(convolution, 64)) == 15
