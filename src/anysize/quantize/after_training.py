"""int8 after training: any model, some images, and the same model in whole numbers.

    quantized = quantize_model(model, batches)

The images tell the ranges of values (observers) and what the layers read (moments, for the rounding of weights). They
need no labels.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from anysize.models.checks import check_is_model
from anysize.models.surgery.quantization.fake import Quantization, no_bias, quantization_of, weights_of
from anysize.models.surgery.quantization.observers import OBSERVERS
from anysize.models.surgery.quantization.prepare import prepare
from anysize.quantize.bias import correct_biases
from anysize.quantize.moments import Moments
from anysize.quantize.rounding import compensated, nearest
from anysize.registry import NotFinite, UserError, did_you_mean
from anysize.tasks.base import main_logits

ROUNDINGS = ("compensated", "nearest")
_FOR_BIASES = 128
"""Images by which biases are corrected."""


@dataclasses.dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized.

    Args:
        observer: of the ranges of values: "mse", "histogram", "minmax" or "moving_average".
        rounding: of weights: "compensated", or each to the "nearest".
        bits: of weights: 8, or 7 for processors that add products up in 16 bits.
        keep: patterns of the names of layers that stay in float.
        correct_bias: shift the channels of each layer to the mean that they have in float.
    """

    observer: str = "mse"
    rounding: str = "compensated"
    bits: int = 8
    keep: tuple[str, ...] = ()
    correct_bias: bool = False

    def __post_init__(self) -> None:
        OBSERVERS[self.observer]
        if self.rounding not in ROUNDINGS:
            raise UserError(f"unknown rounding {self.rounding!r}: {did_you_mean(self.rounding, ROUNDINGS)}")
        if self.bits not in (7, 8):
            raise UserError(f"bits are {self.bits}; expected 8, or 7 for processors that add products up in 16 bits")


def quantize_model(
    model: nn.Module, batches: Iterable[Tensor], options: QuantizeOptions | None = None,
    on_batch: Callable[[int], object] = lambda images: None,
) -> nn.Module:  # fmt: skip
    """A copy of `model` that computes in whole numbers of 8 bits, as ONNX's QuantizeLinear and DequantizeLinear do.

    Norms are folded into layers first. The copy, for evaluation, still is a module of PyTorch that takes and gives
    float32; `anysize.export` writes it down for runtimes, which compute with the integers themselves.

    Args:
        model: any module that maps images (N, C, H, W) to a tensor or to several; it is not changed.
        batches: images as the model takes them, of one size or of several.
        options: None: the defaults.
        on_batch: called with the number of images that have been looked at.

    Raises:
        UserError: there are no images, values that are not finite, or no layer that can be quantized.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    >>> images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> difference = quantize_model(model, [images])(images) - model.eval()(images)
    >>> bool(difference.abs().max() < 0.05)
    True
    """
    check_is_model("quantize_model", model)
    options = options or QuantizeOptions()
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise UserError("there are no images to calibrate with; expected at least one batch (N, C, H, W)")
    quantized = copy.deepcopy(getattr(model, "_orig_mod", model)).eval()  # of torch.compile
    prepare(quantized, first[:1], bits=options.bits, keep=options.keep)
    quantization = quantization_of(quantized)
    observers = {name: OBSERVERS[options.observer]() for name in quantization.placement.quantizers}
    moments = Moments()
    quantization.rounds = False
    quantization.on_value = lambda name, values: observers[name].add(_finite(name, values))
    quantization.on_layer = moments if options.rounding == "compensated" else None
    seen, kept = 0, []
    with torch.no_grad():
        for images in itertools.chain([first], iterator):
            _finite("the output", main_logits(quantized(images)))
            if options.correct_bias and seen < _FOR_BIASES:
                kept.append(images[: _FOR_BIASES - seen])
            seen += len(images)
            on_batch(seen)
    quantization.rounds, quantization.on_value, quantization.on_layer = True, None, None
    for name, observer in observers.items():
        quantization.value(name).set_range(*map(torch.tensor, observer.range()))
    _fix_weights(quantized, quantization, moments, first[:1], biases=options.correct_bias)
    if options.correct_bias:
        correct_biases(quantized, kept)
    return quantized


def _finite(name: str, values: Tensor) -> Tensor:
    if not all(end.isfinite() for end in values.aminmax()):
        raise NotFinite(f"there are values that are not finite at {name}; expected a trained model and sound images")
    return values


@torch.no_grad()
def with_layers_in_float(model: nn.Module, quantized: nn.Module, images: Tensor, keep: Sequence[str]) -> nn.Module:
    """As `quantized`, which `quantize_model` has made of `model`, but with the layers `keep` in float.

    Everything else stays as it was rounded. `images` as `prepare` takes them.
    """
    before = quantization_of(quantized)
    again = copy.deepcopy(getattr(model, "_orig_mod", model)).eval()
    now = quantization_of(prepare(again, images, bits=before.bits, keep=keep))
    for name in now.placement.quantizers:
        now.value(name).load_state_dict(before.value(name).state_dict())
    for key in now.placement.layers:
        now.weight(key).load_state_dict(before.weight(key).state_dict())
    return again


@torch.no_grad()
def _fix_weights(
    model: nn.Module, quantization: Quantization, moments: Moments, images: Tensor, *, biases: bool
) -> None:
    """Round the weights of all layers for good; with `biases` all have one."""
    for key, (weight, bias) in weights_of(model, images).items():
        quantizer = quantization.weight(key)
        if biases and bias is None:
            bias = no_bias(weight, quantizer)
        source = quantization.source(quantization.placement.layers[key]).scale
        scale, seen = quantizer.scales_for(weight, bias, source), moments.take(key)
        if seen is None:
            whole = nearest(weight.transpose(0, quantizer.channel_dim).flatten(1)[None], scale[None], quantizer.largest)
            first = weight.transpose(0, quantizer.channel_dim)
            whole = whole.view(first.shape).transpose(0, quantizer.channel_dim)
        else:
            groups, count = seen.shape[:2]
            rows = weight.reshape(groups, -1, count)
            whole = compensated(rows, scale.view(groups, -1), quantizer.largest, seen).view(weight.shape)
        quantizer.fix(whole, scale, bias, source)
