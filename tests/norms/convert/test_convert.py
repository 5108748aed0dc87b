"""Any model gets any norm: what is swapped, what is kept, what is refused, and that a refused model is as it was."""

import copy
import io
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from anysize.norms.convert.model import convert_norms
from anysize.norms.factory import NORMS
from anysize.norms.layers import ElementwiseLayerNorm, FrozenBatchNorm, NormAct
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.norms.synchronised import SyncBatchNorm
from anysize.registry import UserError

OPTIONS: dict[str, dict[str, Any]] = {"group": {"num_groups": 2}, "layer_elementwise": {"image_size": 32}}


def network() -> nn.Sequential:
    """A small network with trained statistics and weights, and a norm of vectors at its end."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8, eps=1e-3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(16, affine=False),
        nn.Linear(16, 5),
    )
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    for _ in range(20):
        model(2 * torch.randn(16, 3, 8, 8) + 1)
    return model


def images(size: int = 8, count: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"instance"}))
def test_a_network_gets_every_norm_trains_and_loads_its_own_weights(name: str) -> None:
    options = {**OPTIONS.get(name, {}), **({"image_size": 8} if name == "layer_elementwise" else {})}
    model, twin = network(), network()
    names = [key for key, _ in model.named_modules()]
    done = convert_norms(model, name, **options)
    if name == "batch":
        assert (done.swapped, list(done.unchanged)) == ({}, ["1", "4", "7"])
    else:
        assert list(done.swapped) == ["1", "4", "7"]
        assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())
    assert set(names) <= {key for key, _ in model.named_modules()}
    model(images()).sum().backward()
    assert model[0].weight.grad.isfinite().all()
    convert_norms(twin, name, **options)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(twin.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize("name", ["frozen_batch", "sync_batch", "online"])
def test_running_statistics_and_affine_parameters_go_along(name: str) -> None:
    model = network().eval()
    wanted = model(images())
    convert_norms(model, name, **({"ecm": "none"} if name == "online" else {}))
    torch.testing.assert_close(model(images()), wanted)  # eps goes along, too
    convert_norms(model, "batch")
    torch.testing.assert_close(model(images()), wanted)
    assert model[1].eps == 1e-3
    assert model[7].weight is None or name == "frozen_batch"  # which always has one


def test_the_parameters_themselves_go_along() -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    weights = model[1].weight, model[4].weight, model[1].bias
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert_norms(model, "group", num_groups=2)
    assert model[1].weight is weights[0]
    assert model[4].weight is weights[1]
    before = weights[2].detach().clone()
    model(images()).sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].bias, before)


def test_weights_a_channel_become_weights_a_value() -> None:
    model = network()
    weight = model[4].weight.detach().clone()
    model[4].bias.requires_grad_(False)
    convert_norms(model, "layer_elementwise", image_size=8)
    assert model[1].weight.shape == (8, 8, 8)
    assert torch.equal(model[4].weight, weight.reshape(16, 1, 1).expand(16, 3, 3))
    assert [p.requires_grad for p in (model[4].weight, model[4].bias)] == [True, False]


def test_mode_dtype_and_device_go_along() -> None:
    model = network().double()
    model[1].eval()
    convert_norms(model, "online")
    assert [model[i].training for i in (1, 4)] == [False, True]
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    with torch.device("meta"):
        empty = torchvision.models.resnet18()
    convert_norms(empty, "online")
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_dimensions_follow_the_norm_or_the_layer_before_it() -> None:
    model = nn.ModuleDict(
        {
            "bn1": nn.BatchNorm1d(8), "bn3": nn.BatchNorm3d(8), "in3": nn.InstanceNorm3d(8),
            "conv1": nn.Conv1d(1, 8, 3), "gn1": nn.GroupNorm(2, 8),
            "conv2": nn.Conv2d(1, 8, 3), "gn2": nn.GroupNorm(2, 8), "sync": nn.SyncBatchNorm(8),
        }
    )  # fmt: skip
    convert_norms(model, "online")
    kinds = {key: type(module) for key, module in model.items() if "conv" not in key}
    assert kinds == {
        "bn1": OnlineNorm1d, "bn3": OnlineNorm3d, "in3": OnlineNorm3d, "gn1": OnlineNorm1d, "gn2": OnlineNorm2d,
        "sync": OnlineNorm2d,
    }  # fmt: skip
    vectors = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8))
    convert_norms(vectors, "batch")
    assert isinstance(vectors[1], nn.BatchNorm1d)


def test_measured_inputs_tell_vectors_from_images() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.GroupNorm(2, 8)
    )
    convert_norms(model, "batch", image_size=9)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert isinstance(model[4], nn.BatchNorm1d)
    model(images())


def test_a_shared_norm_stays_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
            self.again = self.first[1]

    model = Twice()
    done = convert_norms(model, "layer")
    assert model.again is model.first[1]
    assert isinstance(model.again, nn.GroupNorm)
    assert list(done.swapped) == ["first.1"]


@pytest.mark.parametrize("pattern", ["layer2*", "*.bn2", "BatchNorm?d", "Bottleneck"])
def test_skip_takes_names_classes_and_whole_parts(pattern: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    before = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if pattern == "BatchNorm?d":
        with pytest.raises(UserError, match="ResNet has no norm to swap: skip leaves out all of its norms"):
            convert_norms(model, "layer", skip=[pattern])
        return
    done = convert_norms(model, "layer", skip=pattern)
    for name, old in before.items():
        skipped = {"layer2*": name.startswith("layer2"), "*.bn2": name.endswith("bn2"), "Bottleneck": "layer" in name}
        assert (name in done.skipped, name in done.swapped) == (skipped[pattern], not skipped[pattern])
        assert (model.get_submodule(name) is old) == skipped[pattern]


def test_norms_of_the_kind_are_left_alone_or_get_the_new_options_and_keep_their_state() -> None:
    model = network()
    convert_norms(model, "online", alpha_fwd=0.9, ecm="ac")
    model(images())
    first, state = model[1], copy.deepcopy(model[1].state_dict())
    assert state["norm.m"].any()
    convert_norms(model, "online")
    assert model[1] is first
    done = convert_norms(model, "online", alpha_bkw=0.5)
    assert done.swapped["1"] == ("OnlineNorm2d", "OnlineNorm2d")
    options = model[1].options
    assert (options.alpha_fwd, options.alpha_bkw, options.ecm, options.eps) == (0.9, 0.5, "ac", 1e-3)
    assert all(torch.equal(value, state[key]) for key, value in model[1].state_dict().items())


def test_a_group_norm_of_one_group_is_a_layer_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.GroupNorm(4, 8))
    assert list(convert_norms(model, "layer").unchanged) == ["1"]
    assert [model[1].num_groups, model[2].num_groups] == [1, 1]
    convert_norms(model, "group")
    assert [model[1].num_groups, model[2].num_groups] == [8, 8]


def test_statistics_within_an_image_are_not_those_over_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, track_running_stats=True))
    model(images() + 3)
    convert_norms(model, "batch")
    assert torch.equal(model[1].running_var, torch.ones(8))


def test_synchronised_norm_keeps_its_processes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8, momentum=None))
    model[1].process_group = group = object()
    convert_norms(model, "sync_batch", eps=1e-3)
    assert (model[1].process_group, model[1].momentum, model[1].eps) == (group, None, 1e-3)


def test_torchs_synchronised_norm_becomes_the_one_that_works_on_cpus() -> None:
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.SyncBatchNorm(8), layers.convert_sync_batchnorm(layers.BatchNormAct2d(8)))
    model[0].process_group = group = object()
    convert_norms(model, "sync_batch")
    assert (type(model[0]), type(model[1].norm)) == (SyncBatchNorm, SyncBatchNorm)
    assert model[0].process_group is group
    done = convert_norms(model, "sync_batch")
    assert done.unchanged == {"0": "SyncBatchNorm", "1.norm": "SyncBatchNorm"}


def test_summary() -> None:
    model = network()
    text = str(convert_norms(model, "online", skip="4"))
    assert text.splitlines() == [
        "1 norm: BatchNorm2d to OnlineNorm2d", "1 norm: BatchNorm1d to OnlineNorm1d", "1 norm skipped: BatchNorm2d",
    ]  # fmt: skip
    assert str(convert_norms(model, "online", skip="4")).startswith("1 norm unchanged: OnlineNorm2d")


FUSED = ("resnetv2_50", "efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "densenet121")


@pytest.mark.parametrize(
    ("model_name", "name"),
    [  # each model with one norm, and one model with all; the others are slow
        pytest.param(model, norm, marks=() if model == "resnetv2_50" or norm == "online" else pytest.mark.slow)
        for model in FUSED
        for norm in sorted(NORMS)
    ],
)
def test_timm_models_with_fused_norms(model_name: str, name: str) -> None:
    timm = pytest.importorskip("timm")
    small = {"resnetv2_50": {"layers": [1, 1], "channels": [16, 32]}, "densenet121": {"block_config": [1, 2]}}
    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=3, **small.get(model_name, {}))
    activations = [type(m) for m in model.modules() if isinstance(m, (nn.ReLU, nn.SiLU, nn.Hardswish))]
    before = {key for key, _ in model.named_modules()}
    fused = [key for key, m in model.named_modules() if type(m).__name__ == "BatchNormAct2d"]
    options = {"momentum": 0.2} if name in ("batch", "sync_batch") else OPTIONS.get(name, {})
    done = convert_norms(model, name, **options)
    assert set(done.swapped) == set(fused)
    assert len(fused) > 6
    assert before - {key for key, _ in model.named_modules()} <= {
        f"{key}.{p}" for key in fused for p in ("drop", "act")
    }
    assert [type(m) for m in model.modules() if isinstance(m, (nn.ReLU, nn.SiLU, nn.Hardswish))] == activations
    size = 64 if name == "instance" else 32  # a single position has nothing to normalise
    x = torch.randn(2, 3, size, size)
    model.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(x).isfinite().all()


def test_timm_fused_norm_keeps_its_activation_dropout_and_values() -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), layers.BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Dropout), nn.Conv2d(8, 8, 1),
        layers.BatchNormAct2d(8, apply_act=False), layers.GroupNormAct(8, num_groups=4),
    )  # fmt: skip
    for _ in range(5):
        model(images(count=16))
    wanted = model.eval()(images())
    act, weight = model[1].act, model[1].weight
    model[1].act.train()
    convert_norms(model, "frozen_batch", skip="4")
    assert [m.training for m in (model[1], model[1].norm, model[1].drop, act)] == [False, False, False, True]
    torch.testing.assert_close(model(images()), wanted)
    assert isinstance(model[1], NormAct)
    assert model[1].act is act
    assert isinstance(model[1].drop, nn.Dropout)
    assert isinstance(model[3], FrozenBatchNorm)  # no activation, no wrapper: parameters have the names they had
    convert_norms(model, "batch", skip="4")
    torch.testing.assert_close(model(images()), wanted)
    assert torch.equal(model[1].weight, weight)
    assert {"1.norm.weight", "3.weight"} <= set(model.state_dict())
    convert_norms(model, "layer")
    torch.testing.assert_close(
        model[4](torch.ones(1, 8, 1, 1) * torch.arange(8.0).reshape(8, 1, 1)),
        nn.functional.layer_norm(torch.arange(8.0), [8]).relu().reshape(1, 8, 1, 1),
    )


def test_without_norms_no_activation_overwrites_what_a_shortcut_needs() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnetv2_50", num_classes=3, layers=[1, 1], channels=[16, 32])
    convert_norms(model, "none")
    preactivation = model.get_submodule("stages.1.blocks.0.norm1")
    x = torch.randn(2, 16, 4, 4)
    before = x.clone()
    assert torch.equal(preactivation(x), before.relu())
    assert torch.equal(x, before)


class Own(nn.BatchNorm2d):
    """A batch norm with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Named(nn.BatchNorm2d):
    """A batch norm by another name alone."""


