"""One norm in another's place: the new norm with what it takes over from the old one."""

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from anysize.norms.convert.recognise import Kind, recognise
from anysize.norms.factory import create_norm, largest_divisor, norm_options
from anysize.norms.layers import NormAct
from anysize.norms.running import is_synchronised
from anysize.norms.synchronised import SyncBatchNorm
from anysize.registry import UserError


def channels(norm: Any) -> int:
    """Channels C of a norm."""
    for attribute in ("num_features", "num_channels"):
        if isinstance(getattr(norm, attribute, None), int):
            return int(getattr(norm, attribute))
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[0]
    return len(norm.weight)  # torchvision's frozen batch norm


def replacement(old: Any, name: str, dims: int, options: dict[str, Any], like: Tensor | None = None) -> nn.Module:
    """The norm `name` in the place of the norm `old`, which is left as it is.

    `old` is a norm that `recognise` knows; the new one shares its parameters where they have the same shape. `name`,
    `dims` and `options` are as for `create_norm`, which raises. `like` is a tensor of the dtype and device wanted, for
    an old norm without any.

    >>> replacement(nn.BatchNorm2d(16, eps=1e-3), "group", 2, {})
    GroupNorm(8, 16, eps=0.001, affine=True, bias=True)
    """
    kind = recognise(old)
    assert kind is not None
    new = create_norm(name, channels(old), dims, **{**_kept(old, kind, name, like), **options})
    _carry_over(old, new)
    new.train(old.training)
    drop, act = (getattr(old, part, nn.Identity()) if kind.fused else nn.Identity() for part in ("drop", "act"))
    if type(drop) is type(act) is nn.Identity:
        return new
    fused = NormAct(new, drop, act)
    fused.training = old.training  # not .train(): dropout and activation have modes of their own
    return fused


def resized(old: nn.Module, num_features: int) -> nn.Module:
    """A fresh norm of the same kind and with the same options as `old`, for another number of channels.

    A group norm keeps its number of groups, or the largest smaller one that divides the channels. Parameters that the
    old norm has not, or has frozen, are so in the new one.

    Raises:
        UserError: a norm that stands for one image size alone, has statistics that are never updated, is fused with an
            activation, or is not known.

    >>> resized(nn.GroupNorm(8, 16), 12)
    GroupNorm(6, 12, eps=1e-05, affine=True, bias=True)
    """
    if isinstance(old, nn.Identity):
        return nn.Identity()
    kind = recognise(old)
    if kind is None or kind.refused or kind.fused or kind.name in ("", "layer_elementwise", "frozen_batch"):
        reason = (kind and kind.refused) or "cannot be made for another number of channels"
        raise UserError(f"{type(old).__name__} {reason}; expected batch, group, layer, instance or online norm")
    options = _kept(old, kind, kind.name)
    if kind.name == "group":
        options["num_groups"] = largest_divisor(num_features, options["num_groups"])
    new = create_norm(kind.name, num_features, kind.dims or 2, **options).train(old.training)
    for key in ("weight", "bias"):
        one, other = getattr(old, key, None), getattr(new, key, None)
        if isinstance(other, nn.Parameter):
            setattr(new, key, None if one is None else other.requires_grad_(one.requires_grad))
    _keep_processes(old, new)
    return new


def _kept(old: Any, kind: Kind, name: str, like: Tensor | None = None) -> dict[str, Any]:
    """The options, dtype and device of a norm `name` in the place of `old`; `like` is for an `old` without tensors."""
    kept: dict[str, Any] = {"affine": getattr(old, "weight", None) is not None}
    kept["eps"] = old.options.eps if kind.name == "online" else old.eps
    if kind.name == name == "online":
        kept |= {**dataclasses.asdict(old.options), "backend": old.backend}
    if kind.name == name == "group":
        kept["num_groups"] = old.num_groups
    if {kind.name, name} <= {"batch", "sync_batch"}:
        kept |= {"momentum": old.momentum, "track_running_stats": old.track_running_stats}
    like = next(itertools.chain(old.parameters(), old.buffers()), like)
    factory = {} if like is None else {"device": like.device, "dtype": like.dtype}
    return {**factory, **{key: value for key, value in kept.items() if key in norm_options(name)}}


@torch.no_grad()
def _carry_over(old: Any, new: Any) -> None:
    """Give `new` the weight, bias and state of `old`, as far as both have them."""
    for key in ("weight", "bias"):
        one, other = getattr(old, key, None), getattr(new, key, None)
        if one is None or other is None:
            continue
        learned = isinstance(one, nn.Parameter) and isinstance(other, nn.Parameter)
        if learned and one.shape == other.shape:
            setattr(new, key, one)
        elif one.shape == other.shape or one.dim() == 1:
            # The same value for each position: (C,) to (C, H, W).
            other.copy_(one.reshape(-1, *[1] * (other.dim() - 1)) if one.dim() == 1 else one)
            if learned:
                other.requires_grad_(one.requires_grad)
    before, after = _state(old), _state(new)
    for key in before.keys() & after.keys():
        after[key].copy_(before[key])
    _keep_processes(old, new)


def _keep_processes(old: nn.Module, new: nn.Module) -> None:
    if is_synchronised(old) and isinstance(new, SyncBatchNorm):
        new.process_group = old.process_group


def _state(norm: Any) -> dict[str, Tensor]:
    """The tensors that a norm keeps over samples, by names that batch norm and online norm have in common."""
    if isinstance(norm, _InstanceNorm):
        return {}  # its mean and variance are those within an image
    names = {"mean": "running_mean", "var": "running_var", "count": "num_batches_tracked"}
    if hasattr(norm, "norm"):
        norm, names = norm.norm, {"mean": "m", "var": "var", "u": "u", "v": "v"}
    state = {key: getattr(norm, name, None) for key, name in names.items()}
    return {key: value for key, value in state.items() if value is not None}
