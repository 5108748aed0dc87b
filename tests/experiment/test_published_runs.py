"""Published weights by a recipe's name: evaluated, and loaded, from the file that a download would have left."""

import dataclasses
import urllib.error
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import anysize
from anysize.cli import build_app
from anysize.experiment.loaded import load_run
from anysize.experiment.published import published_address, run_folder
from anysize.experiment.quantize import quantize_run
from anysize.export.description import Description
from anysize.export.write import export_onnx
from anysize.models.surgery.quantization.fake import is_quantized, quantization_of
from anysize.models.weights.download import download
from anysize.quantize.after_training import QuantizeOptions
from anysize.registry import UserError

RECIPE = "torchvision/quantized-shufflenet_v2_x1_0"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty folder of downloads, and no network."""

    def unreachable(*arguments: Any, **named: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return tmp_path


def put_int8(hub: Path, file: str, name: str = "shufflenet_v2_x1_0") -> None:
    """Put int8 weights of three classes where a download would have put them."""
    quantization: Any = torch.ao.quantization
    before = torch.backends.quantized.engine
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        torch.backends.quantized.engine = "qnnpack"
        model: Any = getattr(torchvision.models.quantization, name)(num_classes=3).eval()
        model.qconfig = quantization.get_default_qconfig("qnnpack")
        model.fuse_model()
        quantization.prepare(model, inplace=True)
        model(torch.randn(2, 3, 64, 64))
        quantization.convert(model, inplace=True)
    torch.backends.quantized.engine = before
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), hub / file)


@pytest.mark.slow
def test_a_recipe_s_name_stands_for_the_weights_that_it_names(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = published_address(RECIPE)
    with pytest.raises(
        UserError, match=f"put the file {address.file} into {offline}/hub/checkpoints, or give its path"
    ):
        anysize.evaluate(RECIPE, overrides={"data.root": str(offline)})
    put_int8(offline / "hub" / "checkpoints", address.file)
    for number in range(3):
        folder = offline / "data" / "val" / f"class{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (80 * number, 100, 50)).save(folder / "0.png")

    data = {"data.root": str(offline / "data"), "data.workers": "0"}
    table = anysize.evaluate(RECIPE, overrides=data)
    assert list(table["size"]) == [224]
    assert not table["calibrated"].any()  # its norms are folded
    folder = run_folder(RECIPE)
    assert folder == Path("runs/shufflenet_v2_x1_0-shufflenetv2_x1_fbgemm-1e62bb32")
    assert (folder / "evaluation.csv").is_file()
    loaded = load_run(folder)
    assert is_quantized(loaded.model)
    assert loaded.preprocessing.resize_side(224) == 256

    saved = download(address.url).rename(offline / address.file)
    root = ["--data.root", data["data.root"], "--data.workers", "0"]
    build_app()(["evaluate", RECIPE, "--sizes", "192,224", *root], result_action="return_value")  # the run is there
    shown = capsys.readouterr().out
    assert "192 px" in shown
    assert f"{folder}/evaluation.csv and {folder}/report.html are written" in shown
    build_app()(["import", str(saved), "--out", "again"], result_action="return_value")
    assert capsys.readouterr().out.splitlines()[-1] == "next: anysize evaluate again --data.root DIR"

    state = anysize.load_model(folder).state_dict()
    assert state.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in loaded.model.state_dict().items())
    with pytest.raises(UserError, match="which are not trained further"):
        anysize.load_weights(anysize.create_model("shufflenet_v2_x1_0"), folder)


@pytest.mark.slow
def test_published_float_weights_are_quantized_by_a_recipe_s_name(offline: Path) -> None:
    address = published_address("torchvision/shufflenet_v2_x1_0")
    hub = offline / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save(anysize.create_model("shufflenet_v2_x1_0", 3).state_dict(), hub / address.file)
    Image.effect_noise((60, 40), sigma=50).convert("RGB").save("noise.png")
    made = quantize_run(
        "torchvision/shufflenet_v2_x1_0", 64, calibration=offline, options=QuantizeOptions(rounding="nearest")
    )
    assert made.checkpoint.parts[:2] == ("runs", "shufflenet_v2_x1_0-shufflenetv2_x1-5666bf0f80")
    assert is_quantized(anysize.load_model(made.checkpoint))


@pytest.mark.slow
def test_int8_weights_become_an_onnx_file_integer_for_integer(offline: Path) -> None:
    onnx = pytest.importorskip("onnx")
    put_int8(offline, "int8.pth", "resnet18")
    model = anysize.load_model("int8.pth", name="resnet18")
    described = Description("classification", dataclasses.replace(model.preprocessing, image_size=64))
    export_onnx(model, "int8.onnx", described, check=lambda outputs, expected: "")
    held = [onnx.numpy_helper.to_array(each) for each in onnx.load("int8.onnx").graph.initializer]
    weights = [each for each in held if each.dtype == np.int8 and each.ndim > 1]
    own = [each.integers.numpy() for each in quantization_of(model).weights.values()]
    assert len(weights) == len(own) == 21
    assert all(any(np.array_equal(integers, other) for other in weights) for integers in own)


@pytest.mark.slow
def test_load_model_takes_all_that_is_a_model(offline: Path) -> None:
    address = published_address(RECIPE)
    put_int8(offline / "hub" / "checkpoints", address.file)
    model, images = anysize.load_model(RECIPE), torch.randn(2, 3, 64, 64)
    assert not model.training
    assert isinstance(model.preprocessing, anysize.Preprocessing)
    assert model.preprocessing.image_size == 224
    file = download(address.url)
    by_file = [anysize.load_model(file), anysize.load_model(file.as_uri(), name="shufflenet_v2_x1_0")]
    assert all(torch.equal(other(images), model(images)) for other in by_file)
    for source in ("resnet18", "torchvision/resnet18"):
        with pytest.raises(UserError, match=r"put the file resnet18-f37072fd\.pth into"):
            anysize.load_model(source)
    with pytest.raises(
        UserError, match=r"no folder, file, recipe or model 'torchvision/quantised-resnet18'.*did you mean"
    ):
        anysize.load_model("torchvision/quantised-resnet18")
    with pytest.raises(UserError, match="the recipe quickstart names no published weights; train it"):
        anysize.load_model("quickstart")
    torch.save(anysize.create_model("resnet8").state_dict(), "own.pth")
    with pytest.raises(UserError, match="does not tell its model; name it with --as"):
        anysize.load_model("own.pth")
    assert anysize.load_model("own.pth", name="resnet8").preprocessing.image_size == 32  # type: ignore[union-attr]
