"""Weights to whole numbers: each to the nearest, or so that the errors of a layer's weights make up for each other."""

import torch
from torch import Tensor

_BLOCK = 64
_DAMPING = 0.01


def nearest(weight: Tensor, scale: Tensor, largest: int) -> Tensor:
    """Weights (G, O, K) over `scale` (G, O) as the nearest whole numbers of at most `largest`.

    >>> nearest(torch.tensor([[[0.24, -0.4, 9.0]]]), torch.tensor([[0.1]]), 7)
    tensor([[[ 2., -4.,  7.]]])
    """
    return (weight / scale[..., None]).round().clamp(-largest, largest)


def compensated(weight: Tensor, scale: Tensor, largest: int, moments: Tensor) -> Tensor:
    """Weights (G, O, K) over `scale` (G, O) as whole numbers whose outputs differ little from those of the weights.

    Each weight of an output is rounded in turn, and what it loses is made up for by those that are not rounded yet, in
    the way that changes the outputs least on the data of `moments` (G, K, K), the sums of products of what the layer
    reads. That is GPTQ (Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers, arXiv 2210.17323, algorithm 1), with the weights of the largest inputs first.

    >>> correlated = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    >>> compensated(torch.tensor([[[0.44, 0.44]]]), torch.tensor([[1.0]]), 7, correlated).sum()
    tensor(1.)
    """
    groups, outputs, count = weight.shape
    moments = moments.to(weight.device, torch.float64)
    mean = moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    order = moments.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows = order[:, :, None].expand(groups, count, count)
    moments = moments.gather(1, rows).gather(2, rows.transpose(1, 2))
    moments = moments + torch.diag_embed((_DAMPING * mean)[:, None].expand(groups, count))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    upper = torch.linalg.cholesky(inverse, upper=True)

    along = order[:, None].expand(groups, outputs, count)
    left, step = weight.double().gather(2, along), scale.double()
    whole = torch.empty_like(left)
    for start in range(0, count, _BLOCK):
        end = min(count, start + _BLOCK)
        errors = torch.zeros_like(left[:, :, start:end])
        for i in range(start, end):
            whole[:, :, i] = (left[:, :, i] / step).round().clamp(-largest, largest)
            error = (left[:, :, i] - whole[:, :, i] * step) / upper[:, i, i, None]
            left[:, :, i + 1 : end] -= error[:, :, None] * upper[:, None, i, i + 1 : end]
            errors[:, :, i - start] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return whole.gather(2, order.argsort(1)[:, None].expand(groups, outputs, count)).to(weight.dtype)
