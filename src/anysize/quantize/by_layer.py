"""What quantization does by layer: the noise in each, and the noise that each one brings to the result alone."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.surgery.quantization.placement import Layer
from anysize.tasks.base import main_logits


def signal_to_noise(signal: Tensor, other: Tensor) -> float:
    """Variance of a signal over the mean square of what another one differs from it, in dB.

    >>> round(signal_to_noise(torch.tensor([1.0, -1.0]), torch.tensor([1.1, -1.1])), 2)
    20.0
    """
    noise = (other.double() - signal.double()).square().mean().item()
    power = signal.double().var(correction=0).item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


@torch.no_grad()
def noise_in_layers(model: nn.Module, images: Tensor) -> dict[str, float]:
    """The signal-to-noise ratio (dB) of what each layer of a quantized model gives, by name: all that came before it
    is rounded too.

    `images` (N, C, H, W): a few, since the values of all layers are kept.
    """
    quantization = quantization_of(model)
    floats: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    def remember(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        floats[layer.key] = result.clone()  # an activation may work in place on it
        return result

    def compare(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        found[layer.name] = signal_to_noise(floats.pop(layer.key), result)
        return result

    try:
        quantization.rounds, quantization.on_layer = False, remember
        model(images)
        quantization.rounds, quantization.on_layer = True, compare
        model(images)
    finally:
        quantization.rounds, quantization.on_layer = True, None
    return found


@torch.no_grad()
def share_of_layers(
    model: nn.Module, images: Tensor, on_layer: Callable[[int, int], object] = lambda done, of: None
) -> dict[str, float]:
    """The mean square by which the results of the model change where one layer alone is quantized, by its name.

    That is its weights, what it reads and what it gives. `images` (N, C, H, W); a forward pass a layer.
    """
    quantization = quantization_of(model)
    layers = list(quantization.placement.layers.values())
    found = {}
    try:
        quantization.rounds = False
        expected = main_logits(model(images)).double()
        quantization.rounds = True
        for done, layer in enumerate(layers):
            quantization.only = (layer.key,)
            found[layer.name] = (main_logits(model(images)).double() - expected).square().mean().item()
            on_layer(done + 1, len(layers))
    finally:
        quantization.rounds, quantization.only = True, None
    return found


def worst_first(shares: Mapping[str, float]) -> list[str]:
    """The names of layers, the one that changes the results most first."""
    return sorted(shares, key=lambda name: -shares[name])
