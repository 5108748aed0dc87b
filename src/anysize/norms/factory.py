"""Norms by name: `create_norm`.

    create_norm("group", 64, num_groups=16)       # for images (N, 64, H, W)
    create_norm("online", 64, dims=1)             # for vectors (N, 64) or sequences (N, 64, L)

`convert_norms` swaps those of a model; `--model.norm NAME` does so in a recipe.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from anysize.norms.layers import ElementwiseLayerNorm, FrozenBatchNorm, InstanceNorm1d
from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.norms.online.options import is_number
from anysize.norms.synchronised import SyncBatchNorm
from anysize.registry import Registry, UserError, did_you_mean

NORMS: "Registry[nn.Module]" = Registry("norm")

_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_ONLINE = {1: OnlineNorm1d, 2: OnlineNorm2d, 3: OnlineNorm3d}


def create_norm(
    name: str, num_features: int, dims: int = 2, *, device: Any = None, dtype: Any = None, **options: Any
) -> nn.Module:
    """Build a norm for inputs of `num_features` channels.

    Args:
        name: one of `NORMS`: batch, frozen_batch, group, instance, layer, layer_elementwise, none, online, sync_batch.
        num_features: channels C.
        dims: 1 for (N, C) and (N, C, L), 2 for images (N, C, H, W), 3 for volumes (N, C, D, H, W).
        device, dtype: of its parameters.
        options: of the norm; `norm_options(name)` lists them.

    Raises:
        UserError: an unknown norm, an option that it does not take, or a value that it cannot have.

    >>> create_norm("group", 16, num_groups=4)
    GroupNorm(4, 16, eps=1e-05, affine=True, bias=True)
    >>> create_norm("group", 16, num_group=4)
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: norm 'group' takes no option 'num_group': did you mean 'num_groups'?
    """
    builder = NORMS[name]
    check_count("num_features", num_features)
    if dims not in _BATCH:
        raise UserError(f"dims is {dims!r}; expected 1 for (N, C, L), 2 for (N, C, H, W) or 3 for (N, C, D, H, W)")
    check_options(name, options)
    return builder(num_features, dims, device=device, dtype=dtype, **options)


def norm_options(name: str) -> dict[str, Any]:
    """The options that a norm takes, with their defaults.

    >>> norm_options("group")
    {'num_groups': 8, 'eps': 1e-05, 'affine': True}
    """
    builders = {"online": OnlineNorm2d, "sync_batch": batch}  # NORMS has builders that hand their options on
    parameters = inspect.signature(builders.get(name) or NORMS[name]).parameters
    return {
        option: parameter.default
        for option, parameter in parameters.items()
        if parameter.default is not parameter.empty and option not in ("device", "dtype")
    }


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise a `UserError` if the norm `name` does not take one of `options`, or not with that kind of value."""
    accepted = norm_options(name)
    for option, value in options.items():
        if option not in accepted:
            hint = did_you_mean(option, accepted) if accepted else "it takes none"
            raise UserError(f"norm {name!r} takes no option {option!r}: {hint}")
        default = accepted[option]
        if isinstance(default, bool):
            right, expected = isinstance(value, bool), "true or false"
        elif isinstance(default, float):
            right, expected = is_number(value) or (option == "momentum" and value is None), "a number"
        elif isinstance(default, int):
            right, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        else:
            continue
        if not right:
            raise UserError(f"norm {name!r}: {option} is {value!r}; expected {expected}")
    for option, high in (("eps", math.inf), ("momentum", 1.0)):
        value = options.get(option)
        if value is not None and not 0 <= value <= high:
            bounds = "at least 0" if high == math.inf else f"from 0 to {high:g}"
            raise UserError(f"norm {name!r}: {option} is {value!r}; expected {bounds}")


@NORMS.register("batch")
def batch(
    num_features: int, dims: int, *,
    eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
    **factory: Any,
) -> nn.Module:  # fmt: skip
    """Batch norm (Ioffe and Szegedy, arXiv 1502.03167): statistics of the batch; running ones in evaluation."""
    return _BATCH[dims](num_features, eps, momentum, affine, track_running_stats, **factory)


@NORMS.register("sync_batch")
def sync_batch(num_features: int, dims: int, **options: Any) -> nn.Module:
    """Batch norm with the statistics of the batches of all processes; batch norm in a single one."""
    return SyncBatchNorm(num_features, **options)


@NORMS.register("frozen_batch")
def frozen_batch(num_features: int, dims: int, *, eps: float = 1e-5, **factory: Any) -> nn.Module:
    """Batch norm whose statistics, weight and bias are fixed, for fine-tuning."""
    return FrozenBatchNorm(num_features, eps, **factory)


@NORMS.register("group")
def group(
    num_features: int, dims: int, *, num_groups: int = 8, eps: float = 1e-5, affine: bool = True, **factory: Any
) -> nn.Module:
    """Group norm (Wu and He, arXiv 1803.08494): statistics of each sample over groups of channels."""
    check_count("num_groups", num_groups)
    if num_features % num_groups:
        raise UserError(
            f"num_groups is {num_groups}, which does not divide the {num_features} channels of a layer; "
            f"give a divisor, such as num_groups={largest_divisor(num_features, num_groups)}"
        )
    return nn.GroupNorm(num_groups, num_features, eps, affine, **factory)


@NORMS.register("layer")
def layer(num_features: int, dims: int, *, eps: float = 1e-5, affine: bool = True, **factory: Any) -> nn.Module:
    """Layer norm at any size: statistics of each sample over (C, H, W), a weight and a bias a channel (one group)."""
    return nn.GroupNorm(1, num_features, eps, affine, **factory)


@NORMS.register("layer_elementwise")
def layer_elementwise(
    num_features: int, dims: int, *,
    shape: Sequence[int] | None = None, eps: float = 1e-5, affine: bool = True, **factory: Any,
) -> nn.Module:  # fmt: skip
    """Layer norm with a weight and a bias for each value, as in Online Normalization's code: one image size alone."""
    if shape is None:
        raise UserError("norm 'layer_elementwise' needs the shape behind the channels, such as shape=(32, 32)")
    if not isinstance(shape, Sequence) or not (len(shape) == dims or (dims == 1 and not shape)):
        raise UserError(f"shape is {shape!r}; expected {dims} sizes, as behind the channels of the input")
    for size in shape:
        check_count("a size of shape", size)
    return ElementwiseLayerNorm(num_features, tuple(shape), eps, affine, **factory)


@NORMS.register("instance")
def instance(num_features: int, dims: int, *, eps: float = 1e-5, affine: bool = True, **factory: Any) -> nn.Module:
    """Instance norm (Ulyanov et al., arXiv 1607.08022): statistics of each channel of each sample."""
    return _INSTANCE[dims](num_features, eps, affine=affine, **factory)


@NORMS.register("online")
def online(num_features: int, dims: int, **options: Any) -> nn.Module:
    """Online Normalization (Chiley et al., arXiv 1905.05894): running statistics, in training too; any batch size."""
    return _ONLINE[dims](num_features, **options)


@NORMS.register("none")
def none(num_features: int, dims: int, **factory: Any) -> nn.Module:
    """No norm: the identity."""
    return nn.Identity()


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(divisor for divisor in range(min(limit, number), 0, -1) if number % divisor == 0)


def check_count(name: str, value: object) -> None:
    """Raise a `UserError` unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} is {value!r}; expected a whole number of at least 1")