def hooked() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    norm.register_forward_hook(lambda *_: None)
    return norm


def timm_norm(name: str) -> nn.Module:
    return getattr(pytest.importorskip("timm.layers"), name)(8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Own(8), r"norm '3' \(Own\) cannot be swapped: it is a BatchNorm2d with a forward of its own"),
        (lambda: nn.LayerNorm(8), r"\(LayerNorm\) .* it normalises the last dimension.* with skip=\['LayerNorm'\]"),
        (lambda: nn.RMSNorm(8), r"\(RMSNorm\) cannot be swapped"),
        (lambda: nn.LazyBatchNorm2d(), "has not seen a batch yet: call the model once"),
        (hooked, r"norm '3' .* has hooks, which would be lost.* with skip=\['3'\]"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(8), dim=None), "has parametrizations"),
        (lambda: timm_norm("EvoNorm2dS0"), r"\(EvoNorm2dS0\) cannot be swapped: it is not known"),
        (lambda: timm_norm("FilterResponseNormTlu2d"), "cannot be swapped"),
        (lambda: timm_norm("RmsNorm2d"), "cannot be swapped"),
        (lambda: timm_norm("SplitBatchNorm2d"), "a BatchNorm2d with a forward of its own"),
        (lambda: timm_norm("LayerNormAct"), "it normalises the last dimension"),
    ],
)
def test_what_cannot_be_swapped_is_refused_unless_skipped_and_nothing_changes(make: Any, message: str) -> None:
    norm = make()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), norm)
    before = list(model)
    with pytest.raises(UserError, match=message):
        convert_norms(model, "group")
    assert list(model) == before
    convert_norms(model, "group", skip=["3"])
    assert isinstance(model[1], nn.GroupNorm)
    assert model[3] is norm


