"""The Elastic networks as models: any size and width, segmentation, start and momenta, freezing, tracing, norms."""

import math
from typing import Any

import pytest
import torch
from tiers import tiers
from torch import Tensor, fx, nn

from anysize.models.blocks.scales import ScaleSum
from anysize.models.families.dla import SEGMENTATION_LEVEL_MOMENTUM
from anysize.models.families.elastic_resnext import SEGMENTATION_BLOCK_MOMENTUM
from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import smallest_size
from anysize.models.spec import ModelSpec, create_model
from anysize.models.surgery.fold import fold_batch_norm
from anysize.norms.online.norm import OnlineNorm2d
from anysize.registry import UserError
from conformance.fill import fill_model

RESNEXT = {"layers": (2, 2, 2, 1), "widths": (8, 8, 8, 16), "cardinality": 8, "stem": 8}
DLA = {"levels": (1, 1, 1, 2, 3, 1), "channels": (8, 8, 32, 32, 64, 64), "cardinality": 4}
DENSENET = {"block_config": (2, 2, 1, 2), "growth_rate": 4, "num_init_features": 8}
SMALL: dict[str, dict[str, Any]] = {
    "resnext50": RESNEXT,
    "se_resnext50_elastic": RESNEXT,
    "dla60x": DLA,
    "dla60x_elastic": DLA,
    "dla102x_elastic": DLA,
    "densenet201": DENSENET,
    "densenet201_elastic": DENSENET,
}
SEGMENTATION = ["resnext50", "se_resnext50_elastic", "dla60x", "dla102x_elastic"]
CASES = [*((name, "classification") for name in SMALL), *((name, "segmentation") for name in SEGMENTATION)]
FAST = [
    ("se_resnext50_elastic", "classification"), ("se_resnext50_elastic", "segmentation"),
    ("dla102x_elastic", "classification"), ("dla60x", "segmentation"), ("densenet201_elastic", "classification"),
]  # fmt: skip
every = pytest.mark.parametrize(("name", "task"), tiers(CASES, FAST, CASES))


def small(name: str, task: str = "classification", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 5, options.pop("in_channels", 3), task=task, **{**SMALL[name], **options})


def run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


@every
def test_any_size(name: str, task: str) -> None:
    model = fill_model(small(name, task, in_channels=2))
    for height, width in [(64, 64), (65, 65), (33, 75), (50, 47)]:
        out = run(model, torch.randn(2, 2, height, width))
        assert out.shape == ((2, 5) if task == "classification" else (2, 5, height, width))
        assert out.isfinite().all()


