"""int8 checkpoints that torchvision's deprecated module makes: the same integers, and the same results."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from anysize.models.spec import ModelSpec
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.weights.foreign_files import read_foreign
from anysize.models.weights.int8 import Int8Checkpoint, load_int8, read_any, value_parameters
from anysize.registry import UserError

CLASSES = 10
NO_AUX = {"aux_logits": False, "init_weights": False}
NETWORKS = {
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnext101_32x8d": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "shufflenet_v2_x1_0": (64, {}),
    "googlenet": (64, NO_AUX),
    "inception_v3": (96, NO_AUX),
}


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    """What is deprecated may be so here, and the engine is put back."""
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.backends.quantized.engine = before


def converted(name: str, engine: str, weights: Any = None, **options: Any) -> nn.Module:
    """torchvision's quantized network for an engine, calibrated on noise, or with the weights of another."""
    quantization: Any = torch.ao.quantization
    torch.manual_seed(0)
    torch.backends.quantized.engine = engine
    size, more = NETWORKS[name]
    model: Any = getattr(torchvision.models.quantization, name)(num_classes=CLASSES, **more, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(8, 3, size, size))
        model.eval().qconfig = quantization.get_default_qconfig(engine)
        model.fuse_model()
        quantization.prepare(model, inplace=True)
        model(torch.randn(8, 3, size, size))
    quantization.convert(model, inplace=True)
    if weights is not None:
        model.load_state_dict(weights)
    return model  # type: ignore[no-any-return]


def loaded(name: str, file: Path) -> tuple[nn.Module, Int8Checkpoint]:
    checkpoint = read_any(file)
    assert isinstance(checkpoint, Int8Checkpoint)
    model = ModelSpec(name, CLASSES, image_size=NETWORKS[name][0]).without_relu6().quantized().build()
    assert not load_int8(model, checkpoint)
    return model, checkpoint


def signal_to_noise(values: Tensor, truth: Tensor) -> float:
    return float(10 * torch.log10(truth.pow(2).sum() / (values - truth).pow(2).sum()))


def network(name: str, engine: str) -> Any:
    tier: dict[str, Any] = dict.fromkeys(("mobilenet_v2", "shufflenet_v2_x1_0", "googlenet"), pytest.mark.slow)
    tier["resnet18"] = () if engine == "fbgemm" else pytest.mark.slow
    heavy = pytest.mark.slow if name == "inception_v3" else pytest.mark.exhaustive
    return pytest.param(name, engine, marks=tier.get(name, heavy))


@pytest.mark.parametrize(
    ("name", "engine_name"), [network(name, engine) for name in NETWORKS for engine in ("fbgemm", "qnnpack")]
)
def test_a_checkpoint_computes_what_torchvision_s_model_computes(name: str, engine_name: str, tmp_path: Path) -> None:
    theirs = converted(name, engine_name)
    torch.save({"model": theirs.state_dict()}, tmp_path / "int8.pth")
    model, checkpoint = loaded(name, tmp_path / "int8.pth")
    quantization, modules = quantization_of(model), dict(theirs.named_modules())
    for layer in quantization.placement.layers.values():
        module: Any = modules[layer.name]
        weights = module.weight()
        assert torch.equal(quantization.weight(layer.key).integers, weights.int_repr())
        assert torch.equal(model.get_submodule(layer.name).weight, weights.dequantize().float()), layer.name

    images = torch.randn(8, 3, *[NETWORKS[name][0]] * 2, generator=torch.Generator().manual_seed(5))
    state = theirs.state_dict()
    results = {other: converted(name, other, state)(images) for other in ("fbgemm", "qnnpack")}
    scale, zero_point = checkpoint.values[layer.name]  # theirs rounds and cuts the logits off, too
    own = torch.fake_quantize_per_tensor_affine(model(images), scale, zero_point, 0, 255)
    between_engines = signal_to_noise(results["fbgemm"], results["qnnpack"])
    assert max(signal_to_noise(own, theirs) for theirs in results.values()) >= between_engines

    reference = converted(name, "qnnpack", state)
    given: dict[str, Tensor] = {}
    for each, module in reference.named_modules():
        module.register_forward_hook(lambda module, args, out, name=each: given.__setitem__(name, out))
    reference(images)
    differing = {}

    def follow(key: str, name: str) -> None:
        """Compare what a layer gives with theirs, and go on with theirs, so that differences do not add up."""

        def hook(module: Any, args: Any, out: Tensor) -> Tensor:
            steps = (out / module.scale).round() - given[name].dequantize().div(module.scale).round()
            differing[key] = float((steps != 0).float().mean()), float(steps.abs().max())
            return given[name].dequantize()

        quantization.value(key).register_forward_hook(hook)

    for key in quantization.placement.quantizers:
        owner = key.partition(":")[0]
        if key in quantization.placement.layers or (owner in given and not any(modules[owner].children())):
            follow(key, owner)
    model(images)
    assert differing.keys() >= {*quantization.placement.layers} - {layer.key}  # the last one's values are not rounded
    averages = {key for key in differing if "pool" in key}
    # Where the zero point is odd, half a step goes up by one and down by the other; means of few values have such.
    assert max((differing[key][0] for key in averages), default=0) < 0.1
    assert max(share for key, (share, _) in differing.items() if key not in averages) < 0.001
    assert max(step for _, step in differing.values()) <= 1


