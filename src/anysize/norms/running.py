"""Which norms keep running statistics, and where."""

from typing import Any

from torch import Tensor, nn

from anysize.norms.online.norm import OnlineNorm1d, OnlineNorm2d, OnlineNorm3d
from anysize.norms.synchronised import SyncBatchNorm


def running_norms(model: nn.Module) -> dict[str, Any]:
    """The norms of a model that keep running statistics, by name; a norm that is the model itself by its class.

    >>> list(running_norms(nn.Sequential(nn.BatchNorm2d(3), nn.GroupNorm(1, 3))))
    ['0']
    """
    norms = ((name, module) for name, module in model.named_modules() if keeps_statistics(module))
    return {name or type(module).__name__: module for name, module in norms}


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm that keeps running statistics: an online norm, or known by its attributes."""
    running = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return is_online(module) or (hasattr(module, "momentum") and all(isinstance(value, Tensor) for value in running))


def statistics_of(norm: Any) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a norm, (C,)."""
    return (norm.norm.m, norm.norm.var) if is_online(norm) else (norm.running_mean, norm.running_var)


def is_online(module: nn.Module) -> bool:
    """Whether a module is an online norm; its statistics have other names, and a variance that is biased."""
    return isinstance(module, (OnlineNorm1d, OnlineNorm2d, OnlineNorm3d))


def is_synchronised(module: nn.Module) -> bool:
    """Whether a module is a batch norm over several processes, torch's or ours."""
    return isinstance(module, (nn.SyncBatchNorm, SyncBatchNorm))
