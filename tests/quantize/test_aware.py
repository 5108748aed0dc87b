"""Quantization-aware models: they round as the int8 model that comes out of them does, and move what they should."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import check_size
from anysize.models.measure.speed import bench
from anysize.models.spec import ModelSpec, create_model
from anysize.models.surgery.quantization.aware import is_aware, make_aware, without_quantization
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.surgery.quantization.prepare import prepare
from anysize.norms.calibration import calibrated
from anysize.norms.running import running_norms
from anysize.quantize.aware import check_reached, fixed_from_aware, set_epoch
from anysize.quantize.settings import QuantizeSettings
from anysize.registry import UserError
from anysize.training.averaging import AveragedWeights

ONLINE = {"norm": "online"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv, norm, ReLU": ("resnet8", {}),
    "elastic": ("resnet8", {"elasticize": "all"}),
    "online norm, layer scaling": ("resnet8", ONLINE),
    "online norm, clamped, elastic": ("resnet8", {**ONLINE, "norm_options": {"ecm": "ac"}, "elasticize": "all"}),
    "online norm, folded whole": ("resnet8", {**ONLINE, "norm_options": {"ecm": "none"}}),
    "norms that stay": ("cifar_densenet", {"depth": 16, "growth": 4}),
    "depthwise": ("mobilenet_v2", {"width_mult": 0.25}),
    "fused norm and activation": ("timm:mobilenetv2_035", {}),
}


def images(count: int, size: int = 24) -> Tensor:
    return torch.randn(count, 3, size, size)


def trained(name: str, **options: Any) -> nn.Module:
    """A quantization-aware network in evaluation whose norms and ranges have seen some images."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **options)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    make_aware(model, images(1))
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(images(8))
    return model.eval()


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_it_rounds_where_and_as_the_folded_model_does(kind: str) -> None:
    """In float64, in which a value hardly ever comes so close to the middle between two numbers that it matters."""
    name, options = MODELS[kind]
    model = trained(name, **options).double()
    folded = prepare(without_quantization(model), images(1).double())
    ours, theirs = quantization_of(model), quantization_of(folded)
    assert ours.placement.quantizers == theirs.placement.quantizers
    assert ours.placement.layers == theirs.placement.layers
    for each in ours.placement.quantizers:
        theirs.value(each).load_state_dict(ours.value(each).state_dict())
    inputs = images(2).double()
    outputs = model(inputs)
    torch.testing.assert_close(folded(inputs), outputs, rtol=1e-5, atol=1e-5)
    ours.rounds = False
    assert (model(inputs) - outputs).abs().max() > 1e-4  # which rounding changes


@pytest.mark.parametrize("kind", ["conv, norm, ReLU", "online norm, clamped, elastic", "depthwise"])
@torch.no_grad()
def test_the_fixed_model_gives_what_the_trained_one_gives(kind: str) -> None:
    name, options = MODELS[kind]
    model = trained(name, **options)
    fixed = fixed_from_aware(model, images(1))
    inputs = images(16)
    outputs, theirs = model(inputs), fixed(inputs)
    ours = quantization_of(model)
    ours.rounds = False
    noise = (model(inputs) - outputs).std()
    assert (theirs - outputs).std() <= noise  # biases are whole numbers in it, which tips some over
    assert (outputs.argmax(1) == theirs.argmax(1)).float().mean() >= 0.9
    first = ours.placement.layers["conv1:conv2d:0" if name == "resnet8" else "features.0.0:conv2d:0"]
    held = quantization_of(fixed).weight(first.key)
    assert held.integers is not None
    assert held.integers.abs().amax((1, 2, 3)).unique().tolist() == [127]
    assert is_aware(model)
    assert not is_aware(fixed)
    with pytest.raises(UserError, match=r"was not trained for int8; train it with quantize\.aware"):
        fixed_from_aware(fixed, images(1))


def test_ranges_and_statistics_move_in_their_epochs_and_dropout_goes_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.ReLU())
    quantization, settings = make_aware(model, images(1)), QuantizeSettings(observer_epochs=2, statistics_epochs=1)

    def moves(epoch: int) -> tuple[bool, bool]:
        model.train()
        set_epoch(model, settings, epoch)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first, second = model(images(4)), model(images(4))
        assert (first == 0).float().mean() > 0.5
        assert not torch.equal(first, second)
        after = model.state_dict()
        watched = f"quantization.values.{list(quantization.values)[-1]}.high", "1.running_var"
        ranges, statistics = (not torch.equal(before[name], after[name]) for name in watched)
        return ranges, statistics

    assert [moves(epoch) for epoch in range(3)] == [(True, True), (True, False), (False, False)]
    before = copy.deepcopy(model.state_dict())
    model.eval()(images(4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    assert (model[1].momentum, model[1].training, model[2].p, model[2].training) == (0.3, True, 0.5, True)
    assert moves(0) == (True, True)  # what an epoch moves depends on nothing but its number


def test_an_online_norm_that_stands_is_a_scale_and_a_shift() -> None:
    model = trained("resnet8", **ONLINE).train()
    set_epoch(model, QuantizeSettings(statistics_epochs=0), 0)
    norms: list[Any] = [*running_norms(model).values()]
    before = [value.clone() for norm in norms for value in norm.norm.tensors()]
    model(images(4)).square().mean().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, (v for n in norms for v in n.norm.tensors()), strict=True))
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)


