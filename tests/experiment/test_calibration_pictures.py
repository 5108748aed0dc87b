"""Evaluation and calibration take what they use: validation images alone, or any pictures to calibrate with."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import anysize
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.models.spec import create_model
from anysize.registry import UserError
from anysize.training.checkpoint.files import read_checkpoint

NETWORK = {"depth": 8, "widths": [8, 8, 16]}
NO_WORKERS = {"data.workers": 0}


@pytest.fixture
def run(tmp_path: Path, image_folder: Path) -> Path:
    """A run with the weights of a file, and `image_folder` as its data."""
    torch.manual_seed(3)
    torch.save(create_model("cifar_resnet", 3, **NETWORK).state_dict(), tmp_path / "model.pth")
    options = {f"model.options.{key}": value for key, value in NETWORK.items()}
    given = {"data.name": "folder", "data.root": str(image_folder), "evaluation.calibration_strength": "full"}
    overrides = {**options, **given, **NO_WORKERS}
    return anysize.import_checkpoint(tmp_path / "model.pth", "cifar_resnet", out=tmp_path / "run", overrides=overrides)


def test_without_training_images_a_run_is_evaluated_as_trained(
    run: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = evaluate(run, [24])
    assert not caplog.records
    shutil.move(image_folder / "train", image_folder.parent / "pictures")
    alone = evaluate(run, [24])
    assert alone["calibrated"].tolist() == [False]
    assert alone.loc[0, ["images", "top1", "loss"]].tolist() == whole.loc[0, ["images", "top1", "loss"]].tolist()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "as trained alone: calibration needs training images, or any folder of pictures with --cal" in record.message
    assert f"{image_folder} has no folder train" in record.message
    caplog.clear()
    evaluate(run, [24], calibrate=False)
    assert not caplog.records


def test_any_pictures_calibrate_in_place_of_the_training_images(run: Path, image_folder: Path) -> None:
    """The same pictures without their classes give the same figures and the same copy of the checkpoint."""
    whole, copy = evaluate(run, [24]), read_checkpoint(calibrate(run, 24))
    pictures = image_folder.parent / "pictures"
    shutil.move(image_folder / "train", pictures)
    (pictures / "notes.txt").write_text("no picture")
    other = evaluate(run, [24], calibration=pictures)
    assert (
        other[["calibrated", "top1", "loss"]].to_numpy().tolist()
        == whole[["calibrated", "top1", "loss"]].to_numpy().tolist()
    )
    again = read_checkpoint(calibrate(run, 24, calibration=str(pictures), overrides={"data.root": ""}))
    assert all(torch.equal(value, again.model[name]) for name, value in copy.model.items())
    assert again.state == copy.state


def test_copies_of_validation_images_need_no_training_images(run: Path, image_folder: Path) -> None:
    settings = {"evaluation.copies": 2}
    whole = evaluate(run, [24], calibrate=False, overrides=settings)
    shutil.rmtree(image_folder / "train")
    alone = evaluate(run, [24], calibrate=False, overrides=settings)
    assert alone["loss"].tolist() == whole["loss"].tolist()


def test_calibration_without_pictures_is_refused_in_one_sentence(run: Path, image_folder: Path) -> None:
    shutil.rmtree(image_folder / "train")
    (image_folder.parent / "empty").mkdir()
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: calibrate(run, 24), r"calibration needs training images, or any folder .*has no folder train"),
        (lambda: calibrate(run, 24, calibration="nowhere"), "nowhere is not there; expected a folder of images"),
        (lambda: evaluate(run, [24], calibration=run / "recipe.toml"), "is a file; expected a folder of images"),
        (lambda: evaluate(run, [24], calibration=image_folder.parent / "empty"), "empty holds no image; expected"),
        (lambda: evaluate(run, [24], calibration=image_folder, calibrate=False), "leave one of the two out"),
    ]
    for act, said in cases:
        with pytest.raises(UserError, match=said):
            act()


def test_the_command_line_takes_pictures(run: Path, image_folder: Path, anysize: Callable[..., Any]) -> None:
    pictures = image_folder.parent / "pictures"
    shutil.move(image_folder / "train", pictures)
    shown = anysize("evaluate", str(run), "--sizes", "24", "--calibration", str(pictures))
    assert shown.returncode == 0, shown.stderr
    assert pd.read_csv(run / "evaluation.csv")["calibrated"].tolist() == [False, True]
    done = anysize("calibrate", str(run), "--size", "16", "--calibration", str(pictures))
    assert "is calibrated for 16 px" in done.stdout


def test_a_model_without_running_statistics_takes_no_pictures(tmp_path: Path, image_folder: Path) -> None:
    torch.save(create_model("cifar_resnet", 3, norm="group", norm_options={"num_groups": 4}, **NETWORK).state_dict(),
               tmp_path / "group.pth")  # fmt: skip
    options = {f"model.options.{key}": value for key, value in NETWORK.items()}
    norm = {"model.norm": "group", "model.norm_options": {"num_groups": 4}}
    overrides = {**options, **norm, "data.name": "folder", "data.root": str(image_folder), **NO_WORKERS}
    group = anysize.import_checkpoint(tmp_path / "group.pth", "cifar_resnet", out=tmp_path / "g", overrides=overrides)
    with pytest.raises(UserError, match="keeps no running statistics; nothing to calibrate"):
        evaluate(group, [24], calibration=image_folder / "val")
