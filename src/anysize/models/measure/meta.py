"""Models of which only names and shapes are wanted: built or copied without memory for their weights."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy `model` to the meta device, where it computes shapes alone; no weight is copied.

    >>> meta_copy(nn.Linear(3, 4))(torch.empty(2, 3, device="meta")).shape
    torch.Size([2, 4])
    """
    memo: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


class _EmptyOnMeta(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


__all__ = ["build_on_meta", "meta_copy"]
