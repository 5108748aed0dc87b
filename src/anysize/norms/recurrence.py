"""The two linear recurrences of Online Normalization over the samples of a batch, without a loop over samples.

Both return the value before each sample, because a sample is normalised by what was known before it, and the value
after the last. They run in the dtype of their arguments; the backends hand over float64.
"""

import functools

import torch
from torch import Tensor

_BLOCK = 256  # samples solved by one triangular product; its matrix grows with the square


def constant_decay(start: Tensor, inputs: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Solve x[n + 1] = decay x[n] + inputs[n] from x[0] = start.

    One product with a triangular matrix of powers of `decay` for every 256 samples.

    Args:
        start: (C,).
        inputs: (N, C).
        decay: in (0, 1].

    Returns:
        x[0] to x[N - 1] as (N, C), and x[N] as (C,).

    >>> before, after = constant_decay(torch.tensor([1.0]), torch.tensor([[2.0], [4.0]]), 0.5)
    >>> before.tolist(), after.tolist()
    ([[1.0], [2.5]], [5.25])
    """
    if len(inputs) == 1:
        return start[None].clone(), torch.add(inputs[0], start, alpha=decay)
    parts = []
    for begin in range(0, len(inputs), _BLOCK):
        block = inputs[begin : begin + _BLOCK]
        matrix, powers = _powers(len(block), decay, block.dtype, block.device)
        values = torch.addmm(powers * start, matrix, block)
        parts.append(values[:-1])
        start = values[-1]
    return parts[0] if len(parts) == 1 else torch.cat(parts), start


@functools.lru_cache(maxsize=64)
def _powers(length: int, decay: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(length + 1, length) lower triangle of powers of `decay`, and its powers from 0 to `length` as a column."""
    row = torch.arange(length + 1, dtype=torch.float64)
    exponent = row[:, None] - 1 - row[None, :-1]
    base = torch.tensor(decay, dtype=torch.float64)
    triangle = torch.where(exponent >= 0, base ** exponent.clamp(min=0), 0.0)
    return triangle.to(device, dtype), (base**row)[:, None].to(device, dtype)


def varying_decay(start: Tensor, decays: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve x[n + 1] = decays[n] x[n] + inputs[n] from x[0] = start.

    A scan of log2(N) steps that doubles the distance (Hillis and Steele 1986). It takes no logarithms, hence decays of
    any sign.

    Args:
        start: (C,).
        decays, inputs: (N, C).

    Returns:
        x[0] to x[N - 1] as (N, C), and x[N] as (C,).

    >>> before, after = varying_decay(torch.ones(1), torch.tensor([[-1.0], [0.5]]), torch.tensor([[2.0], [4.0]]))
    >>> before.tolist(), after.tolist()
    ([[1.0], [1.0]], [4.5])
    """
    length, step = len(inputs), 1
    values = inputs.clone()
    values[0].addcmul_(decays[0], start)
    while step < length:
        values = torch.cat([values[:step], torch.addcmul(values[step:], decays[step:], values[:-step])])
        if 2 * step < length:
            decays = torch.cat([decays[:step], decays[step:] * decays[:-step]])
        step *= 2
    return torch.cat([start[None], values[:-1]]), values[-1]


__all__ = ["constant_decay", "varying_decay"]
