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
    Transformers, arXiv 2210.17323, algorithm 1), with the weights of the largest inputs first. It is computed without
    an inverse, as Babai's nearest plane (Chen et al., The Geometry of LLM Quantization, arXiv 2507.18553): with
    moments = R R^T, R upper triangular, and errors e of the weights before it, weight j aims at
    w_j + sum over i < j of e_i R_ij / R_jj.

    >>> correlated = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    >>> compensated(torch.tensor([[[0.44, 0.44]]]), torch.tensor([[1.0]]), 7, correlated).sum()
    tensor(1.)
    """
    groups, outputs, count = weight.shape
    moments = moments.to(weight.device, torch.float64)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    rows = order[:, :, None].expand(groups, count, count)
    damping = _DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    moments = moments.gather(1, rows).gather(2, rows.transpose(1, 2))
    moments.diagonal(dim1=1, dim2=2).add_(damping)
    upper = torch.linalg.cholesky(moments.flip(1, 2)).flip(1, 2)
    passed_on = upper / upper.diagonal(dim1=1, dim2=2)[:, None]

    along = order[:, :, None].expand(groups, count, outputs)
    wanted, step = weight.double().transpose(1, 2).gather(1, along), scale.double()
    aim, whole = wanted.clone(), torch.empty_like(wanted)
    for start in range(0, count, _BLOCK):
        end = min(count, start + _BLOCK)
        errors = torch.empty_like(wanted[:, start:end])
        for i in range(start, end):
            whole[:, i] = (aim[:, i] / step).round().clamp(-largest, largest)
            errors[:, i - start] = error = wanted[:, i] - whole[:, i] * step
            aim[:, i + 1 : end] += passed_on[:, i, i + 1 : end, None] * error[:, None]
        aim[:, end:] += passed_on[:, start:end, end:].transpose(1, 2) @ errors
    return torch.empty_like(whole).scatter_(1, along, whole).to(weight.dtype).transpose(1, 2).contiguous()
