"""int8 weights in the format of `torchvision.models.quantization`, integer for integer in a model of ours.

    checkpoint = read_any("resnet18_fbgemm_16fa66dd.pth")
    load_int8(model, checkpoint)            # a model of `ModelSpec("resnet18").quantized()`

Such a file is the `state_dict` of a network that PyTorch's eager mode has converted. For each layer it holds quantized
weights, the bias in float, and scale and zero point of what the layer gives (`conv1.weight`, `conv1.bias`,
`conv1.scale`, `conv1.zero_point`; of a linear layer weights and bias lie under `_packed_params`), for each sum and join
those of its result under the module that stood for it (`layer1.0.add_relu.scale`), and those of the images (`quant`).
Averages have none: they keep what they read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.quantization.fake import quantization_of
from anysize.models.surgery.quantization.placement import IMAGES, Placement
from anysize.models.surgery.quantization.quantizers import LEVELS
from anysize.models.weights.contents import ForeignCheckpoint, find_contents, main_weights, strip_wrappers
from anysize.models.weights.foreign_files import read_held
from anysize.registry import UserError, counted

_PACKED = "._packed_params"
_WITHOUT = {"hardsigmoid": (1 / 256, 0)}
"""Scale and zero point of functions whose result has always the same ones, so that a file does not tell them."""


@dataclasses.dataclass(frozen=True)
class Int8Layer:
    """The weights of a layer as whole numbers, their scale (channels,), and the bias (channels,) in float."""

    integers: Tensor
    scale: Tensor
    bias: Tensor | None


@dataclasses.dataclass(frozen=True)
class Int8Checkpoint:
    """What a file holds: layers by name; scale and zero point by the name of what gives the values."""

    path: Path
    layers: dict[str, Int8Layer]
    values: dict[str, tuple[float, int]]

    @property
    def classes(self) -> int:
        """As many as the last layer has channels."""
        return len(next(reversed(self.layers.values())).scale)

    @property
    def channels(self) -> int:
        """Of the images, as the first layer has them."""
        return next(iter(self.layers.values())).integers.shape[1]

    def lines(self) -> list[str]:
        """A sentence on what was read."""
        count = sum(layer.integers.numel() for layer in self.layers.values())
        return [f"{self.path}: int8 weights of {counted(len(self.layers), 'layer')}, {counted(count, 'whole number')}"]


def read_any(path: str | Path, *, averaged: bool = False) -> ForeignCheckpoint | Int8Checkpoint:
    """As `read_foreign`, and int8 weights where the file holds such."""
    path = Path(path).expanduser()
    held, form = read_held(path)
    return find_int8(held, path) or find_contents(held, path, form, averaged)


def find_int8(held: Any, path: Path) -> Int8Checkpoint | None:
    """The int8 weights in what was read from `path`; None where it holds no quantized tensor.

    Raises:
        UserError: weights that are quantized in another way.
    """
    weights = main_weights(held) if isinstance(held, Mapping) else None
    entries = {str(key): value for key, value in (weights or {}).items()}
    for name, value in list(entries.items()):  # a linear layer's weights and bias, as files have them since 2020
        if name.endswith(_PACKED * 2) and isinstance(value, tuple):
            entries |= zip((f"{name.removesuffix(_PACKED)}.{each}" for each in ("weight", "bias")), value, strict=True)
    tensors, _ = strip_wrappers({key: value for key, value in entries.items() if isinstance(value, Tensor)})
    layers, values = {}, {}
    for name, tensor in tensors.items():
        owner, _, what = name.rpartition(".")
        if tensor.is_quantized and what == "weight":
            bias = tensors.get(f"{owner}.bias")
            layers[owner.removesuffix(_PACKED)] = _layer(tensor, bias, f"{path}: the tensor {name}")
        elif what == "zero_point" and f"{owner}.scale" in tensors:
            values[owner] = _value(tensors[f"{owner}.scale"], tensor, f"{path}: {owner}")
    return Int8Checkpoint(path, layers, values) if layers else None


def _layer(weight: Tensor, bias: Tensor | None, what: str) -> Int8Layer:
    integers = weight.int_repr()
    if weight.dtype is not torch.qint8:
        raise UserError(f"{what} has type {weight.dtype}; expected torch.qint8, whole numbers with a sign")
    if weight.qscheme() == torch.per_tensor_affine:
        scale, zero_points = torch.full(integers.shape[:1], weight.q_scale()), torch.tensor(weight.q_zero_point())
    elif weight.qscheme() == torch.per_channel_affine and weight.q_per_channel_axis() == 0:
        scale, zero_points = weight.q_per_channel_scales().float(), weight.q_per_channel_zero_points()
    else:
        raise UserError(
            f"{what} is quantized by {weight.qscheme()}; expected one scale, or one a channel of the output"
        )
    if zero_points.any():
        raise UserError(f"{what} has a zero point that is not 0; expected whole numbers that are symmetric about 0")
    if not (scale.isfinite() & (scale > 0)).all() or (bias is not None and not bias.isfinite().all()):
        raise UserError(f"{what} has a scale or a bias that is no sound number; get the file again")
    return Int8Layer(integers, scale, None if bias is None else bias.detach().float())


def _value(scale: Tensor, zero_point: Tensor, what: str) -> tuple[float, int]:
    found = (float(scale), int(zero_point)) if scale.numel() == zero_point.numel() == 1 else (0.0, 0)
    if not 0 < found[0] < float("inf") or not 0 <= found[1] <= LEVELS:
        raise UserError(f"{what} has scale {scale.tolist()} and zero point {zero_point.tolist()}; expected one of each")
    return found


@torch.no_grad()
def load_int8(model: nn.Module, checkpoint: Int8Checkpoint) -> list[str]:
    """Load the weights and ranges of a file into a model of `ModelSpec(...).quantized()`, in place.

    Its float weights become what the whole numbers stand for.

    Returns:
        The layers of the file that are left out, since the model has no such modules (auxiliary outputs).

    Raises:
        UserError: the file is of another network; the message shows the first few layers that do not fit.
    """
    quantization = quantization_of(model)
    layers = {layer.name: layer for layer in quantization.placement.layers.values()}
    modules = dict(model.named_modules())
    unused = [name for name in checkpoint.layers if name not in layers]
    parameters, lacking = value_parameters(quantization.placement, checkpoint)
    problems = [
        f"{name} is missing" for name in (*(name for name in layers if name not in checkpoint.layers), *lacking)
    ]
    problems += [f"{name} is not rounded in the model" for name in unused if name in modules]
    for name in layers.keys() & checkpoint.layers.keys():
        own, other = quantization.weight(layers[name].key).integers, checkpoint.layers[name].integers
        if own is not None and own.shape != other.shape:
            problems.append(f"{name} has weights {tuple(other.shape)}, the model's {tuple(own.shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{checkpoint.path} holds int8 weights of another network than {type(model).__name__}: "
            f"{'; '.join(problems[:3])}{more}; name the network that it is of"
        )
    for name, (scale, zero_point) in parameters.items():
        quantization.value(name).set_parameters(scale, zero_point)
    for name, layer in layers.items():
        found, quantizer, module = checkpoint.layers[name], quantization.weight(layer.key), modules[name]
        has_bias = quantizer.bias is not None
        bias = torch.zeros_like(found.scale) if found.bias is None else found.bias
        if not has_bias and bias.any():
            raise UserError(f"{checkpoint.path}: the layer {name} has a bias, and the model's has none")
        quantizer.fix(found.integers, found.scale, bias if has_bias else None, quantization.source(layer).scale)
        module.weight.copy_(found.integers * quantizer.along_channels(found.scale, found.integers))
        if has_bias:
            module.bias.copy_(bias)
    return [name for name in unused if name not in modules]


def value_parameters(
    placement: Placement, checkpoint: Int8Checkpoint
) -> tuple[dict[str, tuple[float, int]], list[str]]:
    """Scale and zero point of each quantizer of values, and the names of those that the file tells nothing of."""
    found: dict[str, tuple[float, int]] = {}
    lacking = []
    own = {key.partition(":")[0] for key in placement.quantizers}
    stood_for: dict[str, list[str]] = {}  # what stood for sums and joins, by the module that computes them
    for name in checkpoint.values:
        if name not in own and name not in checkpoint.layers and name != "quant":
            stood_for.setdefault(name.rpartition(".")[0], []).append(name)
    for name in placement.quantizers:
        module, _, function = name.partition(":")
        function = function.partition(":")[0]
        sources = placement.sources.get(name, ())
        if name == IMAGES:
            source = "quant"
        elif len(sources) == 1 and sources[0] in found:
            found[name] = found[sources[0]]  # an average
            continue
        elif sources:
            source = next(iter(stood_for.get(module, [])), "")
            stood_for[module] = stood_for.get(module, [])[1:]
        else:
            source = module
        parameters = checkpoint.values.get(source) or _WITHOUT.get(function)
        if parameters is None:
            lacking.append(f"the scale at {name}")
        else:
            found[name] = parameters
    return found, lacking
