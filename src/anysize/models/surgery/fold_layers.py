"""Single modules in `fold_batch_norm`: what a norm computes in evaluation, and how a layer takes it over."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from anysize.norms.convert.recognise import recognise
from anysize.norms.convert.replace import replacement
from anysize.norms.layers import FrozenBatchNorm
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.norms.synchronised import SyncBatchNorm

_ONLINE = (OnlineNorm1d, OnlineNorm2d, OnlineNorm3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_NOTHING = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
"""Modules that a scale and a shift a channel pass through unchanged in evaluation."""


class Compensation(nn.Module):
    """The error compensation of an online norm, which stays when its scale and shift are folded."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.compensate: Callable[[Tensor], Tensor] = norm.compensate

    def forward(self, x: Tensor) -> Tensor:
        return self.compensate(x)


@dataclasses.dataclass(frozen=True)
class Affine:
    """x * scale + shift a channel, both (C,) in float64."""

    scale: Tensor
    shift: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def split(self, sizes: list[int]) -> "list[Affine]":
        return [Affine(*both) for both in zip(self.scale.split(sizes), self.shift.split(sizes), strict=True)]  # type: ignore[no-untyped-call]

    def unshifted(self) -> "Affine":
        return Affine(self.scale, torch.zeros_like(self.shift))


def split_fused(model: nn.Module) -> None:
    """Take modules that are norm, dropout and activation at once apart; the norm trains on as it did."""
    for name, module in list(model.named_modules()):
        kind = recognise(module)
        if kind is None or not kind.fused or kind.refused or not name:
            continue
        if kind.name in ("batch", "sync_batch", "frozen_batch") and module.running_mean is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, replacement(module, kind.name, kind.dims, {}))


def affine_of(norm: Any) -> Affine | None:
    """The scale and shift a channel that a norm applies in evaluation; None where it does something else."""
    kind = recognise(norm)
    if kind is None or kind.refused or kind.fused or kind.name not in ("batch", "sync_batch", "frozen_batch", "online"):
        return None
    mean, var = (norm.norm.m, norm.norm.var) if isinstance(norm, _ONLINE) else (norm.running_mean, norm.running_var)
    if mean is None:  # statistics of the batch, in evaluation too
        return None
    eps = norm.options.eps if isinstance(norm, _ONLINE) else norm.eps
    scale = (var.detach().double() + eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean.detach().double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return Affine(scale, shift)


def keeps_more(norm: Any) -> bool:
    """Whether a norm does more than scale and shift, as an online norm with error compensation does."""
    return isinstance(norm, _ONLINE) and norm.options.ecm != "none"


def apply_after(layer: Any, affine: Affine) -> None:
    """Let a layer scale and shift its output."""
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs / groups, ...)
        grouped = weight.unflatten(0, (layer.groups, -1))
        scale = affine.scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * scale).flatten(0, 1)
    else:
        scaled = weight * affine.scale.view(-1, *[1] * (weight.dim() - 1))
    bias = affine.shift if layer.bias is None else layer.bias.detach().double() * affine.scale + affine.shift
    _store(layer, scaled, bias)


def apply_before(layer: Any, affine: Affine) -> None:
    """Let a layer scale and shift its input."""
    weight = layer.weight.detach().double()
    groups = getattr(layer, "groups", 1)
    grouped = weight.unflatten(0, (groups, -1))  # (groups, outputs / groups, inputs / groups, ...)
    shape = (groups, 1, -1, *[1] * (weight.dim() - 2))
    bias = (grouped * affine.shift.view(shape)).flatten(2).sum(2).flatten()
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double()
    _store(layer, (grouped * affine.scale.view(shape)).flatten(0, 1), bias)


def _store(layer: Any, weight: Tensor, bias: Tensor) -> None:
    old: Tensor = layer.weight
    layer.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
    layer.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)


def takes_vectors(norm: nn.Module) -> bool:
    """Whether a norm takes values (N, C)."""
    return isinstance(norm, (nn.BatchNorm1d, nn.SyncBatchNorm, SyncBatchNorm, FrozenBatchNorm, OnlineNorm1d))


def passes_channels(module: Any) -> bool:
    """Whether a module gives back each channel, or averages of it, in evaluation."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, _AVERAGES):
        padded = _pads(module.padding) and module.count_include_pad
        return not padded and getattr(module, "divisor_override", None) is None
    if isinstance(module, nn.Upsample):
        return module.mode in ("nearest", "bilinear", "linear", "trilinear")
    return isinstance(module, _NOTHING)


def outputs_of(layer: Any) -> int | None:
    return layer.out_features if isinstance(layer, nn.Linear) else getattr(layer, "out_channels", None)


def reads_no_padding(layer: Any) -> bool:
    """Whether every value that a layer reads is one of its input."""
    if isinstance(layer, nn.Linear):
        return True
    if isinstance(layer, _ConvTransposeNd) or is_same_padded(layer):
        return False
    point = all(side == 1 for side in layer.kernel_size)
    return layer.padding == "valid" or (layer.padding == "same" and point) or not _pads(layer.padding)


def is_same_padded(layer: nn.Module) -> bool:
    """timm's convolution that pads as TensorFlow does: another border, the same arithmetic."""
    return f"{type(layer).__module__.split('.')[0]}.{type(layer).__name__}" == "timm.Conv2dSame"


def _pads(padding: Any) -> bool:
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
