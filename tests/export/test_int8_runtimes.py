"""What runtimes compute of an int8 file: the same whole numbers as the model in PyTorch, up to single steps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import anysize
from anysize.export.description import Description
from anysize.export.runtimes import open_runtime
from anysize.export.write import export_onnx
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.preprocessing import Preprocessing
from anysize.quantize.after_training import QuantizeOptions

SIZE = 16


class Residual(nn.Module):
    """A sum of a depthwise convolution and of what it reads, and a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def forward(self, images: Tensor) -> Tensor:
        """The sum (N, 16, H / 2, W / 2)."""
        values = functional.relu6(self.first(images))
        return functional.relu(values + self.depthwise(values))


class Joined(nn.Module):
    """Branches that are joined, a gate as of squeeze-excite, and an average."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 1)
        self.other = nn.Conv2d(3, 8, 3, padding=1)
        self.gate = nn.Conv2d(16, 16, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The gated values (N, 16, H, W)."""
        values = torch.cat((functional.relu(self.one(images)), self.other(images)), 1)
        return values * self.gate(values.mean((2, 3), keepdim=True)).sigmoid()


NETWORKS = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    "pooled": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3)),
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 64), nn.ReLU(), nn.Unflatten(1, (16, 2, 2)), nn.Conv2d(16, 8, 1)
    ),
    "residual": Residual,
    "joined": Joined,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "residual" else pytest.mark.slow) for name in NETWORKS]
)
@pytest.mark.parametrize("bits", [8, pytest.param(7, marks=pytest.mark.slow)])
def test_runtimes_give_the_same_whole_numbers(name: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    images = torch.randn(64, 3, SIZE, SIZE)
    quantized = anysize.quantize_model(model, [images], QuantizeOptions(bits=bits))
    description = Description("segmentation", Preprocessing(SIZE))
    path = export_onnx(quantized, tmp_path / "model.onnx", description).path
    last = quantization_of(quantized).placement.quantizers[-1]
    unit = quantization_of(quantized).value(last).scale
    with torch.no_grad():
        expected = quantized(images) / unit
    torch.testing.assert_close(expected, expected.round(), rtol=0, atol=1e-3)  # they are whole numbers
    assert expected.unique().numel() > 50
    given = {runtime: open_runtime(path, runtime)(images) / unit for runtime in ("onnxruntime", "openvino")}
    for one, other in (
        (given["onnxruntime"], expected), (given["openvino"], expected), (given["onnxruntime"], given["openvino"]),
    ):  # fmt: skip
        steps = (one - other).abs()
        assert (steps < 0.5).float().mean() > 0.99
        assert (steps < 1.5).float().mean() > 0.999
