"""Rounding of values and of weights to whole numbers of 7 or 8 bits, in the arithmetic of ONNX's QuantizeLinear.

Values: one scale and one zero point a tensor, 0 to 255; zero is a whole number, so that padding is exact. Weights: one
scale a channel of the output, -127 to 127, or -63 to 63 in 7 bits. While a model is exported, what is computed here is
written down as QuantizeLinear and DequantizeLinear.
"""

from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.onnx_words import is_writing_onnx

LEVELS = 255
"""Values are rounded to 0 ... 255."""
_SMALLEST = 2.0**-60
"""Of a scale; below, its inverse would be no number of float32."""


def parameters_of(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both () or alike) of the range from `low` to `high`, which is widened to hold 0.

    >>> parameters_of(torch.tensor(-1.0), torch.tensor(4.1))
    (tensor(0.0200), tensor(50, dtype=torch.int32))
    """
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    scale = ((high - low) / LEVELS).clamp(min=_SMALLEST).float()
    return scale, (-low / scale).round().clamp(0, LEVELS).to(torch.int32)


class ValueQuantizer(nn.Module):
    """Rounds values; where nothing was observed yet, it passes them on.

    Buffers: `low` and `high`, the range that was observed; `scale` and `zero_point`, which follow from it. With
    `observing` and in training, the range moves towards that of each batch by a hundredth, as that of PyTorch's
    `MovingAverageMinMaxObserver` does; in evaluation nothing changes.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor

    RATE = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(torch.inf))
        self.register_buffer("high", torch.tensor(-torch.inf))
        self.register_buffer("scale", torch.tensor(0.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.observing = False

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Take over the range from `low` to `high`, both ()."""
        self.low.copy_(low)
        self.high.copy_(high)
        for own, value in zip((self.scale, self.zero_point), parameters_of(self.low, self.high), strict=True):
            own.copy_(value)

    def set_parameters(self, scale: float, zero_point: int) -> None:
        """Take over a scale and a zero point from elsewhere, as they are."""
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)
        self.low.copy_(-self.zero_point * self.scale)
        self.high.copy_((LEVELS - self.zero_point) * self.scale)

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Move the range towards that of `values`, by the whole way the first time."""
        low, high = (value.float() for value in values.detach().aminmax())
        first = self.low > self.high
        self.set_range(
            torch.where(first, low, self.low + self.RATE * (low - self.low)),
            torch.where(first, high, self.high + self.RATE * (high - self.high)),
        )

    def forward(self, values: Tensor) -> Tensor:
        if is_writing_onnx():
            return as_graph(values, self.scale, self.zero_point.to(torch.uint8))
        if self.observing and self.training:
            self.observe(values)
        elif not (self.training or torch.compiler.is_exporting() or values.is_meta or self.scale):
            return values
        return rounded(values, self.scale, -self.zero_point, LEVELS - self.zero_point)


class WeightQuantizer(nn.Module):
    """Rounds the weights of a layer: as they are when it is called, or, once it is fixed, to whole numbers it holds.

    Args:
        channels: of the layer's output.
        channel_dim: of the weights.
        bits: 8, or 7 for processors whose instructions would add two products of 8 bits up in 16.
    """

    scale: Tensor

    def __init__(self, channels: int, channel_dim: int = 0, bits: int = 8) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.largest = 2 ** (bits - 1) - 1
        self.register_buffer("scale", torch.zeros(channels))
        self.integers: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("integers", None)
        self.register_buffer("bias", None)

    def scales(self, weight: Tensor) -> Tensor:
        """The scale (channels,) at which the largest weight of a channel is the largest number."""
        largest = weight.detach().float().abs().transpose(0, self.channel_dim).flatten(1).amax(1)
        scale: Tensor = (largest / self.largest).clamp(min=_SMALLEST)
        return scale

    def round(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Rounded weights with gradients straight through, and the bias as it is: it is rounded far more finely."""
        scale = self.along_channels(self.scales(weight), weight)
        return rounded(weight, scale, -self.largest, self.largest), bias

    def scales_for(self, weight: Tensor, bias: Tensor | None, source: Tensor) -> Tensor:
        """As `scales`, but not so small that the bias (channels,) would be too large a number for values of `source`.

        So they would be in channels whose weights have died out, of which the bias alone is left.
        """
        scale = self.scales(weight)
        if bias is None:
            return scale
        largest = bias.detach().float().abs().view(-1, len(scale)).amax(0)  # of the groups of a transposed convolution
        return scale.maximum(largest / (source * 2**30))

    @torch.no_grad()
    def fix(self, integers: Tensor, scale: Tensor, bias: Tensor | None, source: Tensor) -> None:
        """Hold weights as whole numbers of `scale` (channels,), and a bias for values of scale `source` ()."""
        self.scale = scale.clone()
        self.integers = integers.to(torch.int8)
        if bias is not None:
            unit, limit = self.bias_unit(len(bias), source).double(), 2**31 - 1
            self.bias = (bias.double() / unit).round().clamp(-limit, limit).to(torch.int32)

    def fixed(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights and the bias that are held; `source` as in `fix`."""
        assert self.integers is not None
        if is_writing_onnx():
            weight = dequantized_in_graph(self.integers, self.scale, self.channel_dim)
            if self.bias is None:
                return weight, None
            return weight, dequantized_in_graph(self.bias, self.bias_unit(len(self.bias), source), 0)
        weight = self.integers * self.along_channels(self.scale, self.integers)
        return weight, None if self.bias is None else self.bias * self.bias_unit(len(self.bias), source)

    def bias_unit(self, outputs: int, source: Tensor) -> Tensor:
        """What a unit of each number of the bias stands for, (outputs,); groups of a transposed layer share scales."""
        scale = self.scale
        return (scale if len(scale) == outputs else scale.repeat(outputs // len(scale))) * source

    def along_channels(self, scale: Tensor, weight: Tensor) -> Tensor:
        """A number a channel in the shape in which weights are multiplied by it."""
        shape = [1] * weight.dim()
        shape[self.channel_dim] = -1
        return scale.view(shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("integers", "bias"):  # so that a model which holds none yet takes those of a checkpoint
            held = state_dict.get(prefix + name)
            if held is not None and getattr(self, name) is None:
                setattr(self, name, torch.empty_like(held))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def rounded(values: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
    """`values` rounded to multiples of `scale` from `low` to `high` times it; gradients pass where nothing is cut off.

    As QuantizeLinear does, it divides and rounds halves to even; `torch.fake_quantize_per_tensor_affine`, which
    multiplies by the inverse, differs from that now and then, and takes four times as long.
    """
    if torch.is_grad_enabled() and values.requires_grad:
        out: Tensor = _StraightThrough.apply(values, scale, low, high)
        return out
    return (_wide(values) / scale).round_().clamp_(low, high).mul_(scale).to(values.dtype)


def _wide(values: Tensor) -> Tensor:
    """Values in a type that tells multiples of a scale apart."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
        whole = (_wide(values) / scale).round_()
        inside = (whole >= low) & (whole <= high)
        ctx.save_for_backward(inside)
        return whole.clamp_(low, high).mul_(scale).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def as_graph(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`values` quantized and dequantized in the graph of a model that is exported."""
    inputs = [values, scale, zero_point]
    whole = torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=values.shape)
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", [whole, scale, zero_point], dtype=torch.float32, shape=values.shape
    )


def dequantized_in_graph(integers: Tensor, scale: Tensor, dim: int) -> Tensor:
    """Whole numbers dequantized by a scale a channel in the graph of a model that is exported."""
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", [integers, scale], {"axis": dim}, dtype=torch.float32, shape=integers.shape
    )
