"""Values and weights in whole numbers, and the observers that name their ranges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anysize.models.surgery.quantization.fake import fix_weights, quantization_of
from anysize.models.surgery.quantization.observers import OBSERVERS
from anysize.models.surgery.quantization.prepare import prepare
from anysize.models.surgery.quantization.quantizers import ValueQuantizer, WeightQuantizer


def quantize_linear(x: np.ndarray, scale: np.float32, zero: int) -> np.ndarray:
    """ONNX's QuantizeLinear to uint8 and DequantizeLinear, as their definition says."""
    whole = np.clip(np.rint(x / scale) + zero, 0, 255)
    return (whole.astype(np.int32) - zero).astype(np.float32) * scale


@given(st.integers(0, 2**32 - 1), st.floats(-4, 4), st.floats(0.01, 10))
def test_values_are_rounded_as_onnx_defines(seed: int, low: float, width: float) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * width
    quantizer = ValueQuantizer().eval()
    quantizer.set_range(torch.tensor(low), torch.tensor(low + width))
    zero, scale = int(quantizer.zero_point), quantizer.scale.numpy()[()]
    expected = quantize_linear(x.numpy(), scale, zero)
    np.testing.assert_array_equal(quantizer(x).numpy(), expected)
    assert quantizer(torch.zeros(1)).item() == 0  # padding is exact
    trained = x.clone().requires_grad_()
    quantizer(trained).sum().backward()
    inside = (x / scale).round().add(zero)
    assert torch.equal(trained.grad, ((inside >= 0) & (inside <= 255)).float())
    np.testing.assert_array_equal(quantizer(trained).detach().numpy(), expected)


def test_ranges_follow_the_values_in_training_alone() -> None:
    quantizer = ValueQuantizer()
    x = torch.tensor([-1.0, 3.0])
    assert torch.equal(quantizer.eval()(x), x)  # nothing is known yet
    quantizer.observing = True
    quantizer.train()(x)
    assert (quantizer.low, quantizer.high) == (-1, 3)
    quantizer(torch.tensor([-1.0, 13.0]))
    assert quantizer.high == pytest.approx(3.1)
    quantizer.eval()(torch.tensor([100.0]))
    quantizer.observing = False
    quantizer.train()(torch.tensor([100.0]))
    assert quantizer.high == pytest.approx(3.1)


@pytest.mark.parametrize("bits", [8, 7])
def test_weights_have_a_scale_a_channel(bits: int) -> None:
    weight = torch.tensor([[1.0, -2.0], [0.01, 0.02]])
    rounded, _ = WeightQuantizer(2, 0, bits).round(weight, None)
    steps = torch.tensor([[2.0], [0.02]]) / (2 ** (bits - 1) - 1)
    assert torch.allclose(rounded, (weight / steps).round() * steps)


def test_the_bias_of_a_channel_whose_weights_have_died_out_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    with torch.no_grad():
        model[0].weight[0] = 1e-25
        model[0].bias[:] = torch.tensor([0.7, -0.2])
    images = torch.rand(1, 1, 4, 4)
    before = model(images)
    prepare(model, images)
    quantization_of(model).value("images").set_range(torch.tensor(0.0), torch.tensor(1.0))
    fix_weights(model, images)
    assert torch.allclose(model(images), before, atol=0.01)


def error(observer: str, values: torch.Tensor) -> float:
    found = OBSERVERS[observer]()
    for part in values.split(2000):
        found.add(part)
    quantizer = ValueQuantizer().eval()
    quantizer.set_range(*map(torch.tensor, found.range()))
    return (quantizer(values) - values).square().mean().item()


def test_observers_differ_where_there_are_outliers() -> None:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    values[:2] = torch.tensor([40.0, -25.0])
    errors = {name: error(name, values) for name in OBSERVERS}
    assert errors["mse"] == min(errors.values())
    assert errors["mse"] < 0.7 * errors["minmax"]
    histogram = OBSERVERS["histogram"]()
    histogram.add(values)
    low, high = histogram.range()
    assert -6 < low < -3
    assert 3 < high < 6


def test_observers_agree_on_values_that_fill_their_range() -> None:
    values = torch.linspace(0, 6, 20_001)[torch.randperm(20_001, generator=torch.Generator().manual_seed(0))]
    for name in ("minmax", "mse", "histogram"):
        observer = OBSERVERS[name]()
        for part in (values[values < 0.1], values):  # the bins widen
            observer.add(part)
        low, high = observer.range()
        assert low == 0
        assert high == pytest.approx(6, abs=0.07)


def test_an_observer_of_zeros_has_a_range() -> None:
    for name in OBSERVERS:
        observer = OBSERVERS[name]()
        observer.add(torch.zeros(10))
        low, high = observer.range()
        assert low <= 0 <= high
