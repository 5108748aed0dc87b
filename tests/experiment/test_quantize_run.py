"""`anysize quantize`: a run in int8, as a checkpoint and as a file, compared with the original."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import anysize as anysize_package
from anysize.data.source import ArraySource
from anysize.evaluation.evaluator import Evaluator
from anysize.experiment.calibrate import calibrate
from anysize.experiment.compare_int8 import compare_with_original
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run
from anysize.experiment.named import named_model
from anysize.experiment.quantize import balanced_batches, quantize_run
from anysize.experiment.train import train
from anysize.export.profile import time_by_node
from anysize.export.runtimes import open_runtime
from anysize.models.surgery.quantization.fake import is_quantized, quantization_of
from anysize.quantize.after_training import QuantizeOptions
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.html import write_report

pytestmark = pytest.mark.slow  # its runs are trained, exported and quantized first

Anysize = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def trained(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny(data__limit=600, sizes__mix="fixed", training__epochs=3)
    return train(recipe, run=tmp_path_factory.mktemp("int8") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def quantized(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its int8 checkpoint and file, to be read alone."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("int8") / "quantized"))
    quantize_run(folder, calibration_batches=4)
    return folder


def test_the_checkpoint_and_the_file_stand_for_the_model(quantized: Path) -> None:
    original, int8 = load_run(quantized, "best"), load_run(quantized, "int8")
    assert int8.checkpoint.state["quantized"]["from"] == "best"
    table = evaluate(quantized, [28], checkpoint="int8")
    before = evaluate(quantized, [28], checkpoint="best", calibrate=False)
    assert abs(table["top1"].item() - before["top1"].item()) < 0.02
    file = evaluate(quantized / "export" / "int8.onnx", [28])
    assert file["top1"].item() == pytest.approx(table["top1"].item(), abs=0.01)
    assert len(table) == len(file) == 1  # there is nothing to calibrate
    assert original.model.training is False


def test_a_checkpoint_in_int8_is_measured(quantized: Path, anysize: Anysize) -> None:
    assert is_quantized(named_model(str(quantized), checkpoint="int8")[0])
    assert not is_quantized(named_model(str(quantized))[0])
    options = "--runtime", "torch,onnxruntime", "--batch", "1", "--repeats", "1"
    done = anysize("bench", str(quantized), "--checkpoint", "int8", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("28 px") == 2


def test_a_runtime_computes_all_layers_in_integers(quantized: Path, tmp_path: Path) -> None:
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(str(quantized / "export" / "int8.onnx"), settings)
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    layers = quantization_of(load_run(quantized, "int8").model).placement.layers
    assert kinds.count("QLinearConv") + kinds.count("QGemm") == len(layers)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"} & set(kinds)
    weights = onnx.load(str(quantized / "export" / "int8.onnx")).graph.initializer
    floats = sum(np.prod(each.dims) for each in weights if each.data_type == onnx.TensorProto.FLOAT)
    whole = sum(np.prod(each.dims) for each in weights if each.data_type == onnx.TensorProto.INT8)
    assert floats < 0.1 * whole  # scales, and no weights


@torch.no_grad()
def test_runtimes_give_what_the_rounded_model_gives(quantized: Path) -> None:
    """The outputs of the first layers, step by step; of the whole network within the noise of rounding."""
    model = load_run(quantized, "int8").model
    images = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    expected = model(images)
    outputs = {name: open_runtime(quantized / "export" / "int8.onnx", name)(images) for name in _RUNTIMES}
    quantization_of(model).rounds = False
    noise = (model(images) - expected).square().mean().sqrt()
    for name, got in outputs.items():
        assert (got - expected).square().mean().sqrt() < noise, name
    assert (outputs["openvino"] - outputs["onnxruntime"]).square().mean().sqrt() < noise


_RUNTIMES = ("onnxruntime", "openvino")


def test_the_comparison_is_written_and_shown(run: Path, anysize: Anysize) -> None:
    done = anysize("quantize", str(run), "--no-onnx", "--calibration-batches", "2", "--keep", "fc")
    assert done.returncode == 0, done.stderr
    assert "same answers" in done.stdout
    assert "float: asked for" in done.stdout
    with open(run / "int8.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["lost"]) == pytest.approx(float(row["float"]) - float(row["int8"]))
    assert float(row["agree"]) > 95
    assert int(row["changed"]) == pytest.approx(int(row["images"]) * (1 - float(row["agree"]) / 100), abs=0.5)
    with open(run / "int8_layers.csv") as file:
        layers = {row["layer"]: row for row in csv.DictReader(file)}
    assert layers["fc"]["computed"] == "float"
    assert float(layers["conv1"]["signal_to_noise"]) > 20


@pytest.mark.report
def test_the_report_shows_int8(run: Path) -> None:
    compare_with_original(quantize_run(run, calibration_batches=1, onnx=False))
    page = write_report(run).read_text()
    assert "int8 and its original" in page
    assert "signal to noise" in page


def test_layers_go_back_to_float_until_the_accuracy_holds(run: Path) -> None:
    said: list[str] = []
    made = quantize_run(
        run, calibration_batches=1, options=QuantizeOptions(bits=7), max_accuracy_drop=100, onnx=False, say=said.append
    )
    assert made.kept == {}
    assert any("0 layers in float" in line for line in said)
    with pytest.raises(UserError, match=r"falls by .* points with one layer in int8 alone"):
        quantize_run(run, calibration_batches=1, max_accuracy_drop=-100, onnx=False)


def test_pictures_without_labels_calibrate_at_several_sizes(run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            pictures / f"{i}.png"
        )
    made = quantize_run(run, [24, 32], calibration=pictures, calibration_batch_size=2, onnx=False)
    assert made.checkpoint.name == "int8-24-32"
    assert load_run(run, "int8-24-32").checkpoint.state["quantized"]["sizes"] == [24, 32]


def test_calibration_images_are_balanced_over_classes() -> None:
    targets = np.array([0] * 90 + [1] * 8 + [2] * 2)
    source = ArraySource(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), targets, ("a", "b", "c"), "test")
    batches = balanced_batches(source, [8, 16], batches=3, batch_size=4, seed=0)
    assert [batch.size for batch in batches] == [8, 16, 8]
    chosen = np.concatenate([batch.indices for batch in batches])
    assert np.bincount(targets[chosen]).tolist() == [5, 5, 2]
    again = balanced_batches(source, [8, 16], batches=3, batch_size=4, seed=0)
    assert all(np.array_equal(one.indices, other.indices) for one, other in zip(batches, again, strict=True))


def test_bad_input_is_one_sentence(quantized: Path, tmp_path: Path, anysize: Anysize) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, says in (
        (["--calibration", str(empty)], "holds no image"),
        (["--checkpoint", "int8"], "is quantized already"),
        (["--sizes", "0"], "0"),
        (["--observer", "mean"], "unknown observer 'mean'"),
        (["--calibration-batches", "0"], "calibration batches is 0; expected at least 1"),
        (["--keep", "con1"], "did you mean 'conv1'"),
        (["--name", "best"], "is no int8 checkpoint"),
        (["--name", "../there"], "is no name for a checkpoint"),
    ):
        done = anysize("quantize", str(quantized), "--no-onnx", *arguments)
        assert done.returncode == 2, arguments
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


@torch.no_grad()
def test_a_model_is_loaded_as_a_runtime_computes_it(quantized: Path) -> None:
    images = torch.rand(2, 1, 28, 28)
    plain = anysize_package.load_model(quantized)
    file = anysize_package.load_model(quantized / "export" / "int8.onnx", runtime="openvino", threads=1)
    assert file.preprocessing.image_size == plain.preprocessing.image_size == 28
    assert (file(images) - plain(images)).abs().max() < 0.2 * plain(images).abs().max()
    with pytest.raises(UserError, match="cannot be computed by inductor, which takes pt2 files"):
        anysize_package.load_model(quantized / "export" / "int8.onnx", runtime="inductor")


def test_the_time_of_a_file_is_told_by_layer(quantized: Path) -> None:
    layers = quantization_of(load_run(quantized, "int8").model).placement.layers
    times = time_by_node(quantized / "export" / "int8.onnx", torch.zeros(1, 1, 28, 28), threads=1)
    assert set(layers) <= set(times)
    assert all(times[key] > 0 for key in layers)


def test_a_calibrated_copy_has_a_name_of_its_own_and_is_held_to_its_size(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(run, 20)
    sizes: list[int] = []
    before = Evaluator.evaluate
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda self, model, size, *rest: sizes.append(size) or before(self, model, size, *rest)
    )
    made = quantize_run(run, checkpoint="calibrated-20", calibration_batches=1, max_accuracy_drop=100, onnx=False)
    assert made.checkpoint.name == "int8-20"
    assert set(sizes) == {20}
    with pytest.raises(UserError, match="is no int8 checkpoint"):
        quantize_run(run, name="calibrated-20", onnx=False)
