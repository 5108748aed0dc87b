"""`elasticize`: FLOPs unchanged, any norm and size, blocks equal to a reference written here, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiers import tiers
from torch import Tensor, nn

from anysize.models.blocks.elastic_block import ElasticResidualBlock
from anysize.models.blocks.scales import ScaleSum, half_resolution
from anysize.models.measure.flops import count_flops
from anysize.models.spec import ModelSpec, create_model
from anysize.models.surgery.elasticize import elasticize
from anysize.registry import UserError

NETWORKS = [
    ("resnet8", 32), ("resnet20", 33), ("resnet44", 32), ("wide_resnet28_10", 32), ("resnet18", 224),
    ("resnet50", 224), ("resnet101", 225), ("resnext50_32x4d", 224), ("resnext101_32x8d", 224),
    ("wide_resnet50_2", 224), ("cifar_resnext", 32), ("resnext101_32x4d", 224), ("resnet200", 64),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"),
    tiers(NETWORKS, ["resnet8", "resnet20"], ["resnet44", "resnet50", "resnext50_32x4d", "cifar_resnext"]),
)
@pytest.mark.parametrize("stages", ["auto", "all"])
def test_flops_stay(name: str, size: int, stages: str) -> None:
    with torch.device("meta"):
        plain, elastic = create_model(name), create_model(name, elasticize=stages)
    before, after = count_flops(plain, size), count_flops(elastic, size)
    # At an odd side the half resolution rounds up, which comes on top.
    assert after.forward == pytest.approx(before.forward, rel=0.03 if size % 2 == 0 else 0.05)
    assert after.total == pytest.approx(before.total, rel=0.03 if size % 2 == 0 else 0.05)


def test_each_block_keeps_its_flops() -> None:
    """Not only their sum: a stage that is made elastic alone costs what it did."""
    with torch.device("meta"):
        plain = create_model("resnext50_32x4d")
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        with torch.device("meta"):
            elastic = create_model("resnext50_32x4d", elasticize=stage)
        before, after = (
            count_flops(getattr(model, stage), 56, _inputs(plain, stage), backward=False).forward
            for model in (plain, elastic)
        )
        assert after == pytest.approx(before, rel=0.03)


def _inputs(model: nn.Module, stage: str) -> int:
    return int(model.get_submodule(f"{stage}.0.conv1").in_channels)  # type: ignore[arg-type]


def test_paper_s_choice_of_blocks() -> None:
    """All blocks without a stride, of all stages but the last: 3 + 3 + 5 of ResNet-50."""
    model = create_model("resnet50")
    done = elasticize(model)
    kept = [f"layer1.{i}" for i in range(3)] + [f"layer2.{i}" for i in (1, 2, 3)] + [f"layer3.{i}" for i in range(1, 6)]
    assert list(done.blocks) == kept
    assert sum(isinstance(module, ScaleSum) for module in model.modules()) == 11
    assert not any(isinstance(module, ElasticResidualBlock) for module in model.get_submodule("layer4").modules())


@pytest.mark.parametrize(("stages", "blocks"), [("layer2", 1), (["layer1", "layer3"], 2), ("layer1, layer2", 2)])
def test_stages_by_name(stages: str | list[str], blocks: int) -> None:
    model = create_model("resnet14", stem=16)
    assert len(elasticize(model, stages).blocks) == blocks + ("layer1" in stages)  # its first block has no stride


def bilinear_twice(low: Tensor) -> Tensor:
    """Interpolate to twice the size by the definition: weights 3/4 and 1/4, the edge repeated."""
    for axis in (2, 3):
        size = low.shape[axis]
        before = low.index_select(axis, torch.arange(size).sub(1).clamp(min=0))
        after = low.index_select(axis, torch.arange(size).add(1).clamp(max=size - 1))
        low = torch.stack([0.75 * low + 0.25 * before, 0.75 * low + 0.25 * after], dim=axis + 1).flatten(axis, axis + 1)
    return low


def halved(x: Tensor) -> Tensor:
    """Repeat the last row and column of odd sides, then average squares of four."""
    if x.shape[2] % 2:
        x = torch.cat([x, x[:, :, -1:]], dim=2)
    if x.shape[3] % 2:
        x = torch.cat([x, x[:, :, :, -1:]], dim=3)
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def affine(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch norm in evaluation."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    shape = (1, -1, 1, 1)
    centred = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return centred * norm.weight.view(shape) + norm.bias.view(shape)


def reference(block: ElasticResidualBlock, x: Tensor) -> Tensor:
    """An elastic block, operation by operation."""
    parts = dict(block.named_modules())
    last = f"bn{block.depth}"
    sums = []
    for suffix, y in (("", x), ("_d", halved(x))):
        for i in (1, 2, 3):
            conv = parts.get(f"conv{i}{suffix}")
            if conv is None:
                break
            assert isinstance(conv, nn.Conv2d)
            y = F.conv2d(y, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
            if f"bn{i}{suffix}" in parts and f"bn{i}" != last:
                y = affine(parts[f"bn{i}{suffix}"], y).clamp(min=0)
        sums.append(y)
    full, low = sums
    out = affine(parts[last], full + bilinear_twice(low)[:, :, : x.shape[2], : x.shape[3]])
    shortcut = x
    if isinstance(parts["downsample"], nn.Sequential):
        conv = parts["downsample.0"]
        assert isinstance(conv, nn.Conv2d)
        shortcut = affine(parts["downsample.1"], F.conv2d(x, conv.weight))
    return (out + shortcut).clamp(min=0)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 1), (1, 4)])
@pytest.mark.parametrize(
    ("name", "block", "depth"),
    tiers(
        [
            ("resnet14", "layer1.1", 2),
            ("resnet18", "layer2.1", 2),
            ("resnet50", "layer1.0", 3),
            ("resnext50_32x4d", "layer1.1", 3),
        ],
        fast=["resnet14"],
        slow=["resnet18", "resnet50", "resnext50_32x4d"],
    ),
)
def test_block_against_a_float64_reference(name: str, block: str, depth: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, elasticize="auto").double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                nn.init.uniform_(values, low, low + 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    part = model.get_submodule(block)
    assert isinstance(part, ElasticResidualBlock)
    assert part.depth == depth
    channels = int(part.get_submodule("conv1").in_channels)  # type: ignore[arg-type]
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    expected = reference(part, x)
    torch.testing.assert_close(part(x), expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 1), (1, 4)])
def test_ends_of_a_branch_against_their_definition(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    low = half_resolution()(x)
    torch.testing.assert_close(low, halved(x), rtol=1e-14, atol=1e-14)
    merged = ScaleSum()(x, low)
    torch.testing.assert_close(merged, x + bilinear_twice(low)[:, :, :height, :width], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "online", "none"])
def test_any_norm_before_or_after(norm: str) -> None:
    images = torch.randn(2, 3, 17, 13)
    options = {"num_groups": 4} if norm == "group" else {}  # 8 do not divide the 12 channels of a branch
    after = create_model("resnet14", elasticize="all", norm=norm, norm_options=options)
    before = create_model("resnet14", norm=norm, norm_options=options)
    elasticize(before, "all")
    for model in (after, before):
        out = model.train()(images)
        out.sum().backward()
        assert out.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    kinds = [sorted(type(module).__name__ for module in model.modules()) for model in (after, before)]
    assert kinds[0] == kinds[1]


def test_options_of_the_norm_are_kept() -> None:
    model = create_model("resnet14", norm="group", norm_options={"num_groups": 4})
    elasticize(model)
    assert isinstance(model.get_submodule("layer1.0.bn1"), nn.GroupNorm)
    assert model.get_submodule("layer1.0.bn1").num_groups == 4
    assert model.get_submodule("layer1.0.bn2").num_channels == 16  # type: ignore[union-attr]


def test_start_shortcut_mode_and_dropout_are_the_models_own() -> None:
    torch.manual_seed(0)
    plain = create_model("resnet14", dropout=0.3)
    assert isinstance(plain.get_submodule("layer1.1.conv2"), nn.Conv2d)
    deviation = plain.get_parameter("layer1.1.conv2.weight").std().item()
    last = plain.get_parameter("layer1.1.bn2.weight")
    elasticize(plain.eval())
    block = plain.get_submodule("layer1.1")
    assert block.get_parameter("conv2.weight").std().item() == pytest.approx(deviation, rel=0.1)
    assert block.get_parameter("conv2_d.weight").std().item() == pytest.approx(deviation, rel=0.1)
    assert block.get_parameter("bn2.weight") is last  # zero, where the network starts each block as its shortcut
    assert not any(module.training for module in plain.modules())
    dropouts = [block.get_submodule(name) for name in ("dropout", "dropout_d")]
    assert all(isinstance(dropout, nn.Dropout) and dropout.p == 0.3 for dropout in dropouts)
    assert dropouts[0] is not dropouts[1]


def test_modes_and_frozen_affine_parameters_are_kept() -> None:
    model = create_model("resnet14")
    old = model.get_submodule("layer1.1")
    for norm in ("bn1", "bn2"):
        old.get_submodule(norm).eval().requires_grad_(False)
    elasticize(model)
    block = model.get_submodule("layer1.1")
    assert [name for name, part in block.named_modules() if not part.training] == ["bn1_d", "bn1", "bn2"]
    frozen = [name for name, parameter in block.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"{norm}.{part}" for norm in ("bn1_d", "bn1", "bn2") for part in ("weight", "bias")]


def test_kind_of_activation_is_kept() -> None:
    model = torchvision.models.resnet18()
    model.layer1[0].relu = nn.SiLU()
    elasticize(model)
    found = [[m for m in block.children() if isinstance(m, (nn.SiLU, nn.ReLU))] for block in model.layer1]
    assert [[type(m) for m in block] for block in found] == [[nn.SiLU] * 3, [nn.ReLU] * 3]
    assert len(set(found[0])) == 3  # one a call
    assert model.get_submodule("layer1.1.relu1").inplace


def test_a_block_of_several_names_stays_one_block() -> None:
    model = create_model("resnet14")
    layer = model.get_submodule("layer1")
    assert isinstance(layer, nn.Sequential)
    layer.append(layer[1])
    model.add_module("again", layer)
    assert len(elasticize(model).blocks) == 3
    assert isinstance(layer[1], ElasticResidualBlock)
    assert layer[2] is layer[1]
    assert model.get_submodule("again.1") is layer[1]


def test_parts_of_other_models_are_named_from_the_whole() -> None:
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    blocks = elasticize(detector).blocks
    assert len(blocks) == 11
    assert all(name.startswith("backbone.body.layer") for name in blocks)
    whole = nn.Sequential(create_model("resnet14"), nn.Linear(10, 3))
    assert list(elasticize(whole, "0.layer2").blocks) == ["0.layer2.1"]
    stage = create_model("resnet14").get_submodule("layer1")
    assert list(elasticize(stage).blocks) == ["0", "1"]


def _hook(block: Any) -> None:
    block.conv2.register_forward_hook(lambda *_: None)


def _exchange(block: Any) -> None:
    block.conv2 = nn.Sequential(block.conv2)


def _exchange_forward(block: Any) -> None:
    block.forward = lambda x: x


def _give_parameters(block: Any) -> None:
    block.relu1 = nn.PReLU()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda block: block.conv1.requires_grad_(False), "its conv1 is frozen and would start anew"),
        (lambda block: nn.utils.parametrizations.weight_norm(block.conv2), "its conv2 is a ParametrizedConv2d"),
        (_exchange, "its conv2 is a Sequential; expected a Conv2d"),
        (_hook, "Conv2d has hooks, which would be lost"),
        (_exchange_forward, "its forward was exchanged"),
        (_give_parameters, "its activation PReLU has parameters"),
    ],
)
def test_what_would_be_lost_is_refused(change: Callable[[Any], object], message: str) -> None:
    model = create_model("resnet14")
    change(model.get_submodule("layer1.1"))
    before = list(model.modules())
    with pytest.raises(UserError, match=rf"layer1\.1: {message}"):
        elasticize(model)
    assert list(model.modules()) == before
    elasticize(model, "layer2")  # the others can be split


def test_frozen_batch_norm_is_refused() -> None:
    model = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    with pytest.raises(UserError, match=r"layer1\.0: FrozenBatchNorm2d cannot be made for another number of channels"):
        elasticize(model)


def test_blocks_too_narrow_to_keep_their_flops_are_refused() -> None:
    with pytest.raises(UserError, match=r"layer1\.0: its 2 channels cannot be split at the same FLOPs: .* by 12%"):
        create_model("resnet14", widths=(2, 8, 8), elasticize="auto")
    with torch.device("meta"):
        two = torchvision.models.resnet50(groups=2, width_per_group=32)
    with pytest.raises(UserError, match=r"layer1\.0: its 64 channels in 2 groups cannot be split"):
        elasticize(two)


def test_memory_order_and_dtype_are_kept() -> None:
    model = create_model("resnet14").to(torch.float64).to(memory_format=torch.channels_last)
    elasticize(model)
    weight = model.get_parameter("layer1.1.conv1_d.weight")
    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_dilated_blocks_are_split() -> None:
    model = create_model("resnet50", replace_stride_with_dilation=[False, False, True])
    elasticize(model, "layer4")
    assert model.get_submodule("layer4.1.conv2_d").dilation == (2, 2)
    assert model.eval()(torch.randn(1, 3, 65, 70)).shape == (1, 1000)


def test_built_from_a_spec() -> None:
    spec = ModelSpec("resnet14", 5, in_channels=1).elasticize("layer1")
    assert isinstance(spec.build().get_submodule("layer1.0"), ElasticResidualBlock)


def test_a_single_block_and_no_stages_are_refused() -> None:
    with pytest.raises(UserError, match="the model is itself a ResidualBlock; give the module that holds it"):
        elasticize(create_model("resnet14").get_submodule("layer1.1"))
    with pytest.raises(UserError, match="stages is True; expected auto, all or names"):
        elasticize(create_model("resnet14"), True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stages", "message"),
    [
        (
            "mobilenet_v2",
            "auto",
            "MobileNetV2 has no residual block that can be split; expected a model of torchvision",
        ),
        (
            "cifar_resnet_se",
            "auto",
            "has no residual block that can be split; .* our own without gates on the shortcuts",
        ),
        ("resnet14", "layer9", "the model has no stage 'layer9' of residual blocks: did you mean 'layer"),
        ("resnet8", "layer2", "stages layer2: no block there keeps the resolution"),
        ("resnet14", [], "stages are empty: no block there"),
    ],
)
def test_what_cannot_be_done_is_told(name: str, stages: str | list[str], message: str) -> None:
    model = create_model(name)
    with pytest.raises(UserError, match=message):
        elasticize(model, stages)


def test_twice_is_refused_and_changes_nothing() -> None:
    model = create_model("resnet14", elasticize="layer1")
    with pytest.raises(UserError, match=r"layer1\.0 has a branch at half resolution already"):
        elasticize(model, "layer2")
    with torch.device("meta"), pytest.raises(UserError, match=r"layer1\.0 has a branch at half resolution already"):
        create_model("resnext50_elastic", elasticize="auto")
    model = create_model("resnet14", norm="layer_elementwise", norm_options={"image_size": 32})
    before = [type(module) for module in model.modules()]
    with pytest.raises(UserError, match=r"layer1\.0: ElementwiseLayerNorm cannot be made for another number of chann"):
        elasticize(model)
    assert [type(module) for module in model.modules()] == before
