"""Batch norm folded into the convolutions around it: the same outputs in evaluation, with fewer passes over memory.

    fast = fold_batch_norm(model)           # the given model is not touched

In evaluation a batch norm multiplies each channel by a number and adds another one. The convolution before it can do
both: `W * scale` and `bias * scale + shift`. Where the norm stands behind a sum, as in each Elastic block, the scale
goes to every summand and the shift to one of them; averages (pooling, bilinear interpolation) let both through, since
their weights sum to one. A norm with an activation before it is folded into the convolutions behind it if nothing
but that norm feeds them and they pad with nothing, since a padded zero would have to be the shift. Any other stays.

The graph is torch.fx's, so any model is served that it can trace.
"""

import collections
import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from anysize.models.fold_layers import (
    Affine,
    Compensation,
    affine_of,
    apply_after,
    apply_before,
    is_same_padded,
    keeps_more,
    outputs_of,
    reads_no_padding,
    split_fused,
)
from anysize.models.scales import ScaleSum
from anysize.norms.recognise import recognise
from anysize.registry import UserError

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_SUMS = (operator.add, operator.iadd, torch.add)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_NOTHING = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
"""What a scale and a shift a channel pass through unchanged in evaluation."""


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` for evaluation with its batch norms folded into convolutions and linear layers.

    Folds batch, synchronised and frozen batch norms, torch's, torchvision's, timm's and ours, into convolutions,
    transposed convolutions and linear layers, and online norms up to their error compensation, which stays. The outputs
    are the same but for rounding: 1e-5 relative in float32. What cannot be folded stays as it is: a norm between two
    activations, a layer that is used twice, a module that torch.fx cannot trace.

    Args:
        model: any module that torch.fx traces once its untraceable submodules are left whole.

    Returns:
        A `torch.fx.GraphModule` in evaluation mode, with weights of its own; it takes what `model` takes. It is not
        for training.

    Raises:
        UserError: the forward pass of `model` itself cannot be traced, for instance because it depends on values.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> folded = fold_batch_norm(model)
    >>> [type(module).__name__ for module in folded.children()]
    ['Conv2d', 'ReLU']
    """
    copied = copy.deepcopy(model).eval()
    split_fused(copied)
    graph = _trace(copied, type(model).__name__)
    folder = _Folder(copied, graph)
    for node in list(graph.nodes):
        folder.fold_back(node)
    for node in list(graph.nodes):
        folder.fold_on(node)
    folded = fx.GraphModule(copied, graph, type(model).__name__)
    folded.graph.eliminate_dead_code(lambda node: not folder.may_go(node))
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded.eval()


Sinks = list[tuple[nn.Module, Affine]]
"""Layers with what each is to apply to its output."""


class _Folder:
    """What the graph of a model has to say on where a norm may go."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.graph = graph
        self.calls = collections.Counter(id(self.module(node)) for node in graph.nodes if node.op == "call_module")
        self.owners = collections.Counter(
            id(parameter) for module in model.modules() for parameter in module._parameters.values()
        )

    def module(self, node: Any) -> nn.Module | None:
        """The module that a node calls, if it does."""
        return self.model.get_submodule(node.target) if node.op == "call_module" else None

    def fold_back(self, node: fx.Node) -> None:
        """Fold a norm into the layers before it, if that can be."""
        norm = self.module(node)
        affine = affine_of(norm) if norm is not None else None
        if norm is None or affine is None or self.calls[id(norm)] > 1:
            return
        sinks = self.sinks(_input(node), affine)
        if sinks is None or len({id(layer) for layer, _ in sinks}) < len(sinks):
            return
        for layer, part in sinks:
            apply_after(layer, part)
        self.remove(node)

    def fold_on(self, node: fx.Node) -> None:
        """Fold a norm into the layers behind it, if that can be."""
        norm = self.module(node)
        affine = affine_of(norm) if norm is not None else None
        if norm is None or affine is None or self.calls[id(norm)] > 1 or keeps_more(norm):
            return
        layers: list[Any] = [self.module(user) for user in node.users]
        # Another user of the norm's input might change it in place before the layers read it.
        if len(_users(_input(node))) > 1 or not all(layer is not None and self.takes(layer) for layer in layers):
            return
        for layer in layers:
            if not reads_no_padding(layer) or layer.weight.shape[1] * getattr(layer, "groups", 1) != len(affine):
                return
        for layer in layers:
            apply_before(layer, affine)
        self.remove(node)

    def remove(self, node: fx.Node) -> None:
        """Take a norm whose scale and shift are elsewhere out of the graph."""
        norm = self.module(node)
        if keeps_more(norm):
            parent, _, name = str(node.target).rpartition(".")
            setattr(self.model.get_submodule(parent), name, Compensation(norm))
            return
        node.replace_all_uses_with(_input(node))
        self.graph.erase_node(node)

    def may_go(self, node: fx.Node) -> bool:
        """Whether a node that nothing reads can be left out, such as DLA's unused projections: it changes nothing."""
        module = self.module(node)
        norm = module is not None and recognise(module) is not None
        return norm or isinstance(module, (nn.Identity, *_LAYERS)) or _asks_shape(node)

    def takes(self, layer: nn.Module) -> bool:
        """Whether the weights of a layer may change: known arithmetic, called once, its parameters its own."""
        base = next((base for base in _LAYERS if isinstance(layer, base)), None)
        if base is None or "forward" in vars(layer) or hasattr(layer, "parametrizations"):
            return False
        own = type(layer).forward is not base.forward and not is_same_padded(layer)
        hooks = layer._forward_hooks or layer._forward_pre_hooks
        shared = any(self.owners[id(one)] > 1 for one in layer._parameters.values() if one is not None)
        return not own and not hooks and not shared and self.calls[id(layer)] == 1

    def sinks(self, node: Any, affine: Affine) -> Sinks | None:
        """The layers that can apply `affine` to the value of `node`; None where they cannot."""
        if not isinstance(node, fx.Node) or len(_users(node)) > 1:
            return None
        layer = self.module(node)
        if layer is not None and self.takes(layer):
            return [(layer, affine)] if outputs_of(layer) == len(affine) else None
        if self.passes(node):
            return self.sinks(_input(node), affine)
        if (summands := self.summands(node)) is not None:
            return self.all_sinks(summands, [affine, *[affine.unshifted()] * (len(summands) - 1)])
        if (parts := _concatenated(node)) is not None:
            channels = [self.channels(part) for part in parts]
            if None in channels or sum(channels) != len(affine):  # type: ignore[arg-type]
                return None
            return self.all_sinks(parts, affine.split(channels))  # type: ignore[arg-type]
        return None

    def all_sinks(self, nodes: list[Any], affines: list[Affine]) -> Sinks | None:
        """Those of several nodes; None where one of them has none."""
        found: Sinks = []
        for node, affine in zip(nodes, affines, strict=True):
            sinks = self.sinks(node, affine)
            if sinks is None:
                return None
            found += sinks
        return found

    def summands(self, node: fx.Node) -> list[Any] | None:
        """The nodes that a node adds up; None if it does not."""
        summed = node.op == "call_function" and node.target in _SUMS
        summed |= node.op == "call_method" and node.target in ("add", "add_")
        summed |= isinstance(self.module(node), ScaleSum)
        return list(node.args) if summed and len(node.args) == 2 and not node.kwargs else None

    def passes(self, node: fx.Node) -> bool:
        """Whether a node gives back each channel, or averages of it."""
        module = self.module(node)
        if isinstance(module, _AVERAGES):
            padded = any(value != 0 for value in _tuple(module.padding)) and module.count_include_pad
            return not padded and getattr(module, "divisor_override", None) is None
        if isinstance(module, nn.Upsample):
            return module.mode in ("nearest", "bilinear", "linear", "trilinear")
        return isinstance(module, _NOTHING) or (node.op == "call_function" and node.target is F.adaptive_avg_pool2d)

    def channels(self, node: Any) -> int | None:
        """Channels of the value of a node, where layers say so."""
        if not isinstance(node, fx.Node):
            return None
        module = self.module(node)
        if module is not None and outputs_of(module) is not None:
            return outputs_of(module)
        if self.passes(node):
            return self.channels(_input(node))
        if (summands := self.summands(node)) is not None:
            return self.channels(summands[0])
        if (parts := _concatenated(node)) is not None:
            counts = [self.channels(part) for part in parts]
            return None if None in counts else sum(counts)  # type: ignore[arg-type]
        return None


class _Tracer(fx.Tracer):
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
            self.failed = self.failed or m  # the innermost
            raise


def _trace(model: nn.Module, name: str) -> fx.Graph:
    whole: set[nn.Module] = set()
    while True:
        tracer = _Tracer(whole)
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


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else next(iter(node.kwargs.values()))


def _concatenated(node: fx.Node) -> list[Any] | None:
    """The nodes that a node joins along the channels; None if it does not."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat) or not node.args:
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = node.args[0]
    return list(parts) if dim == 1 and isinstance(parts, (list, tuple)) else None


def _users(node: fx.Node) -> list[fx.Node]:
    """Those that read the values of a node, not its shape alone."""
    return [user for user in node.users if not _asks_shape(user)]


def _asks_shape(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim")


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


__all__ = ["fold_batch_norm"]
