"""int8 after training: what any model gives in whole numbers, and what rounding costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anysize
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.surgery.quantization.observers import OBSERVERS
from anysize.quantize.after_training import QuantizeOptions, quantize_model, with_layers_in_float
from anysize.quantize.by_layer import noise_in_layers, share_of_layers, signal_to_noise, worst_first
from anysize.quantize.rounding import compensated, nearest
from anysize.registry import UserError

IMAGES = torch.nn.functional.interpolate(  # not noise alone, or all images would be alike
    torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(0)), size=48, mode="bilinear"
)


def settled(name: str, **options: Any) -> nn.Module:
    """A network as after a training: norms of a shallow one have seen images; in a deep one all would become noise."""
    torch.manual_seed(0)
    model = anysize.create_model(name, num_classes=10, **options)
    if name.startswith("resnet"):
        anysize.calibrate_batch_norm(model, [IMAGES])
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {}),
        ("resnet8", {"elasticize": "auto"}),
        ("resnet8", {"norm": "online"}),
        ("mobilenet_v2", {"width_mult": 0.25}),
        pytest.param("shufflenet_v2_x0_5", {}, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_the_outputs_are_near_those_in_float(name: str, options: dict[str, Any]) -> None:
    model = settled(name, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = quantize_model(model, IMAGES.split(8))
    assert signal_to_noise(model(IMAGES), quantized(IMAGES)) > 18
    assert not quantization_of(quantized).placement.kept
    sizes = torch.rand(2, 3, 48, 40)
    assert quantized(sizes).shape == model(sizes).shape
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())  # the model is not changed


@torch.no_grad()
def test_compensated_rounding_changes_the_outputs_less() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 12, 12, generator=generator)
    inputs = mixing @ torch.randn(2, 12, 400, generator=generator)  # correlated, as what layers read is
    weight = torch.randn(2, 5, 12, generator=generator)
    scale = weight.abs().amax(2) / 15
    whole = compensated(weight, scale, 15, inputs @ inputs.transpose(1, 2))
    assert torch.equal(whole, whole.round())
    assert whole.is_contiguous()  # of two groups, which the layer's shape joins
    assert whole.abs().max() <= 15

    def error(rounded: Tensor) -> float:
        return ((rounded * scale[..., None] - weight) @ inputs).square().mean().item()

    assert error(whole) < 0.6 * error(nearest(weight, scale, 15))


def test_compensated_rounding_is_that_of_the_paper() -> None:
    """Algorithm 1 of GPTQ as it is written, with the inverse, its weights in the order of the largest inputs."""
    generator = torch.Generator().manual_seed(0)
    weight, largest, count = torch.randn(1, 6, 150, generator=generator), 7, 150
    inputs = torch.randn(150, 150, generator=generator) @ torch.randn(150, 400, generator=generator)
    scale, moments = weight.abs().amax(2) / largest, (inputs @ inputs.T).double()

    order = moments.diagonal().argsort(descending=True)
    sorted_moments = moments[order][:, order] + 0.01 * moments.diagonal().mean() * torch.eye(count)
    inverse = torch.linalg.cholesky(torch.linalg.inv(sorted_moments), upper=True)
    left, expected = weight[0].double()[:, order], torch.empty(6, count)
    for i in range(count):
        expected[:, order[i]] = (left[:, i] / scale[0]).round().clamp(-largest, largest).float()
        error = (left[:, i] - expected[:, order[i]] * scale[0]) / inverse[i, i]
        left[:, i:] -= error[:, None] * inverse[i, i:]
    assert torch.equal(compensated(weight, scale, largest, moments.float()[None])[0], expected)


@pytest.mark.slow
@torch.no_grad()
def test_the_options_are_worth_what_they_say() -> None:
    model = settled("resnet20")
    expected = model(IMAGES)

    def noise(**options: Any) -> float:
        return (quantize_model(model, [IMAGES], QuantizeOptions(**options))(IMAGES) - expected).square().mean().item()

    plain = noise(rounding="nearest")
    assert noise() < plain
    assert noise(rounding="nearest", bits=7) > 1.5 * plain
    biased = (quantize_model(model, [IMAGES], QuantizeOptions(rounding="nearest"))(IMAGES) - expected).mean(0)
    options = QuantizeOptions(rounding="nearest", correct_bias=True)
    corrected = (quantize_model(model, [IMAGES], options)(IMAGES) - expected).mean(0)
    assert corrected.abs().mean() < 0.5 * biased.abs().mean()


@torch.no_grad()
def test_layers_are_measured_and_the_worst_is_kept_in_float() -> None:
    model = settled("resnet8")
    model.layer2[0].conv1.weight[0] *= 40  # one output, so that the scale of a layer's values fits no other
    anysize.calibrate_batch_norm(model, [IMAGES])
    quantized = quantize_model(model, [IMAGES])
    noise, shares = noise_in_layers(quantized, IMAGES[:8]), share_of_layers(quantized, IMAGES[:8])
    names = [layer.name for layer in quantization_of(quantized).placement.layers.values()]
    assert list(noise) == list(shares) == names
    worst = worst_first(shares)
    assert shares[worst[0]] == max(shares.values())
    expected = model(IMAGES)
    kept = with_layers_in_float(model, quantized, IMAGES[:1], worst[:3])
    assert set(quantization_of(kept).placement.kept) == set(worst[:3])
    assert signal_to_noise(expected, kept(IMAGES)) > signal_to_noise(expected, quantized(IMAGES))


def test_bad_input_is_one_sentence() -> None:
    model = settled("resnet8")
    with pytest.raises(UserError, match="no images to calibrate with"):
        quantize_model(model, [])
    with pytest.raises(UserError, match="values that are not finite at images"):
        quantize_model(model, [IMAGES * float("nan")])
    with pytest.raises(UserError, match="bits are 4; expected 8, or 7"):
        QuantizeOptions(bits=4)
    with pytest.raises(UserError, match="unknown observer 'mean'"):
        QuantizeOptions(observer="mean")
    with pytest.raises(UserError, match="unknown rounding 'nearst': did you mean 'nearest'"):
        QuantizeOptions(rounding="nearst")
    assert len(OBSERVERS) == 4


class Filled(nn.Module):
    """Reads a tensor that it has filled in part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        wide = x.new_zeros(len(x), 8, *x.shape[2:])
        wide[:, 2:6] = x
        return self.second(wide)


