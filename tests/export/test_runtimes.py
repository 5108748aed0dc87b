"""Runtimes: they agree, take any size, and say what is missing."""

import dataclasses
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import anysize
from anysize.export.description import Description
from anysize.export.look import look_at
from anysize.export.processor import int8_instructions
from anysize.export.runtimes import open_runtime
from anysize.export.saturation import Compute, OnnxFile, probe_weights, start_without_saturation
from anysize.export.write import export_onnx, export_program
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


def test_runtimes_agree_with_the_model(onnx_file: Path, network: nn.Module) -> None:
    for name, says in (("onnxruntime", "ONNX Runtime 1."), ("openvino", "OpenVINO 202")):
        runtime = open_runtime(onnx_file, name, threads=1)
        assert runtime.says.startswith(says)
        for shape in ((1, 3, 12, 12), (4, 3, 7, 20)):
            images = torch.randn(shape).to(memory_format=torch.channels_last)
            with torch.no_grad():
                torch.testing.assert_close(runtime(images), network(images), rtol=1e-4, atol=1e-5)
    assert "f32" in open_runtime(onnx_file, "openvino").says


@pytest.mark.slow
def test_inductor_compiles_a_program(pt2_file: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 12, 16), dtype=torch.uint8)
    compiled, plain = open_runtime(pt2_file, "inductor"), open_runtime(pt2_file)
    torch.testing.assert_close(compiled(images), plain(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_inductor_takes_grey_images_of_any_batch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    description = Description("segmentation", Preprocessing(12, (0.5,), (0.5,), classes=("a", "b", "c", "d")))
    file = export_program(model, tmp_path / "model.pt2", description).path
    compiled = open_runtime(file, "inductor")
    for batch in (8, 5, 1):  # in channels-last order, as a loader gives them: with one channel that is contiguous, too
        images = torch.randn(batch, 1, 12, 12).to(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_opened_is_told(onnx_file: Path, pt2_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown runtime 'onxruntime': did you mean 'onnxruntime'"):
        open_runtime(onnx_file, "onxruntime")
    with pytest.raises(UserError, match="cannot be computed by openvino, which takes onnx files; choose torch or"):
        open_runtime(pt2_file, "openvino")
    with pytest.raises(UserError, match=r"expected one that ends in \.onnx or \.pt2"):
        open_runtime("model.tflite")
    with pytest.raises(UserError, match="threads is -1"):
        open_runtime(onnx_file, threads=-1)
    there = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "openvino":
            raise ModuleNotFoundError(name=name)
        return there(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install 'anysize\[openvino\]'"):
        open_runtime(onnx_file, "openvino")


@pytest.fixture(scope="module")
def int8_file(description: Description, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network whose products of two pixels with their weights are beyond 16 bits."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.abs() + 1)
    quantized = anysize.quantize_model(model, [torch.ones(2, 3, 12, 12)])
    return export_onnx(quantized, tmp_path_factory.mktemp("int8") / "int8.onnx", description).path


def test_a_runtime_that_saturates_goes_another_way(int8_file: Path) -> None:
    """A runtime that adds two products up in 16 bits, as processors without instructions for int8 do."""
    started: list[tuple[OnnxFile, str]] = []

    def start(file: OnnxFile, settings: Mapping[str, str]) -> Compute:
        started.append((file, settings.get("wide", "no")))
        if "wide" not in settings:
            return lambda images: torch.zeros(1, 16, 6, 6)
        return lambda images: functional.conv2d(images, probe_weights().float())

    contents = look_at(int8_file)
    assert contents.largest_weight == 127
    ways: dict[str, dict[str, str]] = {"": {}, "another way": {"wide": "yes"}}
    assert start_without_saturation(contents, ways, start)[0] == ["another way"]
    assert started[-1] == (str(int8_file), "yes")
    assert start_without_saturation(contents, {"": {}}, start)[0] == ["in float32, as int8 saturates here"]
    in_float = onnx.load_from_string(started[-1][0])
    assert {each.data_type for each in in_float.graph.initializer if len(each.dims) == 4} == {onnx.TensorProto.FLOAT}
    narrow = dataclasses.replace(contents, largest_weight=63)
    assert start_without_saturation(narrow, ways, start)[0] == []
    assert started[-1] == (str(int8_file), "no")


_WITHOUT_VNNI = """
import sys, torch
from anysize.export.runtimes import open_runtime
images = torch.ones(2, 3, 12, 12)
runtimes = [open_runtime(sys.argv[1], name) for name in ("openvino", "onnxruntime")]
one, other = (runtime(images) for runtime in runtimes)
print(((one - other).abs().max() / other.abs().max()).item(), runtimes[0].says, sep=";")
"""


@pytest.mark.slow
def test_openvino_gives_right_values_on_processors_without_int8_instructions(int8_file: Path) -> None:
    """OpenVINO's library takes an older processor than there is on request."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    arguments = [sys.executable, "-c", _WITHOUT_VNNI, str(int8_file)]
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    difference, says = ran.stdout.strip().splitlines()[-1].split(";")
    assert float(difference) < 0.01
    if platform.machine() == "x86_64":
        assert "in float32, as int8 saturates here" in says


def test_instructions_for_int8_are_named(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n")
    assert int8_instructions(cpuinfo) == ("AMX", "AVX-512 VNNI")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n")
    assert int8_instructions(cpuinfo) == int8_instructions(tmp_path / "nowhere") == ()