@pytest.mark.parametrize("name", ["dla60x_elastic", "densenet201_elastic"])
@pytest.mark.parametrize("size", [(225, 231), (320, 288)])
def test_sizes_that_the_published_code_cannot_take_or_reads_in_part(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = small(name)
        last: list[torch.Size] = []
        model.get_submodule("avgpool").register_forward_pre_hook(lambda _, inputs: last.append(inputs[0].shape[2:]))
        assert model(torch.empty(2, 3, *size)).shape == (2, 5)
    rounded = math.ceil if name.startswith("dla") else math.floor  # a DenseNet's pooling rounds down
    assert last == [tuple(rounded(side / 32) for side in size)]


def test_smallest_images() -> None:
    assert smallest_size(small("se_resnext50_elastic")) == smallest_size(small("dla60x_elastic")) == 1
    assert smallest_size(small("densenet201_elastic")) == 29


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_sees_the_whole_of_an_image_with_even_sides(name: str) -> None:
    """The published DLA drops the last row and column of even sides, and its output is a pixel smaller."""
    model = fill_model(small(name, "segmentation")).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    changed = images.clone()
    changed[..., -1, -1] += 10
    assert not torch.equal(run(model, images)[..., -1, -1], run(model, changed)[..., -1, -1])


def test_dla_segmentation_returns_log_probabilities() -> None:
    out = run(small("dla60x_elastic", "segmentation"), torch.randn(1, 3, 33, 48))
    torch.testing.assert_close(out.exp().sum(1), torch.ones(1, 33, 48))


def test_segmentation_keeps_a_sixteenth_of_the_resolution_with_dilated_convolutions() -> None:
    model = small("resnext50", "segmentation", layers=(1, 1, 1, 3))
    stage = model.get_submodule("layer4")
    assert [(block.conv2.stride, block.conv2.dilation, block.conv2_d.dilation) for block in stage] == [
        ((1, 1), (rate, rate), (rate, rate)) for rate in (2, 4, 8)
    ]
    shapes: list[torch.Size] = []
    stage.register_forward_hook(lambda *given: shapes.append(given[2].shape[2:]))
    run(model, torch.randn(1, 3, 65, 96))
    assert shapes == [(5, 6)]


@every
def test_each_trained_parameter_gets_a_gradient(name: str, task: str) -> None:
    """So that distributed training waits for none."""
    model = small(name, task)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_what_is_frozen() -> None:
    def frozen(model: nn.Module) -> set[str]:
        return {key for key, parameter in model.named_parameters() if not parameter.requires_grad}

    dead = {
        f"{tree}.project.{key}"
        for tree in ("level3", "level4", "level4.tree1")
        for key in ("0.weight", "1.weight", "1.bias")
    }
    with torch.device("meta"):
        assert frozen(create_model("dla60x_elastic")) == dead
        base = {f"base.{key}" for key in dead} | {"base.fc.weight", "base.fc.bias"}
        assert frozen(create_model("dla60x_elastic", task="segmentation")) == base | {"up.weight"}
        for name in ("resnext50_elastic", "se_resnext50_elastic", "densenet201_elastic"):
            assert not frozen(create_model(name))


@pytest.mark.parametrize("name", ["dla60x", "dla102x_elastic"])
def test_projections_that_feed_nothing_can_be_left_out(name: str) -> None:
    full, lean = fill_model(small(name)), fill_model(small(name, dead_projections=False))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(run(full, images), run(lean, images))
    assert count_flops(full, 64, backward=False).forward > count_flops(lean, 64, backward=False).forward
    key = "level4.tree1.project.1.running_mean"
    before = full.state_dict()[key].clone()
    for model in (full, lean):
        model.train()(images)
    assert not torch.equal(full.state_dict()[key], before)
    assert torch.equal(lean.state_dict()[key], before)


def test_momenta_of_segmentation_are_what_two_updates_amount_to() -> None:
    for published, ours in ((0.05, SEGMENTATION_BLOCK_MOMENTUM), (0.1, SEGMENTATION_LEVEL_MOMENTUM)):
        twice, once = nn.BatchNorm2d(3, momentum=published), nn.BatchNorm2d(3, momentum=ours)
        x = torch.randn(4, 3, 5, 5)
        twice(x), twice(x), once(x)
        torch.testing.assert_close(twice.running_mean, once.running_mean)
        torch.testing.assert_close(twice.running_var, once.running_var)


def momenta(model: nn.Module) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5
            found.setdefault(name.partition(".")[0], set()).add(round(module.momentum, 6))
    return found


def test_momenta() -> None:
    for name in SMALL:
        assert set.union(*momenta(small(name)).values()) == {0.1}
    resnext = momenta(small("se_resnext50_elastic", "segmentation"))
    assert resnext == {"bn1": {0.05}, **{f"layer{i}": {0.0975} for i in (1, 2, 3, 4)}, "aspp": {0.0003}}
    dla = small("dla60x", "segmentation")
    assert momenta(dla)["dla_up"] == {0.1}
    assert momenta(dla.base) == {"base_layer": {0.1}, **{f"level{i}": {0.19} for i in range(6)}}


def deviation(model: nn.Module, key: str) -> Any:
    return pytest.approx(model.get_parameter(key).std().item(), rel=0.05)


def test_start_of_the_resnexts() -> None:
    torch.manual_seed(0)
    model = create_model("se_resnext50_elastic", layers=(1, 2, 1, 1))
    assert deviation(model, "layer1.0.conv1_d.weight") == (2 / 64) ** 0.5  # 64 inputs of a 1x1 convolution
    assert deviation(model, "layer2.0.conv2.weight") == (2 / (9 * 8)) ** 0.5  # 8 of a group
    assert deviation(model, "layer3.0.selayer.conv1.weight") == (2 / 1024) ** 0.5
    assert deviation(model, "layer1.0.downsample.0.weight") == (1 / (3 * 64)) ** 0.5  # as torch starts it
    assert deviation(model, "fc.weight") == 0.01
    for key, parameter in model.named_parameters():
        if key.endswith(("bias", "bn3.weight")):
            assert not parameter.any(), key
        elif parameter.dim() == 1:
            assert parameter.eq(1).all(), key
    block, x = model.get_submodule("layer2.1"), torch.rand(2, 512, 5, 5)
    assert torch.equal(block.eval()(x), x)  # each block starts as its shortcut


def test_start_of_the_others() -> None:
    torch.manual_seed(0)
    segmentation = create_model("resnext50_elastic", 21, task="segmentation", layers=(1, 1, 1, 1))
    assert segmentation.get_parameter("layer1.0.bn3.weight").eq(1).all()
    assert deviation(segmentation, "layer1.0.conv2.weight") == (2 / (9 * 64)) ** 0.5  # outputs, whatever the groups
    assert deviation(segmentation, "aspp.aspp2.weight") == (2 / (9 * 256)) ** 0.5
    dla = create_model("dla60x_elastic", 21, task="segmentation")
    assert deviation(dla, "base.level3.tree1.tree1.conv2.weight") == (2 / (9 * 128)) ** 0.5
    assert deviation(dla, "dla_up.ida_1.node_1.0.weight") == (2 / (9 * 256)) ** 0.5
    assert dla.get_parameter("base.level2.tree1.bn3.weight").eq(1).all()
    densenet = create_model("densenet201_elastic", block_config=(2, 1, 1, 1))
    assert deviation(densenet, "features.denseblock1.denselayer2.conv1_d.weight") == (2 / 64) ** 0.5
    assert not densenet.get_parameter("classifier.bias").any()


@every
def test_each_activation_is_called_once(name: str, task: str) -> None:
    model = small(name, task).eval()
    calls = {module: 0 for module in model.modules() if isinstance(module, (nn.ReLU, nn.Sigmoid))}

    def count(module: nn.Module, *_: object) -> None:
        calls[module] += 1

    for module in calls:
        module.register_forward_hook(count)
    model(torch.zeros(1, 3, 64, 64))
    assert set(calls.values()) == {1}


@every
def test_networks_are_traced_for_every_size_at_once(name: str, task: str) -> None:
    """64 and 112 pixels give the second DenseNet block maps 8 and 14 high, 224 the last one maps 7 high."""
    model = fill_model(small(name, task)).eval()
    traced, folded = fx.symbolic_trace(model), fold_batch_norm(model)
    for height, width in [(64, 64), (57, 91), (112, 112), (224, 32)]:
        images = torch.randn(1, 3, height, width)
        expected = run(model, images)
        assert torch.equal(run(traced, images), expected)
        torch.testing.assert_close(run(folded, images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("size", [(64, 64), (65, 50)])
@pytest.mark.parametrize(
    ("name", "task"),
    tiers(
        [("se_resnext50_elastic", "classification"), ("dla60x_elastic", "segmentation")],
        (),
        ["dla60x_elastic", "se_resnext50_elastic"],
    ),
)
def test_one_exported_graph_takes_every_size(name: str, task: str, size: tuple[int, int]) -> None:
    """Even sides and odd ones, whichever it was exported with."""
    model = fill_model(small(name, task)).eval()
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    exported = torch.export.export(model, (torch.randn(2, 3, *size),), dynamic_shapes=(sides,)).module()
    for height, width in [(64, 96), (97, 80), (33, 33)]:
        images = torch.randn(3, 3, height, width)
        expected = run(model, images)
        torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@every
def test_channels_last_is_kept(name: str, task: str) -> None:
    model = fill_model(small(name, task)).eval()
    images = torch.randn(2, 3, 64, 65)
    expected = run(model, images)
    model.to(memory_format=torch.channels_last)
    lost: list[str] = []

    def check(name: str, out: Any) -> None:
        if isinstance(out, Tensor) and out.dim() == 4 and not out.is_contiguous(memory_format=torch.channels_last):
            lost.append(name)

    for key, module in model.named_modules():
        if key not in ("", "log_softmax"):  # the last layer of DLA, which torch returns as it likes
            module.register_forward_hook(lambda _module, _inputs, out, key=key: check(key, out))
    out = run(model, images.contiguous(memory_format=torch.channels_last))
    assert not lost
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@every
def test_norms_can_be_swapped(name: str, task: str) -> None:
    model = small(name, task, norm="online")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert any(isinstance(module, OnlineNorm2d) for module in model.modules())
    model(torch.randn(1, 3, 64, 64)).sum().backward()  # batch size 1 trains
    group = small(name, task, norm="group", norm_options={"num_groups": 2})
    assert run(group, torch.randn(1, 3, 64, 64)).isfinite().all()


def test_options() -> None:
    def elastic(model: nn.Module) -> int:
        return sum(isinstance(module, ScaleSum) for module in model.modules())

    with torch.device("meta"):
        same_layers = create_model("resnext50_elastic", layers=(3, 4, 6, 3))
        assert elastic(same_layers) == 3 + 3 + 5
        assert elastic(create_model("densenet201", elastic=True, block_config=(1, 1, 1, 1))) == 4
    images = create_model("resnext50_elastic", 10, small_images=True, **RESNEXT)
    sides: list[int] = []
    images.get_submodule("layer1").register_forward_hook(lambda *given: sides.append(given[2].shape[-1]))
    assert run(images, torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert sides == [32]
    dropped = small("densenet201_elastic", drop_rate=0.5)
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(dropped(x), dropped(x))
    assert torch.equal(run(dropped, x), run(dropped, x))


def test_a_segmentation_network_is_built_from_its_spec() -> None:
    model = small("dla60x_elastic", "segmentation")
    rebuilt = ModelSpec("dla60x_elastic", 5, task="segmentation", options=DLA).build()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(1, 3, 40, 41)
    assert torch.equal(run(rebuilt, images), run(model, images))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnext50", {"layers": (3, 4, 6)}, r"layers is \[3, 4, 6\]; expected 4 positive whole numbers"),
        ("resnext50", {"widths": (64, 128, 0, 512)}, r"widths is \[64, 128, 0, 512\]; expected 4 positive"),
        ("resnext50", {"cardinality": 31}, "cardinality is 31; expected an even number"),
        ("resnext50", {"widths": (8, 8, 8, 8)}, "gives each branch 16 groups, which do not divide its 8 channels"),
        ("resnext50", {"stem": 0}, "stem is 0; expected a positive whole number"),
        (
            "resnext50",
            {"planes": 3},
            "takes no option 'planes'; its options: aspp_momentum, aspp_rates, aspp_width, cardinality, elastic",
        ),
        ("resnext50", {"task": "segmentation", "layers": (3, 4, 6, 4)}, "the last stage has at most 3 blocks"),
        ("resnext50", {"task": "detection"}, "task is 'detection'; expected classification, multilabel or segm"),
        ("dla60x", {"levels": (1, 1, 1)}, r"levels is \[1, 1, 1\]; expected 6 positive whole numbers"),
        ("dla60x", {"channels": (16, 32, 100, 256, 512, 1024)}, "expected multiples of 32 in the last four levels"),
        ("dla60x_elastic", {"cardinality": 5}, "cardinality is 5; expected an even number"),
        ("densenet201", {"block_config": (6, 12, 48)}, r"block_config is \[6, 12, 48\]; expected 4 positive"),
        ("densenet201", {"drop_rate": 1.5}, "drop_rate is 1.5; expected a probability"),
        ("densenet201_elastic", {"growth_rate": 3, "bn_size": 1}, "growth_rate 3 times bn_size 1 is odd"),
        (
            "densenet201_elastic",
            {"task": "segmentation"},
            "has no head for segmentation; those that have one: deeplabv3_mob",
        ),
    ],
)
def test_what_is_wrong_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        create_model(name, **options)
