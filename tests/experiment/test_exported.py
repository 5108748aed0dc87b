"""Exported files in the place of runs: the same accuracies and predictions."""

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

import anysize as library
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run
from anysize.experiment.predict import predict
from anysize.experiment.train import train
from anysize.export.look import read_description
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.image_predictions import read_image_predictions

pytestmark = pytest.mark.slow  # its runs are trained, exported and quantized first

Command = Callable[..., CompletedProcess[str]]
MEASURED = ["size", "calibrated", "top1", "top5", "loss", "images", "flops"]


@pytest.fixture(scope="module")
def run(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny(data__limit=60, training__epochs=1)
    return train(recipe, run=tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="module")
def pixels_file(run: Path) -> Path:
    """The run as an ONNX file that takes pixels."""
    return library.export_run(run, uint8_input=True).path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 34, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_a_file_is_evaluated_as_its_run(run: Path, pixels_file: Path, anysize: Command) -> None:
    assert pixels_file == run / "export/model.onnx"
    ours = evaluate(run, [20, 28], calibrate=False)
    theirs = evaluate(pixels_file, [20, 28], threads=1)
    pd.testing.assert_frame_equal(theirs[MEASURED], ours[MEASURED], rtol=1e-4)
    written = pd.read_csv(f"{pixels_file}.evaluation.csv")
    assert list(written["top1"]) == list(theirs["top1"])
    told = pd.read_csv(f"{pixels_file}.predictions.csv")
    assert set(told["size"]) == {28}
    assert (told["truth"] == told["predicted"]).mean() == pytest.approx(written["top1"].iloc[-1])
    answers = read_image_predictions(run)
    assert told["image"].tolist() == answers["image"].tolist()
    before = (run / "evaluation.csv").read_text()
    done = anysize("evaluate", str(run), "--sizes", "28", "--runtime", "torch", "--threads", "1")
    assert f"{run}/evaluation-torch.csv is written" in done.stdout
    assert pd.read_csv(run / "evaluation-torch.csv")["top1"].tolist() == ours["top1"].tolist()[1:]
    assert (run / "evaluation.csv").read_text() == before
    assert read_image_predictions(run).equals(answers)
    assert pd.read_csv(run / "predictions-torch.csv")["predicted"].tolist() == answers["predicted"].tolist()
    described = read_description(pixels_file)
    assert described.uint8_input
    assert described.preprocessing.classes == load_run(run).preprocessing.classes


def test_a_file_predicts_as_its_run(run: Path, pixels_file: Path, picture: Path, anysize: Command) -> None:
    ours, theirs = predict(run, picture), predict(pixels_file, picture)
    assert list(ours.columns) == list(theirs.columns)
    assert ours["class"].item() == theirs["class"].item()
    assert theirs["probability"].item() == pytest.approx(ours["probability"].item(), rel=1e-4)
    done = anysize("predict", str(pixels_file), str(picture), "--out", "out", "--top", "3")
    assert done.stdout.count("%") == 4  # its probability, and those of the three first
    assert (Path("out") / "predictions.csv").exists()


def test_what_a_file_does_not_take_is_told(run: Path, pixels_file: Path, picture: Path) -> None:
    with pytest.raises(UserError, match="the statistics of an exported network are fixed: calibrate the run"):
        calibrate(pixels_file, 28)
    with pytest.raises(UserError, match="the statistics of an exported network are fixed"):
        evaluate(pixels_file, [28], calibration=picture.parent)
    with pytest.raises(UserError, match="has no checkpoint 'previous'; export the run with --checkpoint previous"):
        load_run(pixels_file, "previous")
    with pytest.raises(UserError, match="is computed on the CPU"):
        load_run(pixels_file, overrides={"training.device": "cuda"})
    with pytest.raises(UserError, match="no runtime is named"):
        load_run(run, threads=1)
    with pytest.raises(UserError, match="is an exported file already"):
        library.export_run(pixels_file)
    with pytest.raises(UserError, match=r"format is 'onx': did you mean 'onnx'\?"):
        library.export_run(run, format="onx")


def test_a_foreign_file_needs_its_preprocessing(run: Path, pixels_file: Path, picture: Path, tmp_path: Path) -> None:
    model, path = onnx.load(str(pixels_file)), tmp_path / "foreign.onnx"
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"give --data\.mean and --data\.std and --size or --sizes"):
        predict(path, picture)
    with pytest.raises(UserError, match=r"takes images of 1 channel, and data\.mean has 3 values"):
        predict(path, picture, size=28, overrides={"data.mean": "0.5,0.5,0.5", "data.std": "1,1,1"})
    recipe, expected = load_run(run).recipe, load_run(run).preprocessing
    given = {
        "data.mean": list(expected.mean),
        "data.std": list(expected.std),
        "data.resize": expected.resize,
        "data.limit": recipe.data.limit,
    }
    assert predict(path, picture, size=28, overrides=given)["class"].item() in "0123456789"
    table = evaluate(path, [28], overrides=given)
    assert table["top1"].tolist() == evaluate(pixels_file, [28])["top1"].tolist()
    assert table["flops"].isna().all()


def test_code_that_a_file_names_is_not_imported(run: Path, pixels_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\ndef build(num_classes, in_channels): pass\n")
    model, path = onnx.load(str(pixels_file)), tmp_path / "hostile.onnx"
    entry = next(entry for entry in model.metadata_props if entry.key == "anysize")
    entry.value = entry.value.replace('"cifar_resnet"', f'"{mine}:build"')
    path.write_bytes(model.SerializeToString())
    assert evaluate(path, [28])["flops"].isna().all()
    assert not (tmp_path / "harm").exists()


def test_runtimes_are_measured_in_turn(pixels_file: Path, anysize: Command) -> None:
    options = "--sizes", "28", "--batch", "2", "--repeats", "1", "--csv", "table.csv"
    done = anysize("bench", str(pixels_file), "--runtime", "onnxruntime,openvino", *options)
    assert done.returncode == 0, done.stderr
    assert "int8 instructions" in done.stdout
    table = pd.read_csv("table.csv")
    assert list(table["runtime"]) == ["onnxruntime", "openvino"]
    assert table["times"][0] == 1
    assert (table["milliseconds"] > 0).all()
    assert table["memory"].isna().all()  # none of the runtimes tells it


def test_a_model_is_measured_by_all_runtimes(anysize: Command) -> None:
    names = "torch,onnxruntime,openvino,inductor"
    done = anysize("bench", "resnet8", "--runtime", names, "--batch", "1", "--repeats", "1", "--csv", "table.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv("table.csv")
    assert ",".join(table["runtime"]) == names
    assert table["memory"].notna().tolist() == [True, False, False, False]


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_labels_and_masks(task: str, format: str, trained_scenes: Callable[[str], Path], tmp_path: Path) -> None:
    path = library.export_run(trained_scenes(task), tmp_path / f"model.{format}", format).path
    ours = load_run(trained_scenes(task))
    assert ours.recipe.task.name == task
    copy = shutil.copytree(trained_scenes(task), tmp_path / "copy")
    theirs, measured = evaluate(path, [48]), evaluate(copy, [48], calibrate=False)
    for metric in ("loss", "mean_iou" if task == "segmentation" else "map"):
        assert theirs[metric].item() == pytest.approx(measured[metric].item(), rel=1e-3)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(picture)
    assert len(predict(path, picture, tmp_path / "out")) == 1
    assert (tmp_path / "out/masks/picture.png").exists() == (task == "segmentation")