def test_gradients_reach_all_parameters_through_sums_that_a_norm_reads() -> None:
    model = trained("resnet8", elasticize="all").train()
    norm = next(norm for name, norm in running_norms(model).items() if "layer1" in name)
    with torch.no_grad():
        norm.weight[0], norm.weight[1] = 0.0, 1e-30  # dead channels, whose scale cannot be divided by
    for _ in range(20):
        model.zero_grad()
        model(images(4)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert norm.running_var.max() < 100  # which rounding in a dead channel does not blow up


def test_bfloat16_rounds_in_float32() -> None:
    model = trained("resnet8").train()
    quantizer = quantization_of(model).value("conv1:conv2d:0")
    quantizer.observing = False
    quantizer.set_range(torch.tensor(0.0), torch.tensor(255 / 101.4))  # in bfloat16, 101.4 is 101.5
    value = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    assert (quantizer(value).float() / quantizer.scale).round().item() == 101
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(4)).float().square().mean()
    loss.backward()
    assert loss.isfinite()


def test_calibration_measures_statistics_and_leaves_ranges() -> None:
    for options in ({"elasticize": "all"}, {**ONLINE, "elasticize": "all"}):
        model = trained("resnet8", **options)
        before, plain = copy.deepcopy(model.state_dict()), without_quantization(model)
        batches = [images(32) for _ in range(2)]
        with calibrated(model, batches), calibrated(plain, batches):
            for name, value in model.state_dict().items():
                if name.startswith("quantization"):
                    assert torch.equal(value, before[name])
                elif name.endswith(("running_var", "norm.var")):
                    torch.testing.assert_close(value, plain.state_dict()[name], rtol=0.1, atol=0.01)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_averaged_weights_copy_the_ranges() -> None:
    torch.manual_seed(0)
    model = create_model("resnet8")
    make_aware(model, images(1))
    averaged = AveragedWeights(model, every=1, decay=0.5)
    for step in (1, 2):
        model.train()(images(4))
        averaged.update(model, step)
    ours, theirs = model.state_dict(), averaged.state_dict()
    for name, value in theirs.items():
        assert value.isfinite().all()
        if name.startswith("quantization"):
            assert torch.equal(value, ours[name])
    assert not torch.equal(theirs["bn1.running_mean"], ours["bn1.running_mean"])


@pytest.mark.slow
def test_it_is_measured_without_memory_before_anything_was_observed() -> None:
    spec = ModelSpec("resnet8", 10, image_size=16).elasticize("all").quantize_aware(bits=7, keep=["layer3"])
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert spec.aware == {"bits": 7, "keep": ["layer3"]}
    assert spec.quantized(7).aware is None
    model, plain = spec.build(), ModelSpec("resnet8", 10, image_size=16).elasticize("all").build()
    assert quantization_of(model).bits == 7
    assert count_flops(model, 16) == count_flops(plain, 16)
    assert count_flops(model, 16, backward=False) == count_flops(plain, 16, backward=False)
    check_size(model, 16, training=True)
    check_reached(model, 16)
    assert torch.isfinite(model.eval()(images(2, 16))).all()
    with pytest.raises(UserError, match="no values were seen at images yet: train the model"):
        fixed_from_aware(model, images(1, 16))


class OtherwiseInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.always, self.then = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.always(x)
        return x if self.training else self.then(x)


def test_what_training_does_not_reach_is_named() -> None:
    model = OtherwiseInTraining()
    make_aware(model, images(1))
    with pytest.raises(UserError, match=r"OtherwiseInTraining does not reach then, .* in training as it does in eval"):
        check_reached(model, 8)
    kept = OtherwiseInTraining()
    make_aware(kept, images(1), keep=["then"])
    check_reached(kept, 8)


def test_a_norm_that_only_the_layer_behind_it_can_take_is_refused() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    with pytest.raises(UserError, match=r"the norm 2 is folded into the layer behind it, 3, .* quantize\.keep 3"):
        make_aware(nn.Sequential(*layers), images(1))
    assert make_aware(nn.Sequential(*layers), images(1), keep=["3"]).placement.kept == {"3": "asked for"}


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_fused_norm_that_is_taken_apart_trains_as_it_did(norm: str) -> None:
    timm = pytest.importorskip("timm.layers")
    fused = {"batch": timm.BatchNormAct2d, "frozen": timm.FrozenBatchNormAct2d}[norm](4)
    if norm == "batch":
        fused.momentum = 0.3
    model = nn.Sequential(nn.Conv2d(3, 4, 3), fused, nn.Flatten(), nn.Linear(4, 2))
    plain = copy.deepcopy(model)
    make_aware(model, images(1, 3))
    quantization_of(model).rounds = False
    inputs = images(4, 3)
    for each in (model, plain):
        each.train()(inputs)
    own: Any = model[1]
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(own.norm, name), getattr(plain[1], name))
    torch.testing.assert_close(model(inputs), plain(inputs))


class SumBehindNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x)) + x
        return out


def test_what_rounding_computes_is_taken_for_no_call_of_the_model() -> None:
    model = SumBehindNorm()
    values = quantization_of(model).values if make_aware(model, images(1)) else {}
    seen: list[torch.Size] = []
    for quantizer in values.values():
        quantizer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    model.train()(images(2))
    assert seen == [images(2).shape] * 3


def test_a_model_that_rounds_is_not_measured_without_rounding() -> None:
    model = create_model("resnet8")
    make_aware(model, images(1))
    with pytest.raises(UserError, match="rounds its values, which folding would leave out; leave --fold out"):
        bench(model, [16], [1], train=False, fold=True, repeats=1, device="cpu")
