"""Runtimes: they agree, take any size, and say what is missing."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anysize.export import runtimes
from anysize.export.look import look_at
from anysize.export.processor import int8_instructions
from anysize.export.runtimes import open_runtime
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


def test_int8_does_not_saturate_where_the_processor_has_no_instructions_for_it(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n")
    assert int8_instructions(cpuinfo) == ("AMX", "AVX-512 VNNI")
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n")
    assert int8_instructions(cpuinfo) == int8_instructions(tmp_path / "nowhere") == ()
    quantized = dataclasses.replace(look_at(onnx_file), quantized=True)
    monkeypatch.setattr(runtimes.platform, "machine", lambda: "x86_64")
    for found, switched in (((), True), (("AVX VNNI",), False)):
        monkeypatch.setattr(runtimes, "int8_instructions", lambda found=found: found)
        assert ("x64quantprecision" in open_runtime(onnx_file, contents=quantized).says) == switched
    assert "x64quantprecision" not in open_runtime(onnx_file).says
