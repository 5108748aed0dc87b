"""Finding the norms of a model, each with its kind, or with the reason why it cannot be swapped.

torch's, torchvision's, timm's and our own are known by name, so that neither torchvision nor timm is imported. A norm
whose `forward` is not that of a known class is not guessed at.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin


@dataclasses.dataclass(frozen=True)
class Kind:
    """A known class of norms.

    Args:
        name: what `create_norm` calls it; empty where it has no such norm.
        dims: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W); 0: any of them.
        fused: dropout and activation follow inside the module, as its `drop` and `act`.
        refused: why it cannot be swapped; empty where it can.
    """

    name: str = ""
    dims: int = 0
    fused: bool = False
    refused: str = ""


_KNOWN = {
    **{f"torch.BatchNorm{d}d": Kind("batch", d) for d in (1, 2, 3)},
    **{f"torch.InstanceNorm{d}d": Kind("instance", d) for d in (1, 2, 3)},
    "torch.SyncBatchNorm": Kind("sync_batch"),
    "torch.GroupNorm": Kind("group"),
    "torchvision.FrozenBatchNorm2d": Kind("frozen_batch", 2),
    "torchvision.LayerNorm2d": Kind("", 2),
    **{f"timm.{name}": Kind("group") for name in ("GroupNorm", "GroupNorm1")},
    **{f"timm.{name}": Kind("", 2) for name in ("LayerNorm2d", "LayerNorm2dFp32", "LayerNormExp2d")},
    "timm.BatchNormAct2d": Kind("batch", 2, fused=True),
    "timm.SyncBatchNormAct": Kind("sync_batch", 2, fused=True),
    "timm.FrozenBatchNormAct2d": Kind("frozen_batch", 2, fused=True),
    **{f"timm.{name}": Kind("group", fused=True) for name in ("GroupNormAct", "GroupNorm1Act")},
    **{f"timm.{name}": Kind("", 2, fused=True) for name in ("LayerNormAct2d", "LayerNormAct2dFp32")},
    **{f"anysize.OnlineNorm{d}d": Kind("online", d) for d in (1, 2, 3)},
    "anysize.InstanceNorm1d": Kind("instance", 1),
    "anysize.SyncBatchNorm": Kind("sync_batch"),
    "anysize.FrozenBatchNorm": Kind("frozen_batch"),
    "anysize.ElementwiseLayerNorm": Kind("layer_elementwise"),
}


def recognise(module: nn.Module) -> Kind | None:
    """The kind of norm that `module` is; None: no norm.

    >>> recognise(nn.BatchNorm2d(3))
    Kind(name='batch', dims=2, fused=False, refused='')
    """
    if isinstance(module, LazyModuleMixin):
        lazy = isinstance(module, _NormBase)
        return Kind(refused="has not seen a batch yet: call the model once before") if lazy else None
    for base in type(module).__mro__:
        kind = _KNOWN.get(f"{base.__module__.split('.')[0]}.{base.__name__}")
        if kind is not None:
            return _settle(module, kind, base)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        dims = len(module.normalized_shape) - 1
        if type(module).forward is nn.LayerNorm.forward and dims in (2, 3):  # over (C, H, W) or (C, D, H, W)
            return Kind("layer_elementwise", dims)
        return Kind(refused="normalises the last dimension, not channels of (N, C, ...)")
    return Kind(refused="is not known") if _looks_like_norm(module) else None


def _settle(module: Any, kind: Kind, base: type) -> Kind:
    if type(module).forward is not base.forward or "forward" in vars(module):  # type: ignore[attr-defined]
        return Kind(refused=f"is a {base.__name__} with a forward of its own")
    if hasattr(module, "parametrizations"):
        return Kind(refused="has parametrizations")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return Kind(refused="has hooks, which would be lost: remove them before")
    if kind.name == "group" and module.num_groups == 1:
        return dataclasses.replace(kind, name="layer")
    if kind.name == "layer_elementwise":
        return dataclasses.replace(kind, dims=max(1, len(module.normalized_shape) - 1))
    return kind


def _looks_like_norm(module: nn.Module) -> bool:
    """Named like a norm, with nothing but vectors for parameters, and with no norm inside that could be swapped."""
    parameters = list(module.parameters(recurse=False))
    return (
        re.search(r"norm|abn$", type(module).__name__, re.IGNORECASE) is not None
        and bool(parameters)
        and all(parameter.numel() == max(parameter.shape, default=1) for parameter in parameters)
        and not any(recognise(part) for child in module.children() for part in child.modules())
    )


@dataclasses.dataclass
class Found:
    """A norm of a model, with every name that it has there."""

    module: Any
    kind: Kind
    names: list[str]
    skipped: bool = False

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def class_name(self) -> str:
        """The class that is to be swapped."""
        return type(self.module).__name__


def find_norms(model: nn.Module, skip: Sequence[str] = ()) -> tuple[list[Found], set[str]]:
    """All norms of a model in order, and those of the patterns `skip` that matched something.

    A pattern (`fnmatch`) that matches a module's name or class leaves out all norms inside that module.

    >>> found, _ = find_norms(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2)), ["Batch*"])
    >>> [(norm.name, norm.skipped) for norm in found]
    [('1', True), ('2', False)]
    """
    found: dict[int, Found] = {}
    matched: set[str] = set()
    for name, module, kind, hits in _walk(model, "", skip, frozenset()):
        matched |= hits
        if kind is not None:
            norm = found.setdefault(id(module), Found(module, kind, []))
            norm.names.append(name)
            norm.skipped |= bool(hits)
    return list(found.values()), matched


def _walk(
    module: nn.Module, name: str, skip: Sequence[str], outer: frozenset[str]
) -> Iterator[tuple[str, nn.Module, Kind | None, frozenset[str]]]:
    class_name = type(module).__name__
    hits = outer | {p for p in skip if fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(class_name, p)}
    kind = recognise(module)
    yield name, module, kind, hits
    if kind is None:
        for key, child in module._modules.items():  # named_children leaves second names out
            if child is not None:
                yield from _walk(child, f"{name}.{key}" if name else key, skip, hits)
