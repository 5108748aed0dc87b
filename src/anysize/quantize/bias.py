"""Bias correction: rounding shifts the mean of a channel; the bias takes the shift back.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (arXiv 1906.04721), section 4.2,
with means that are measured.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.surgery.quantization.placement import Layer


@torch.no_grad()
def correct_biases(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Shift the biases of a model with fixed weights so that each layer's channels have the means of the float model.

    Layer by layer in the order of the forward pass, each behind layers that are corrected already, in one pass over
    `batches`, images (N, C, H, W), as one batch where their sizes are alike.
    """
    quantization = quantization_of(model)
    shapes = {batch.shape[1:] for batch in batches}
    images = torch.cat(list(batches)) if len(shapes) == 1 else batches[0]
    means: dict[str, Tensor] = {}

    def remember(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        means[layer.key] = _mean(result, _channels(layer))
        return result

    def correct(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        quantizer, dim = quantization.weight(layer.key), _channels(layer)
        if quantizer.bias is None:
            return result
        unit = quantizer.bias_unit(len(quantizer.bias), quantization.source(layer).scale)
        shift = ((means[layer.key] - _mean(result, dim)) / unit).round()
        quantizer.bias = quantizer.bias + shift.to(torch.int32)
        moved = shift * unit
        return result + (moved if dim == -1 else moved.view(-1, *[1] * (result.dim() - 2)))

    quantization.rounds, quantization.on_layer = False, remember
    model(images)
    quantization.rounds, quantization.on_layer = True, correct
    model(images)
    quantization.on_layer = None


def _channels(layer: Layer) -> int:
    """The dimension of a layer's outputs that counts channels."""
    return -1 if layer.function == "linear" else 1


def _mean(values: Tensor, dim: int) -> Tensor:
    """The mean of each channel, which `dim` counts."""
    return values.movedim(dim, 0).flatten(1).mean(1)