class Twice(nn.Module):
    """Has one norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Masked(nn.Module):
    """Multiplies by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x * (x > 0)


UNUSUAL: dict[str, nn.Module] = {
    "filled": Filled(),
    "twice": Twice(),
    "masked": Masked(),
    "transposed": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2, groups=2)),
    "tokens": nn.Sequential(nn.Flatten(2), nn.Linear(48 * 48, 6), nn.GELU(), nn.Linear(6, 6)),
    "no biases": nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False)),
}


@pytest.mark.parametrize("name", UNUSUAL)
@torch.no_grad()
def test_unusual_models_are_near_those_in_float(name: str) -> None:
    model = UNUSUAL[name]
    anysize.calibrate_batch_norm(model, [IMAGES]) if name == "twice" else None
    expected = model.eval()(IMAGES)
    for correct in (False, True):
        quantized = quantize_model(model, [IMAGES], QuantizeOptions(correct_bias=correct))
        assert signal_to_noise(expected, quantized(IMAGES)) > 25
    placement = quantization_of(quantized).placement
    assert len(placement.layers) + len(placement.kept) == sum(
        hasattr(module, "weight") and not isinstance(module, nn.BatchNorm2d) for module in model.modules()
    )


@torch.no_grad()
def test_corrected_biases_are_saved_and_loaded() -> None:
    spec = anysize.ModelSpec("resnet8", num_classes=5, image_size=16).swap_norms("group")  # its layers have no biases
    quantized = quantize_model(spec.build(), [IMAGES], QuantizeOptions(correct_bias=True))
    again = spec.quantized(biases=True).build()
    again.load_state_dict(quantized.state_dict())
    assert torch.equal(again.eval()(IMAGES), quantized(IMAGES))
