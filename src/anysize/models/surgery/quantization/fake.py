"""The forward pass of a model in rounded numbers: fake quantization, in place, of any model.

quantization = fake_quantize(model, place(record(model, images)))
model(images)                                # rounds values and weights, with gradients straight through
"""

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.onnx_words import is_writing_onnx
from anysize.models.surgery.quantization.calls import Call, Interception, Parts, parts_of
from anysize.models.surgery.quantization.placement import IMAGES, Layer, Placement
from anysize.models.surgery.quantization.quantizers import ValueQuantizer, WeightQuantizer
from anysize.registry import UserError

OnLayer = Callable[[Layer, tuple[Any, ...], dict[str, Any], Tensor], Tensor]
"""Given a layer, the arguments of its call and its result, it returns the result."""
ATTRIBUTE = "quantization"
"""Of a quantized model; it is a submodule, so that a `state_dict` has what it holds."""


class Quantization(nn.Module):
    """What a quantized model holds beside its layers: the quantizers of its values and those of its weights.

    Args:
        placement: where they work.
        bits: of the weights.
    """

    def __init__(self, placement: Placement, bits: int = 8) -> None:
        super().__init__()
        self.placement = placement
        self.bits = bits
        self.values = nn.ModuleDict({_attribute(name): ValueQuantizer() for name in placement.quantizers})
        self.weights = nn.ModuleDict(
            {
                _attribute(key): WeightQuantizer(layer.channels, layer.channel_dim, bits)
                for key, layer in placement.layers.items()
            }
        )
        self.through: Mapping[str, Callable[[ValueQuantizer, Tensor], Tensor]] = {}
        """By place, what rounds the value there with its quantizer in another form than it has."""
        self.rounds = True
        """Whether anything is rounded."""
        self.only: Collection[str] | None = None
        """The keys of the layers beside whose calls nothing is rounded; None: all is."""
        self.on_value: Callable[[str, Tensor], object] | None = None
        """Called with the name of the quantizer and what it is about to round, by who wants to look at values."""
        self.on_layer: OnLayer | None = None
        """Called for each layer, by who wants to look at what it reads or to change what it gives."""

    def forward(self, values: Tensor) -> Tensor:
        """Give back `values`: a model that is an `nn.Sequential` calls this as the last of its children."""
        return values

    def value(self, name: str) -> ValueQuantizer:
        """The quantizer of that name."""
        return self.values[_attribute(name)]  # type: ignore[return-value]

    def weight(self, key: str) -> WeightQuantizer:
        """The quantizer of the weights of the layer with that key."""
        return self.weights[_attribute(key)]  # type: ignore[return-value]

    def source(self, layer: Layer) -> ValueQuantizer:
        """The quantizer of what a layer reads."""
        return self.value(layer.source)

    def rounds_value(self, name: str) -> bool:
        """Whether a quantizer of values rounds now: with `only`, those of what the layers read and give do."""
        if self.only is None or not self.rounds:
            return self.rounds
        return any(name in (key, self.placement.layers[key].source) for key in self.only)

    def at(self, place: str, value: Any) -> Any:
        """The value of a place, rounded where that is wanted."""
        name = self.placement.points.get(place)
        if name is not None:
            if self.on_value:
                self.on_value(name, value)
            if not self.rounds_value(name):
                return value
            through = self.through.get(place)
            return through(self.value(name), value) if through else self.value(name)(value)
        if is_writing_onnx() and (name := self.placement.copies.get(place)) is not None:
            return self.value(name)(value)
        return value

    def on_call(self, call: Call, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call of the model in rounded numbers."""
        layer = self.placement.layers.get(call.key)
        if layer is not None and self.rounds and (self.only is None or layer.key in self.only):
            args, kwargs = self.with_rounded_weights(layer, args, kwargs)
        result = run(*args, **kwargs)
        if layer is not None and self.on_layer:
            result = self.on_layer(layer, args, kwargs, result)
        if isinstance(result, (tuple, list)):
            numbered = (f"{call.key}#{i}" if i else call.key for i in range(len(result)))
            return type(result)([self.at(place, each) for place, each in zip(numbered, result, strict=True)])
        return self.at(call.key, result)

    def with_rounded_weights(
        self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a layer's call with its rounded weights in their place."""
        quantizer = self.weight(layer.key)
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if quantizer.integers is not None:
            weight, bias = quantizer.fixed(self.source(layer).scale)
        else:
            weight, bias = quantizer.round(weight, bias)
        kept = {key: value for key, value in kwargs.items() if key not in ("weight", "bias")}
        return (args[0] if args else kept.pop("input"), weight, bias, *args[3:]), kept


class QuantizedForward:
    """The forward pass of a quantized model; it takes the place of `model.forward`."""

    def __init__(self, model: nn.Module, parts: Parts) -> None:
        self.model = model
        self.parts = parts

    def __call__(self, images: Tensor) -> Any:
        model: Any = self.model
        quantization: Quantization = model.quantization
        images = quantization.at(IMAGES, images)  # before: what rounding calls is no call of the model
        with Interception(model, quantization.on_call, self.parts):
            return type(model).forward(model, images)


def fake_quantize(model: nn.Module, placement: Placement, bits: int = 8) -> Quantization:
    """Let a model round its values and weights where `placement` says, in place.

    Its parameters keep their names; `model.quantization` is added. What it rounds to is not known yet: values pass
    until their ranges are set or observed, weights are rounded by their own largest.

    Raises:
        UserError: the forward pass of the model has been replaced already.
    """
    if "forward" in vars(model):
        raise UserError(
            f"{type(model).__name__} has a forward pass of its own already, such as that of checkpoint segments or of "
            "quantization; build it anew, with model.checkpoint_segments 0, to quantize it"
        )
    if hasattr(model, ATTRIBUTE):
        raise UserError(f"{type(model).__name__} has an attribute {ATTRIBUTE!r} of its own; give that another name")
    parts = parts_of(model)
    held = itertools.chain(model.parameters(), model.buffers())
    quantization = Quantization(placement, bits).train(model.training)
    model.quantization = quantization = quantization.to(next((each.device for each in held), None))
    model.forward = QuantizedForward(model, parts)
    return quantization


@torch.no_grad()
def weights_of(model: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Weight and bias of each layer of a quantized model that is rounded, by the key of its call.

    They are what the layer is called with for `images` (N, C, H, W), whatever code has made them of the parameters.
    """
    quantization, found = quantization_of(model), {}

    def see(call: Call, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call.key in quantization.placement.layers:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            found[call.key] = weight.detach(), args[2] if len(args) > 2 else kwargs.get("bias")
        return run(*args, **kwargs)

    forward: Any = vars(model)["forward"]
    with Interception(model, see, forward.parts):
        type(model).forward(model, images)
    return found


@torch.no_grad()
def fix_weights(model: nn.Module, images: Tensor) -> None:
    """Let each layer of a quantized model hold its weights as whole numbers from now on, its bias with them.

    The ranges of values must be known, since the unit of a bias follows from that of what the layer reads.
    """
    quantization = quantization_of(model)
    for key, (weight, bias) in weights_of(model, images).items():
        quantizer = quantization.weight(key)
        source = quantization.source(quantization.placement.layers[key]).scale
        scale = quantizer.scales_for(weight, bias, source)
        integers = (weight / quantizer.along_channels(scale, weight)).round()
        integers = integers.clamp(-quantizer.largest, quantizer.largest)
        quantizer.fix(integers, scale, bias, source)


def expect_integers(model: nn.Module, images: Tensor, *, biases: bool = False) -> None:
    """Let each layer of a quantized model hold its weights as whole numbers, 0 until those of a checkpoint are loaded.

    `images` as for `weights_of`. With `biases` layers hold one that have none of their own, as bias correction gives.
    """
    for key, (weight, bias) in weights_of(model, images).items():
        quantizer = quantization_of(model).weight(key)
        quantizer.integers = torch.zeros_like(weight, dtype=torch.int8)
        if biases and bias is None:
            bias = no_bias(weight, quantizer)
        quantizer.bias = None if bias is None else torch.zeros_like(bias, dtype=torch.int32)


def no_bias(weight: Tensor, quantizer: WeightQuantizer) -> Tensor | None:
    """A bias of zeros, to be corrected, for a layer without one; None for a transposed one, which stays as it is."""
    return None if quantizer.channel_dim else weight.new_zeros(len(weight))


def quantization_of(model: nn.Module) -> Quantization:
    """What a quantized model holds beside its layers."""
    held = getattr(model, ATTRIBUTE, None)
    assert isinstance(held, Quantization), "the model is not quantized"
    return held


def is_quantized(model: nn.Module) -> bool:
    """Whether a model rounds its values and weights."""
    return isinstance(getattr(model, ATTRIBUTE, None), Quantization)


def _attribute(name: str) -> str:
    return name.replace(".", "/")
