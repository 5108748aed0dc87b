"""The parts of a model, and the committed table of all models."""

import dataclasses

import pytest
import torch
import torchvision
from tiers import FEW, ONE_A_FAMILY, tiers
from torch import Tensor, nn

from anysize import UserError, create_model
from anysize.models.measure.flops import count_flops
from anysize.models.measure.structure import Part, model_figures, structure
from anysize.models.measure.table import find_models, read_table
from anysize.models.names import list_models


def test_stages_have_the_shapes_parameters_and_flops_of_the_network():
    with torch.device("meta"):
        parts = {part.name: part for part in structure(create_model("resnet50"), 224)}
    assert [name for name in parts if name.startswith("layer")] == ["layer1", "layer2", "layer3", "layer4"]
    assert parts["layer3"].output == (1024, 14, 14)
    assert parts["fc"] == Part("fc", "Linear", (1000,), 2_049_000, 2 * 2048 * 1000)
    assert parts["conv1"].flops == 2 * 112 * 112 * 64 * 3 * 49
    # 4.089 GMACs, as torchvision states for these weights.
    assert sum(part.flops for part in parts.values()) / 2e9 == pytest.approx(4.089, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "opened"),
    tiers(
        [
            ("densenet121", "features.denseblock3"),
            ("vgg11", "features.0"),
            ("vit_b_16", "encoder.layers.encoder_layer_7"),
            ("timm:resnet18", "layer2"),
        ],
        fast=["vgg11", "timm:resnet18"],
        slow=["densenet121", "vit_b_16"],
    ),
)
def test_what_does_most_of_the_work_is_opened_and_nothing_is_lost(name, opened):
    with torch.device("meta"):
        model = create_model(name)
    parts = structure(model, 224)
    assert opened in [part.name for part in parts]
    assert len(parts) <= 41
    assert sum(part.parameters for part in parts) == sum(value.numel() for value in model.parameters())
    assert sum(part.flops for part in parts) == count_flops(model, 224, backward=False).forward


def test_what_stands_outside_of_the_parts_is_said():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unused = nn.Conv2d(3, 4, 1), nn.Linear(2, 2)
            self.weight = nn.Parameter(torch.ones(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) @ self.weight.T

    model = Own().train()
    conv, unused, rest = structure(model, 8)
    assert conv == Part("conv", "Conv2d", (4, 8, 8), 16, 2 * 64 * 12)
    assert unused == Part("unused", "Linear", None, 6, 0)
    assert (rest.kind, rest.output, rest.parameters, rest.flops) == ("", None, 20, 40)
    assert model.training
    assert not model.conv._forward_hooks


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    model[2].weight = model[0].weight
    assert [part.parameters for part in structure(model, 4)] == [12, 0, 3]


def test_parts_come_in_the_order_of_their_use():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Conv2d(4, 5, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    assert [part.name for part in structure(Backwards(), 4)] == ["first", "last"]


def test_a_size_below_the_smallest_is_refused():
    with pytest.raises(UserError, match=r"cannot take images of 32 pixels: .*; the smallest it takes is 63"):
        structure(create_model("alexnet"), 32)


def test_a_model_that_reads_values_is_measured_for_real():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum().item() <= 0 else x

    (part,) = structure(Reads(), 2)
    assert part.flops == count_flops(Reads(), 2, backward=False).forward == 2 * 4 * 12
    assert count_flops(Reads(), 2).backward == 2 * 4 * 12


def test_the_table_lists_every_model():
    assert [figures.name for figures in read_table()] == list_models(), "run python tools/make_models_table.py"


@pytest.mark.parametrize("name", tiers(list_models(), FEW, ONE_A_FAMILY))
def test_the_table_says_what_is_measured(name):
    figures = {figures.name: figures for figures in read_table()}
    assert figures[name] == model_figures(name), "run python tools/make_models_table.py"


def test_parameters_are_those_that_torchvision_states():
    table = {figures.name: figures for figures in read_table()}
    for name in ("resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"):
        stated = torchvision.models.get_model_weights(name).DEFAULT.meta
        assert table[name].parameters == stated["num_params"]
        assert table[name].flops / 2e9 == pytest.approx(stated["_ops"], rel=0.01)


def test_patterns_are_parts_of_names_or_globs():
    names = [figures.name for figures in find_models("ELASTIC")]
    assert "resnext50_elastic" in names
    assert all("elastic" in name for name in names)
    assert [figures.name for figures in find_models("resnet[23]0")] == ["resnet20"]
    assert len(find_models()) == len(read_table())
    assert find_models("nothing") == []


def test_figures_are_numbers():
    for figures in read_table():
        assert all(isinstance(value, int) for value in dataclasses.astuple(figures)[1:5])
        assert figures.smallest <= figures.image_size
