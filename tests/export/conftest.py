"""A small network as exported files, written once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from anysize.export.description import Description
from anysize.export.write import export_onnx, export_program
from anysize.preprocessing import Preprocessing

EXPECTED = Preprocessing(12, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), classes=("a", "b", "c", "d"))


@pytest.fixture(scope="package")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="package")
def description() -> Description:
    return Description("classification", EXPECTED, {"name": "mine.py:build"}, quantization={"bits": 8}, unit=0.5)


@pytest.fixture(scope="package")
def onnx_file(network: nn.Module, description: Description, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(network, tmp_path_factory.mktemp("onnx") / "model.onnx", description).path


@pytest.fixture(scope="package")
def pt2_file(network: nn.Module, description: Description, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes pixels."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    return export_program(network, path, description, uint8_input=True).path
