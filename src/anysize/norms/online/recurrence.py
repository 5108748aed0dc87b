"""The two linear recurrences of Online Normalization over the samples of a batch, without a loop over samples.

Both return the value before each sample (N, C), because a sample is normalised by what was known before it, and the
value after the last (C,). They run in the dtype of their arguments; the backends hand over float64.
"""

import functools
import math

import torch
from torch import Tensor

_BLOCK = 32  # samples solved by one triangular product; its matrix grows with the square


def constant_decay(start: Tensor, inputs: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Solve x[n + 1] = decay x[n] + inputs[n] from x[0] = start; `start` is (C,), `inputs` (N, C), `decay` in (0, 1].

    One product with a triangular matrix of powers of `decay` for every 32 samples.

    >>> before, after = constant_decay(torch.tensor([1.0]), torch.tensor([[2.0], [4.0]]), 0.5)
    >>> before.tolist(), after.tolist()
    ([[1.0], [2.5]], [5.25])
    """
    if len(inputs) == 1:
        return start[None].clone(), torch.add(inputs[0], start, alpha=decay)
    if inputs.is_meta:  # shapes alone: the product below is a way to solve it, and no FLOPs of the network
        return torch.empty_like(inputs), torch.empty_like(start)
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
    row = torch.arange(length + 1, dtype=torch.float64, device="cpu")
    exponent = row[:, None] - 1 - row[None, :-1]
    base = torch.tensor(decay, dtype=torch.float64, device="cpu")
    triangle = torch.where(exponent >= 0, base ** exponent.clamp(min=0), 0.0)
    return triangle.to(device, dtype), (base**row)[:, None].to(device, dtype)


def varying_decay(start: Tensor, decays: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve x[n + 1] = decays[n] x[n] + inputs[n] from x[0] = start; `start` is (C,), `decays` and `inputs` (N, C).

    The samples are cut into about sqrt(N) runs of equal length. All runs take their steps together, then each run's
    start follows from the one before, in about 2 sqrt(N) small operations. No logarithms are taken: decays may have
    any sign.

    >>> before, after = varying_decay(torch.ones(1), torch.tensor([[-1.0], [0.5]]), torch.tensor([[2.0], [4.0]]))
    >>> before.tolist(), after.tolist()
    ([[1.0], [1.0]], [4.5])
    """
    samples, channels = inputs.shape
    if samples == 1:
        return start[None].clone(), torch.addcmul(inputs[0], decays[0], start)
    length = math.isqrt(samples - 1) + 1
    runs = -(-samples // length)
    if runs * length > samples:  # steps that change nothing
        rest = runs * length - samples
        decays = torch.cat([decays, decays.new_ones(rest, channels)])
        inputs = torch.cat([inputs, inputs.new_zeros(rest, channels)])
    decays, inputs = decays.view(runs, length, channels), inputs.view(runs, length, channels)
    # within a run: x[n] = product[n] x[first of the run] + sum[n]
    products, sums = torch.ones_like(decays), torch.zeros_like(inputs)
    for step in range(1, length):
        torch.mul(products[:, step - 1], decays[:, step - 1], out=products[:, step])
        torch.addcmul(inputs[:, step - 1], sums[:, step - 1], decays[:, step - 1], out=sums[:, step])
    ends = torch.addcmul(inputs[:, -1], sums[:, -1], decays[:, -1])
    through = products[:, -1] * decays[:, -1]
    starts = torch.empty(runs + 1, 1, channels, dtype=inputs.dtype, device=inputs.device)
    starts[0, 0] = start
    for run in range(runs):
        torch.addcmul(ends[run], through[run], starts[run, 0], out=starts[run + 1, 0])
    before = sums.addcmul_(products, starts[:-1]).view(-1, channels)
    return before[:samples], starts[-1, 0]