def test_averages_keep_the_scale_of_what_they_read_and_sums_have_their_own(tmp_path: Path) -> None:
    theirs = converted("resnet18", "fbgemm")
    torch.save(theirs.state_dict(), tmp_path / "int8.pth")
    model, checkpoint = loaded("resnet18", tmp_path / "int8.pth")
    found, lacking = value_parameters(quantization_of(model).placement, checkpoint)
    assert not lacking
    assert found["avgpool:adaptive_avg_pool2d:0"] == found["layer4.1:add_:0"] == checkpoint.values["layer4.1.add_relu"]
    assert found["images"] == checkpoint.values["quant"]
    torch.save({f"module.{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "wrapped.pth")
    again, _ = loaded("resnet18", tmp_path / "wrapped.pth")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("place", ["fc._packed_params", "fc"])
def test_files_from_before_2020_hold_a_linear_layers_weights_as_tensors(place: str, tmp_path: Path) -> None:
    state = dict(converted("resnet18", "fbgemm").state_dict())
    torch.save(state, tmp_path / "int8.pth")
    weight, bias = state.pop("fc._packed_params._packed_params")
    torch.save({**state, f"{place}.weight": weight, f"{place}.bias": bias}, tmp_path / "old.pth")
    images = torch.randn(2, 3, 64, 64)
    old, new = (loaded("resnet18", tmp_path / f"{name}.pth")[0](images) for name in ("old", "int8"))
    assert torch.equal(old, new)


WEIGHT = torch.ones(2, 3, 1, 1)
SOUND = {"zero_point": 0, "dtype": torch.qint8}


@pytest.mark.parametrize(
    ("weight", "beside", "message"),
    [
        ({**SOUND, "zero_point": 3}, {}, r"conv1\.weight has a zero point that is not 0"),
        ({**SOUND, "dtype": torch.quint8}, {}, r"conv1\.weight has type torch\.quint8; expected torch\.qint8"),
        (SOUND, {"conv1.bias": torch.tensor([0.0, torch.nan])}, "no sound number"),
        (SOUND, {"conv1.scale": torch.tensor(0.0)}, r"conv1 has scale 0\.0 and zero point 3; expected one of each"),
        (
            {"axis": 1},
            {},
            r"quantized by torch\.per_channel_affine; expected one scale, or one a channel of the output",
        ),
        (SOUND, {}, r"another network than ResNet: .* is missing"),
    ],
)
def test_what_cannot_be_taken_is_told(
    weight: dict[str, Any], beside: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    if "axis" in weight:
        tensor = torch.quantize_per_channel(WEIGHT, torch.ones(3), torch.zeros(3, dtype=torch.int64), 1, torch.qint8)
    else:
        tensor = torch.quantize_per_tensor(WEIGHT, 0.1, **weight)
    values = {"conv1.scale": torch.tensor(0.1), "conv1.zero_point": torch.tensor(3), **beside}
    torch.save({"conv1.weight": tensor, **values}, tmp_path / "int8.pth")
    with pytest.raises(UserError, match=message):
        loaded("resnet18", tmp_path / "int8.pth")
    with pytest.raises(
        UserError,
        match=r"is quantized \(torch\.q\w+\), and `anysize import` makes a run of torchvision's quantized networks",
    ):
        read_foreign(tmp_path / "int8.pth")
