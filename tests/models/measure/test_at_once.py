"""Shapes that are known at once are those that torch finds, and what it refuses is refused."""

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from anysize.models.measure import at_once
from anysize.models.measure.at_once import ShapesAtOnce
from anysize.models.measure.flops import count_flops
from anysize.models.spec import create_model


class Scales(nn.Module):
    """Two scales, with everything that has an answer of its own."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=affine)
        self.small = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu()
        small = nn.functional.interpolate(self.small(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return x + small


def seen(device: str, how: Any, training: bool, affine: bool) -> list[Any]:
    """Shape and type of the output and of all gradients, and last the strides of the output."""
    with torch.device(device):
        model = Scales(affine).train(training).to(memory_format=torch.channels_last)
        images = torch.zeros(2, 3, 7, 6, requires_grad=True)
        x = images.to(memory_format=torch.channels_last)
    with how:
        out = model(x)
        out.sum().backward()
    tensors = [out, images.grad, *(parameter.grad for parameter in model.parameters())]
    return [(each.shape, each.dtype) for each in tensors if each is not None] + [out.stride()]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_are_those_of_a_real_computation(training: bool, affine: bool) -> None:
    found = seen("meta", ShapesAtOnce(), training, affine)
    assert found == seen("meta", contextlib.nullcontext(), training, affine)
    assert found[:-1] == seen("cpu", contextlib.nullcontext(), training, affine)[:-1]


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", pytest.param("dla60x_elastic", marks=pytest.mark.slow)])
def test_flops_are_those_that_torch_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(name, num_classes=3)
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    counted = count_flops(model, 64)
    monkeypatch.setattr(at_once, "_KNOWN", {})
    assert count_flops(model, 64) == counted


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False)])
def test_another_number_of_channels_is_refused(norm: nn.Module) -> None:
    with ShapesAtOnce(), pytest.raises(RuntimeError):
        norm.to("meta")(torch.zeros(2, 4, 3, 3, device="meta"))


def test_values_are_computed_where_there_are_some() -> None:
    norm, x = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)
    with ShapesAtOnce():
        out = norm(x)
    assert torch.equal(out, nn.BatchNorm2d(3)(x))
