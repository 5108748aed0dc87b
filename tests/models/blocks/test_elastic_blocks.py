"""Blocks of the Elastic networks against a float64 reference in numpy that follows the published steps, at any size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.models.families.densenet import ElasticDenseLayer
from anysize.models.families.dla import DlaUp, ElasticBlock, bilinear_upsampling
from anysize.models.families.elastic_resnext import ResNeXtBlock
from conformance.fill import fill_model

SIZES = [(8, 8), (7, 7), (7, 8), (9, 6), (5, 11), (2, 1), (1, 1)]
State = dict[str, np.ndarray]


def convolution(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution that pads with zeros to keep the sides; groups follow from the weight's shape."""
    outputs, width, kernel, _ = weight.shape
    groups, margin = x.shape[1] // width, kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    height, breadth = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    out = np.zeros((len(x), outputs, height, breadth))
    each = outputs // groups
    for group in range(groups):
        filters = weight[group * each : (group + 1) * each]
        part = padded[:, group * width : (group + 1) * width]
        for i in range(kernel):
            for j in range(kernel):
                seen = part[:, :, i : i + stride * height : stride, j : j + stride * breadth : stride]
                out[:, group * each : (group + 1) * each] += np.einsum("nchw,oc->nohw", seen, filters[:, :, i, j])
    return out


def norm(x: np.ndarray, state: State, name: str) -> np.ndarray:
    mean, var, weight, bias = (
        state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def halved(x: np.ndarray) -> np.ndarray:
    """The last row and column of odd sides repeated, then the average of each 2x2."""
    x = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2)), mode="edge")
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def doubled(x: np.ndarray) -> np.ndarray:
    """Bilinear interpolation to twice the sides, the corners of pixels aligned."""
    for axis in (2, 3):
        length = x.shape[axis]
        places = np.clip((np.arange(2 * length) + 0.5) / 2 - 0.5, 0, length - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, length - 1)
        part = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def branch(x: np.ndarray, state: State, suffix: str, stride: int) -> np.ndarray:
    x = relu(norm(convolution(x, state[f"conv1{suffix}.weight"]), state, f"bn1{suffix}"))
    x = relu(norm(convolution(x, state[f"conv2{suffix}.weight"], stride), state, f"bn2{suffix}"))
    return convolution(x, state[f"conv3{suffix}.weight"])


def two_branches(x: np.ndarray, state: State, stride: int, elastic: bool) -> np.ndarray:
    low = branch(halved(x) if elastic else x, state, "_d", stride)
    if elastic:
        low = doubled(low)[:, :, : x.shape[2], : x.shape[3]]
    return norm(branch(x, state, "", stride) + low, state, "bn3")


def values(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, channels, height, width))


def prepared(module: nn.Module) -> tuple[nn.Module, State]:
    fill_model(module).double().eval()
    return module, {key: value.numpy() for key, value in module.state_dict().items()}


def close(ours: Tensor, expected: np.ndarray) -> None:
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize(("elastic", "stride"), [(True, 1), (False, 1), (False, 2)])
def test_resnext_block(size: tuple[int, int], se: bool, elastic: bool, stride: int) -> None:
    block, state = prepared(
        ResNeXtBlock(24, 16, 4, stride=stride, dilation=1, elastic=elastic, squeeze_excite=se, project=True)
    )
    x = values(*size, 24)
    expected = two_branches(x, state, stride, elastic)
    if se:
        gate = relu(
            convolution(expected.mean((2, 3), keepdims=True), state["selayer.conv1.weight"])
            + state["selayer.conv1.bias"][:, None, None]
        )
        gate = convolution(gate, state["selayer.conv2.weight"]) + state["selayer.conv2.bias"][:, None, None]
        expected = expected / (1 + np.exp(-gate))
    shortcut = norm(convolution(x, state["downsample.0.weight"], stride), state, "downsample.1")
    close(block(torch.from_numpy(x)), relu(expected + shortcut))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("elastic", "stride"), [(True, 1), (True, 2), (False, 1)])
def test_dla_block(size: tuple[int, int], elastic: bool, stride: int) -> None:
    """The shortcut is given; a block that halves the resolution is not elastic."""
    block, state = prepared(ElasticBlock(24, 32, stride, cardinality=8, elastic=elastic))
    x = values(*size, 24)
    expected = two_branches(x, state, stride, elastic and stride == 1)
    residual = np.cos(expected)
    close(block(torch.from_numpy(x), torch.from_numpy(residual)), relu(expected + residual))


@pytest.mark.parametrize("size", [*SIZES, (8, 7), (14, 14)])
def test_dense_layer(size: tuple[int, int]) -> None:
    """Both branches have the full resolution where the maps are 7 high, whatever their width."""
    layer, state = prepared(ElasticDenseLayer(24, growth=8, width=32, dropout=0.0))
    x = values(*size, 24)
    shared = relu(norm(x, state, "norm1"))
    elastic = size[0] != 7

    def half(x: np.ndarray, suffix: str) -> np.ndarray:
        x = relu(norm(convolution(x, state[f"conv1{suffix}.weight"]), state, f"norm2{suffix}"))
        return convolution(x, state[f"conv2{suffix}.weight"])

    low = half(halved(shared) if elastic else shared, "_d")
    low = doubled(low)[:, :, : size[0], : size[1]] if elastic else low
    close(layer(torch.from_numpy(x)), half(shared, "") + low)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (17, 5), (1, 1)])
def test_levels_are_merged_upwards_as_published(size: tuple[int, int]) -> None:
    """Step by step for five levels: which are merged into which, and cut to which sides."""
    channels = [4, 6, 8, 10, 12]
    model, _ = prepared(DlaUp(channels))
    state = model.state_dict()
    levels = [
        torch.from_numpy(values(-(-size[0] // 2**i), -(-size[1] // 2**i), width)) for i, width in enumerate(channels)
    ]

    def unit(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.0.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        statistics = (state[f"{name}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics).relu()

    def merge(fine: Tensor, coarse: Tensor, step: int, i: int) -> Tensor:
        if f"ida_{step}.proj_{i}.0.weight" in state:
            coarse = unit(coarse, f"ida_{step}.proj_{i}")
        up = state[f"ida_{step}.up_{i}.weight"]
        coarse = F.conv_transpose2d(coarse, up, stride=2, padding=1, groups=len(up))
        coarse = coarse[:, :, : fine.shape[2], : fine.shape[3]]
        return unit(torch.cat((fine, coarse), 1), f"ida_{step}.node_{i}")

    l1, l2, l3, l4, l5 = levels
    a = merge(l4, l5, 0, 1)
    b1 = merge(l3, l4, 1, 1)
    b2 = merge(b1, a, 1, 2)
    c1 = merge(l2, l3, 2, 1)
    c2 = merge(c1, b1, 2, 2)
    c3 = merge(c2, b2, 2, 3)
    d1 = merge(l1, l2, 3, 1)
    d2 = merge(d1, c1, 3, 2)
    d3 = merge(d2, c2, 3, 3)
    d4 = merge(d3, c3, 3, 4)
    close(model(levels), d4.numpy())


def test_upsampling_starts_as_bilinear_interpolation() -> None:
    x = torch.from_numpy(values(6, 5, 3))
    for factor in (2, 4):
        ours = bilinear_upsampling(3, factor).double()(x).detach()
        expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        inner = (..., slice(factor, -factor), slice(factor, -factor))  # outside of the image are zeros
        torch.testing.assert_close(ours[inner], expected[inner], rtol=0, atol=1e-12)
