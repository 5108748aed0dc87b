"""Weights and images by formula, so that two implementations with the same names and shapes can be compared.

Each value depends on the name of its tensor and its place in it alone: splitmix64's last step, over the CRC-32 of the
name and the index.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def unit(name: str, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), a function of `name`."""
    with np.errstate(over="ignore"):
        z = (np.uint64(zlib.crc32(name.encode())) << np.uint64(32)) ^ np.arange(count, dtype=np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of the entry `name` of a state_dict, in float32; a count of batches is zero."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = unit(name, int(np.prod(shape)))
    if name.endswith(("running_mean", "bias")):
        value = 0.1 * (2 * u - 1)
    elif name.endswith("running_var"):
        value = 0.5 + u
    elif len(shape) > 1:
        value = (2 * u - 1) * np.sqrt(6.0 / np.prod(shape[1:]))
    else:  # of norms; small where a residual branch ends, so that the sums stay small
        value = (0.5 + u) * (0.2 if name.endswith("bn3.weight") else 1.0)
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


def fill_model(model: nn.Module) -> nn.Module:
    """Fill a model, its running statistics included; one on the meta device comes to life on the CPU."""
    state = {key: fill(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=any(p.is_meta for p in model.parameters()))
    return model


def make_input(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Images (batch, channels, height, width): blocks of 32 pixels and noise on them, of unit variance together."""
    shape, cells = (batch, channels, height, width), (batch, channels, -(-height // 32), -(-width // 32))
    fine, coarse = (
        np.sqrt(3.0) * (2 * unit("input:{}:{}x{}x{}x{}".format(kind, *dims), int(np.prod(dims))) - 1).reshape(dims)
        for kind, dims in (("fine", shape), ("coarse", cells))
    )
    coarse = coarse.repeat(32, axis=2).repeat(32, axis=3)[:, :, :height, :width]
    return torch.from_numpy((0.8 * coarse + 0.6 * fine).astype(np.float32))
