"""The Elastic networks are the published ones: names, shapes and order of their parameters, and what they compute."""

import functools
import json
import lzma
from pathlib import Path

import pytest
import torch
from tiers import tiers
from torch import nn

from anysize.models.blocks.scales import ScaleSum
from anysize.models.measure.flops import count_flops
from anysize.models.spec import create_model

GOLDEN = ("resnext50_elastic", "dla60x_elastic", "densenet201_elastic", "resnext50_elastic_seg")
"""One a family."""

KEYS = json.loads(
    lzma.decompress((Path(__file__).parents[2] / "conformance" / "elastic" / "keys.json.xz").read_bytes())
)


@functools.cache
def create(name: str, num_classes: int | None = None) -> nn.Module:
    """A published network without its weights; `_seg` with 21 classes for segmentation."""
    with torch.device("meta"):
        if name.endswith("_seg"):
            return create_model(name.removesuffix("_seg"), 21, task="segmentation")
        return create_model(name, num_classes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", tiers(sorted(KEYS), GOLDEN))
def test_names_shapes_and_order_are_those_of_the_published_checkpoints(name: str) -> None:
    """The order, too: an optimizer's state knows parameters by their place alone."""
    model = create(name)
    entries = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert entries == list(KEYS[name]["entries"].items())
    assert parameters(model) == KEYS[name]["parameters"]


@pytest.mark.parametrize(
    ("name", "count", "with_80_classes", "gmacs"),
    tiers(
        [
            ("resnext50", 25_028_904, 23_143_824, "4.2305"),
            ("resnext50_elastic", 25_246_504, 23_361_424, "4.1769"),
            ("resnext101", 44_177_704, 42_292_624, "7.9700"),
            ("resnext101_elastic", 44_265_256, 42_380_176, "7.8889"),
            ("se_resnext50", 27_559_896, 25_674_816, "4.2330"),
            ("se_resnext50_elastic", 27_803_976, 25_918_896, "4.1794"),
            ("dla60x", 17_649_816, 16_706_816, "3.5936"),
            ("dla60x_elastic", 17_649_816, 16_706_816, "3.1101"),
            ("dla102x", 26_772_120, 25_829_120, "5.9764"),
            ("dla102x_elastic", 24_917_144, 23_974_144, "5.9465"),
            ("densenet201", 20_013_928, 18_246_608, "4.2914"),
            ("densenet201_elastic", 19_482_824, 17_818_544, "4.2661"),
        ],
        fast=(),
        slow=GOLDEN,
    ),
)
def test_parameters_and_multiply_adds_at_224_pixels(name: str, count: int, with_80_classes: int, gmacs: str) -> None:
    model = create(name)
    assert parameters(model) == count
    assert parameters(create(name, num_classes=80)) == with_80_classes
    assert f"{count_flops(model, 224, backward=False).forward / 2e9:.4f}" == gmacs


@pytest.mark.parametrize(
    ("name", "count", "gmacs"),
    tiers(
        [
            ("resnext50_seg", 38_520_405, "50.42"),
            ("resnext50_elastic_seg", 38_738_005, "50.10"),
            ("resnext101_seg", 57_669_205, "71.20"),
            ("resnext101_elastic_seg", 57_756_757, "70.57"),
            ("dla60x_seg", 26_619_037, "55.69"),
            ("dla60x_elastic_seg", 26_619_037, "53.08"),
        ],
        fast=(),
        slow=GOLDEN,
    ),
)
def test_parameters_and_multiply_adds_of_segmentation_at_513_pixels(name: str, count: int, gmacs: str) -> None:
    model = create(name)
    assert parameters(model) == count
    assert f"{count_flops(model, 513, backward=False).forward / 2e9:.2f}" == gmacs


@pytest.mark.parametrize(
    ("name", "blocks"),
    tiers([
        ("resnext50", 0), ("resnext50_elastic", 17), ("resnext101_elastic", 44), ("se_resnext50_elastic", 17),
        ("resnext50_elastic_seg", 17), ("dla60x", 0), ("dla60x_elastic", 11), ("dla102x_elastic", 21),
        ("densenet201_elastic", 100),
    ], fast=GOLDEN),
)  # fmt: skip
def test_number_of_elastic_blocks(name: str, blocks: int) -> None:
    assert sum(isinstance(module, ScaleSum) for module in create(name).modules()) == blocks


def test_blocks_that_change_the_resolution_and_those_of_the_last_stage_are_not_elastic() -> None:
    resnext = create("resnext50_elastic")
    assert resnext.get_submodule("layer1.0").elastic
    assert not any(resnext.get_submodule(f"layer{stage}.0").elastic for stage in (2, 3, 4))
    assert not any(block.elastic for block in resnext.get_submodule("layer4"))
    assert all(block.elastic for block in resnext.get_submodule("layer3")[1:])


def test_a_network_does_not_change_those_that_are_built_later() -> None:
    """The published code gives every DLA after `dla102x_elastic` that one's cardinality of 50."""
    with torch.device("meta"):
        wide = create_model("dla102x_elastic").get_submodule("level3.tree1.tree1.tree1.conv2")
        later = create_model("dla60x_elastic").get_submodule("level3.tree1.tree1.conv2")
    assert (wide.groups, wide.out_channels) == (25, 200)
    assert (later.groups, later.out_channels) == (16, 128)
