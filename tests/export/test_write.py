"""Exported files: what they hold, how they are checked, and what is said of networks that cannot be exported."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anysize.export.check import close
from anysize.export.description import Description
from anysize.export.look import look_at, read_description
from anysize.export.runtimes import open_runtime
from anysize.export.write import export_onnx, export_program
from anysize.registry import UserError


class Named(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class ByValue(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images * 2 if images.mean() > 0 else images).mean((2, 3))


class Unknown(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.svd(images.mean((2, 3))[:, :2])[0]


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 12 * 12, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def test_a_file_gives_what_the_model_gives_at_any_size_and_says_what_it_is(
    onnx_file: Path, pt2_file: Path, network: nn.Module, description: Description
) -> None:
    assert read_description(onnx_file) == description
    assert read_description(pt2_file) == dataclasses.replace(description, uint8_input=True)
    pixels = torch.randint(0, 256, (5, 3, 9, 17), dtype=torch.uint8)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    values = (pixels / 255 - mean) / std
    with torch.no_grad():
        expected = network(values)
    torch.testing.assert_close(open_runtime(onnx_file)(values), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(open_runtime(pt2_file)(pixels), expected, rtol=1e-4, atol=1e-5)
    for path, dtype in ((onnx_file, "float32"), (pt2_file, "uint8")):
        found = look_at(path)
        assert (found.dtype, found.channels, found.sides, found.classes) == (dtype, 3, (None, None), 4)
    content = onnx_file.read_bytes()
    assert str(Path(__file__).parent).encode() not in content  # no paths of this machine
    assert [path.name for path in onnx_file.parent.iterdir()] == ["model.onnx"]


def test_the_check_is_three_sizes_by_two_batches_and_can_be_replaced(
    network: nn.Module, description: Description, tmp_path: Path
) -> None:
    seen = []

    def compare(outputs: Tensor, expected: Tensor) -> str:
        seen.append(outputs.shape)
        return "as it should be"

    path = tmp_path / "model.pt2"
    exported = export_program(network, path, description, check=compare)
    assert [(each.height, each.width, each.images) for each in exported.checks] == [
        (12, 12, 1), (12, 12, 3), (8, 8, 1), (8, 8, 3), (16, 12, 1), (16, 12, 3),
    ]  # fmt: skip
    assert {each.says for each in exported.checks} == {"as it should be"}
    assert len(seen) == 6
    assert exported.difference < 1e-6

    def refuse(outputs: Tensor, expected: Tensor) -> str:
        raise UserError("3 units apart")

    before = path.read_bytes()
    with pytest.raises(UserError, match="at 12 x 12 px, batch 1: 3 units apart; no file is left"):
        export_program(network, path, description, check=refuse)
    with pytest.raises(UserError, match="3 units apart"):
        export_program(network, tmp_path / "new.pt2", description, check=refuse)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt2"]


def test_what_differs_is_told_with_the_figures() -> None:
    with pytest.raises(UserError, match=r"differs by 0\.5 at most, of outputs up to 2"):
        close(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    with pytest.raises(UserError, match="nan"):
        close(torch.tensor([float("nan")]), torch.tensor([1.0]))


def test_a_network_of_one_size_gets_a_file_for_that_size(description: Description, tmp_path: Path) -> None:
    exported = export_program(OneSize(), tmp_path / "one.pt2", description)
    assert not exported.any_size
    assert [(each.height, each.width) for each in exported.checks] == [(12, 12)] * 2
    assert look_at(tmp_path / "one.pt2").sides == (12, 12)


@pytest.mark.slow
def test_the_layer_that_cannot_be_exported_is_named(description: Description, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layer 'body\.1' \(ByValue\) decides by the values of an image"):
        export_program(Named(ByValue()), tmp_path / "a.pt2", description)
    with pytest.raises(UserError, match=r"layer 'body\.1' calls aten\.\w*svd\w*\.\w+, which ONNX has not"):
        export_onnx(Named(Unknown()), tmp_path / "a.onnx", description)
    with pytest.raises(UserError, match=r"expected one that ends in \.pt2"):
        export_program(Named(nn.Identity()), tmp_path / "a.pt", description)
    with pytest.raises(UserError, match="there is no folder"):
        export_program(Named(nn.Identity()), tmp_path / "nowhere/a.pt2", description)
    assert not list(tmp_path.iterdir())