def test_more_kinds_that_can_be_swapped() -> None:
    layers = pytest.importorskip("timm.layers")
    kinds = [
        Named(8), nn.InstanceNorm2d(8, affine=True), nn.SyncBatchNorm(8), nn.LayerNorm([8, 6, 6]),
        torchvision.ops.FrozenBatchNorm2d(8), torchvision.models.convnext.LayerNorm2d(8), layers.LayerNorm2d(8),
        layers.LayerNormAct2d(8), layers.GroupNorm1Act(8), layers.FrozenBatchNormAct2d(8),
        ElementwiseLayerNorm(8, (6, 6)),
    ]  # fmt: skip
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *kinds)
    done = convert_norms(model, "group", num_groups=4)
    assert len(done.swapped) == len(kinds)
    norms = [m.norm if isinstance(m, NormAct) else m for m in list(model)[1:]]
    assert all(isinstance(norm, nn.GroupNorm) and norm.num_groups == 4 for norm in norms)
    assert model(images()).isfinite().all()


def test_convnext_keeps_the_norms_of_its_last_dimension() -> None:
    with torch.device("meta"):
        model = torchvision.models.convnext_tiny()
    with pytest.raises(UserError, match=r"one of 18 such norms, cannot be swapped.*skip=\['LayerNorm'\]"):
        convert_norms(model, "online")
    done = convert_norms(model, "online", skip=["LayerNorm"])
    assert str(done) == "5 norms: LayerNorm2d to OnlineNorm2d\n18 norms skipped: LayerNorm"


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (nn.BatchNorm2d(8), "group", {}, r"the model is itself a norm \(BatchNorm2d\).*create_norm\('group'"),
        (nn.Conv2d(3, 8, 3), "group", {}, "Conv2d has no norm to swap: none was found"),
        (nn.Sequential(nn.Identity()), "group", {}, "Sequential has no norm to swap"),
        (network(), "groups", {}, "unknown norm 'groups': did you mean 'group'"),
        (network(), "group", {"groups": 4}, "takes no option 'groups'"),
        (network(), "group", {"skip": ["nothing"]}, "skip pattern 'nothing' matches the name or class of no module"),
        (network(), "group", {"skip": 3}, "skip is 3; expected a list of patterns"),
        (network(), "group", {"num_groups": 16}, "divide the 8 channels of norm '1'; num_groups=8 divides those of ev"),
        (network(), "group", {"num_groups": 0}, "norm '1' .BatchNorm2d.: num_groups is 0"),
        (network(), "online", {"group_size": 16}, "norm '1' .BatchNorm2d.: group_size is 16, which does not divide 8"),
        (network(), "layer_elementwise", {}, "the size of the images must be known: give image_size"),
        (network(), "layer_elementwise", {"shape": (8, 8)}, "give image_size in its place"),
        (network(), "layer_elementwise", {"image_size": 0}, "image_size is 0; expected a whole number"),
        (network(), "layer_elementwise", {"image_size": 8, "in_channels": 1}, r"does not take images \(1, 8, 8\)"),
        (network(), "instance", {}, r"norm '7' \(BatchNorm1d\) sees \(N, C\), .*skip=\['7'\]"),
        (network(), "instance", {"image_size": 8}, r"norm '7' \(BatchNorm1d\) sees \(N, C\)"),
    ],
)
def test_what_is_wrong_is_told(model: nn.Module, name: str, options: dict[str, Any], message: str) -> None:
    before = dict(model.named_modules())
    with pytest.raises(UserError, match=message):
        convert_norms(model, name, **options)
    assert dict(model.named_modules()) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_norms_left_says_so() -> None:
    model = network()
    convert_norms(model, "none")
    with pytest.raises(UserError, match="after a conversion to 'none' there is none left"):
        convert_norms(model, "batch")


