"""Models of which only names and shapes are wanted: built or copied without memory for their weights."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from anysize.norms.convert.inputs import meta_copy as meta_copy

T = TypeVar("T")


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Call `build` and return its model on the meta device, where it computes shapes alone.

    `torch.device("meta")` would not do for every builder: some of torchvision's compute widths with tensors. So only
    memory that is not filled in (weights that are to be initialised) is put there at once, the rest at the end.

    >>> from anysize.models.spec import create_model
    >>> model = build_on_meta(lambda: create_model("regnet_y_400mf", num_classes=7))
    >>> model(torch.empty(2, 3, 64, 64, device="meta")).shape
    torch.Size([2, 7])
    """
    with _EmptyOnMeta():
        model = build()
    return model.to("meta")


def try_on_meta(model: nn.Module, run: Callable[[nn.Module], T]) -> T:
    """Call `run` with a copy of `model` on the meta device; with one that computes where the model cannot run there.

    A model cannot where it reads values, or calls what has no kernel for that device.
    """
    try:
        return run(meta_copy(model))
    except (NotImplementedError, RuntimeError):
        return run(copy.deepcopy(model))


def device_of(model: nn.Module) -> torch.device:
    """The device of the parameters of `model`; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class _EmptyOnMeta(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
