"""The graph of a model's forward pass as `fold_batch_norm` reads it: traced by torch.fx, and what single nodes do."""

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from anysize.models.blocks.scales import ScaleSum
from anysize.norms.convert.recognise import recognise
from anysize.registry import UserError

_AUGMENTED = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.setitem,
)  # fmt: skip


class Tracer(fx.Tracer):
    """Leaves norms, layers and `ScaleSum` whole, and what it was told it cannot trace."""

    def __init__(self, whole: set[nn.Module]) -> None:
        super().__init__()
        self.whole = whole
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kind = recognise(m)
        known = (kind is not None and not kind.refused) or isinstance(m, (ScaleSum, _ConvNd, nn.Linear))
        return known or m in self.whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None and m not in self.whole:  # the innermost that can still be left whole
                self.failed = m
            raise


def trace(model: nn.Module, name: str) -> fx.Graph:
    """The graph of `model`; submodules that cannot be traced are left whole.

    Raises:
        UserError: the forward pass of `model` itself cannot be traced.
    """
    whole: set[nn.Module] = set()
    while True:
        tracer = Tracer(whole)
        try:
            return tracer.trace(model)
        except Exception as error:  # whatever a model's own code does to a value that is not there
            if tracer.failed is None:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"the norms of {name} cannot be folded: its forward pass cannot be traced by torch.fx ({reason}); "
                    "move what depends on values or shapes into a submodule, which is then left whole"
                ) from error
            whole.add(tracer.failed)


def input_of(node: fx.Node) -> Any:
    """The first value that a node reads."""
    return node.args[0] if node.args else next(iter(node.kwargs.values()))


def concatenated(node: fx.Node) -> list[Any] | None:
    """The nodes that a node joins along the channels; None if it does not."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat) or not node.args:
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = node.args[0]
    return list(parts) if dim == 1 and isinstance(parts, (list, tuple)) else None


def users_of(node: fx.Node) -> list[fx.Node]:
    """The nodes that read the values of a node; nodes that read its shape alone are left out."""
    return [user for user in node.users if not asks_shape(user)]


def asks_shape(node: fx.Node) -> bool:
    """Whether a node reads shape, type or place of a value alone."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim")


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node, which calls `module`, may change a value that it reads."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    changes = node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__")
    augmented = node.op == "call_function" and node.target in _AUGMENTED
    return changes or augmented or bool(node.kwargs.get("inplace")) or bool(getattr(module, "inplace", False))
