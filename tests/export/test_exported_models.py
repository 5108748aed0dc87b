"""Networks that are exported, in float and in int8: a few, then every registered one."""

import collections
import dataclasses
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from tiers import FEW, tiers

import anysize
from anysize.export.description import Description
from anysize.export.write import export_onnx, folded
from anysize.models.expected import expected_preprocessing
from anysize.models.measure.table import read_table
from anysize.models.names import list_models
from anysize.models.surgery.quantization.fake import quantization_of

ONE_SIZE = ("maxvit_t", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32")
"""Take the size alone that they were built for, as do their files."""
REFUSED: dict[str, str] = {}
"""By name, why no file can be written; docs/guides/export.md lists them, too."""


@pytest.mark.parametrize("name", tiers(list_models(), fast=(), slow=FEW))
def test_a_model_is_exported_and_checked(name: str, tmp_path: Path) -> None:
    expected = _expected(name)
    model = anysize.create_model(name, in_channels=expected.channels)
    if name in REFUSED:
        with pytest.raises(anysize.UserError, match=REFUSED[name]):
            export_onnx(folded(model), tmp_path / "model.onnx", Description("classification", expected))
        return
    exported = export_onnx(folded(model), tmp_path / "model.onnx", Description("classification", expected))
    assert exported.any_size == (name not in ONE_SIZE)


NOT_QUANTIZED: dict[str, str] = {}
"""By name, why a model cannot be quantized and exported; docs/guides/quantization.md lists them, too."""


SOME = ("cifar_resnet_fixup_se", "mnist", "mobilenet_v3_small", "resnet8", "resnext50_elastic", "squeezenet1_1")
"""Of those whose export takes less than a minute or so, the ones that differ most."""


@pytest.mark.parametrize("name", tiers(list_models(), fast=(), slow=SOME))
def test_a_model_is_quantized_exported_and_checked(name: str, tmp_path: Path) -> None:
    expected = _expected(name)
    size, channels = expected.image_size, expected.channels
    torch.manual_seed(0)
    model = anysize.create_model(name, in_channels=channels)
    quantized = anysize.quantize_model(model, [torch.randn(4, channels, size, size)])
    exported = export_onnx(quantized, tmp_path / "model.onnx", Description("classification", expected))
    assert not quantization_of(quantized).placement.kept
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported.path), settings)
    written, run = (
        collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)
        for path in (exported.path, tmp_path / "optimized.onnx")
    )
    assert written["Conv"] > 0
    assert run["QLinearConv"] == written["Conv"], run  # what runs on to nothing, as in DLA, is not written


def _expected(name: str) -> anysize.Preprocessing:
    """The input of a model, at a size that takes little time."""
    expected = expected_preprocessing(name)
    smallest = {row.name: row.smallest for row in read_table()}[name]
    size = expected.image_size if name in ONE_SIZE else min(expected.image_size, max(64, 3 * smallest // 2))
    return dataclasses.replace(expected, image_size=size)