def test_elementwise_needs_one_shape_a_norm_that_is_reached() -> None:
    class Odd(nn.Module):
        def __init__(self, spare: bool) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
            self.spare = nn.BatchNorm2d(8) if spare else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            return x if isinstance(self.spare, nn.BatchNorm2d) else self.norm(x[..., 1:, 1:])

    with pytest.raises(UserError, match=r"norm 'spare' .* is not reached in evaluation"):
        convert_norms(Odd(True), "layer_elementwise", image_size=9)
    with pytest.raises(UserError, match=r"norm 'norm' .* sees several shapes, \[\(4, 4\), \(3, 3\)\]"):
        convert_norms(Odd(False), "layer_elementwise", image_size=9)
    convert_norms(Odd(True), "layer_elementwise", image_size=9, skip="spare")


def test_inputs_are_measured_for_real_where_the_meta_device_does_not_do() -> None:
    class ReadsValues(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if x.max().item() > 0 else 2)

    model = ReadsValues(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    convert_norms(model, "layer_elementwise", image_size=6)
    assert model[1].weight.shape == (8, 4, 4)
    assert model.training


def test_what_is_no_model_is_refused() -> None:
    for wrong in (nn.BatchNorm2d, "online"):
        with pytest.raises(UserError, match=r"expected a torch\.nn\.Module and then the name of a norm"):
            convert_norms(wrong, "online")  # type: ignore[arg-type]
