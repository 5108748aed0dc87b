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

from anysize.models.blocks.scales import ScaleSum
from anysize.models.checks import check_is_model
from anysize.models.surgery.fold_graph import asks_shape, concatenated, input_of, trace, users_of, works_in_place
from anysize.models.surgery.fold_layers import (
    Affine,
    Compensation,
    affine_of,
    apply_after,
    apply_before,
    is_same_padded,
    keeps_more,
    outputs_of,
    passes_channels,
    reads_no_padding,
    split_fused,
    takes_vectors,
)
from anysize.norms.by_size.model import refuse_norm_by_size
from anysize.norms.convert.recognise import recognise
from anysize.registry import UserError

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_SUMS = (operator.add, operator.iadd, torch.add)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` for evaluation with its batch norms folded into convolutions and linear layers.

    Folds batch, synchronised and frozen batch norms, torch's, torchvision's, timm's and ours, into convolutions,
    transposed convolutions and linear layers, and online norms up to their error compensation, which stays. The outputs
    are the same but for rounding: 1e-5 relative in float32. What cannot be folded stays as it is: a norm between two
    activations, a layer that is used twice, a module that torch.fx cannot trace. Behind and before linear layers a norm
    is folded for values (N, C); the folded model refuses others there.

    `model` is any module that torch.fx traces once its untraceable submodules are left whole. Returned is a
    `torch.fx.GraphModule` in evaluation mode, not for training, with weights of its own; it takes what `model` takes.

    Raises:
        UserError: the forward pass of `model` itself cannot be traced, for instance because it depends on values.

    >>> folded = fold_batch_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    >>> [type(module).__name__ for module in folded.children()]
    ['Conv2d', 'ReLU']
    """
    check_is_model("fold_batch_norm", model)
    refuse_norm_by_size(model, "folding")
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    copied = copy.deepcopy(model).eval()
    graph, folder = _fold(copied)
    folded = fx.GraphModule(copied, graph, type(model).__name__)
    folded.graph.eliminate_dead_code(lambda node: not folder.may_go(node))
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded.eval()


def fold_in_place(model: nn.Module) -> dict[str, str]:
    """Fold the norms of `model` as `fold_batch_norm` does, but in the model itself.

    Returned are their names, each with where the layers stand that have taken it over: "before" it or "behind" it.

    Layers, code and the names of modules stay: a norm that is folded becomes an `nn.Identity`, or what is left of it.
    The model is then for evaluation alone. Where torch.fx cannot trace it, nothing is folded.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> fold_in_place(model), model[1]
    ({'1': 'before'}, Identity())
    """
    refuse_norm_by_size(model, "folding")
    model.eval()
    try:
        _, folder = _fold(model)
    except UserError:
        return {}
    for norm, rest in folder.replaced:
        for parent in list(model.modules()):
            for attribute, child in parent._modules.items():
                if child is norm:  # under each of its names
                    parent._modules[attribute] = rest
    return {name: "behind" if name in folder.behind else "before" for name in folder.removed}


def _fold(model: nn.Module) -> "tuple[fx.Graph, _Folder]":
    """Fold the norms of `model` into its layers; the graph that is returned is without them, the model with them."""
    split_fused(model)
    graph = trace(model, type(model).__name__)
    folder = _Folder(model, graph)
    for node in list(graph.nodes):
        folder.fold_back(node)
    for node in list(graph.nodes):
        folder.fold_on(node)
    return graph, folder


_NOT_FLAT = "a norm was folded into a linear layer for values (N, C), and these have other dimensions"


class _Flat(nn.Module):
    """Takes the place of a norm that was folded into a linear layer: passes values (N, C), refuses others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._assert(x.dim() == 2, _NOT_FLAT)
        return x


Sinks = list[tuple[nn.Module, Affine]]
"""Layers with what each is to apply to its output."""


class _Folder:
    """Folds the norms in the graph of a model, one by one."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.graph = graph
        self.replaced: list[tuple[nn.Module, nn.Module]] = []
        """The norms that are folded, each with what takes its place."""
        self.removed: dict[str, nn.Module] = {}
        """What takes the place of each norm that is folded, by its name."""
        self.behind: set[str] = set()
        """The names of those that were folded into the layers behind them."""
        called = [model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
        self.calls = collections.Counter(id(part) for module in called for part in module.modules())
        owned = (parameter for module in model.modules() for parameter in module._parameters.values())
        self.owners = collections.Counter(map(id, owned))
        # A parameter that the model reads itself has another owner beside its layer.
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.owners.update(id(parameters.get(str(node.target))) for node in graph.nodes if node.op == "get_attr")

    def module(self, node: Any) -> nn.Module | None:
        """The module that a node calls, if it does."""
        return self.model.get_submodule(node.target) if node.op == "call_module" else None

    def fold_back(self, node: fx.Node) -> None:
        """Fold a norm into the layers before it, if that can be."""
        norm = self.module(node)
        affine = affine_of(norm) if norm is not None else None
        if norm is None or affine is None or self.calls[id(norm)] > 1:
            return
        sinks = self.sinks(input_of(node), affine) or []
        layers = [layer for layer, _ in sinks]
        if layers and len({id(layer) for layer in layers}) == len(layers) and self.fit_together(norm, layers):
            for layer, part in sinks:
                apply_after(layer, part)
            self.remove(node, layers)

    def fold_on(self, node: fx.Node) -> None:
        """Fold a norm into the layers behind it, if that can be."""
        norm = self.module(node)
        affine = affine_of(norm) if norm is not None else None
        if norm is None or affine is None or self.calls[id(norm)] > 1 or keeps_more(norm):
            return
        layers: list[Any] = [self.module(user) for user in node.users]
        if len(users_of(input_of(node))) > 1 or not all(layer is not None and self.takes(layer) for layer in layers):
            return
        if not self.fit_together(norm, layers) or self.changes_until(node, set(node.users)):
            return
        inputs = [layer.weight.shape[1] * getattr(layer, "groups", 1) for layer in layers if reads_no_padding(layer)]
        if inputs == [len(affine)] * len(layers):
            for layer in layers:
                apply_before(layer, affine)
            self.behind.add(str(node.target))
            self.remove(node, layers)

    def fit_together(self, norm: nn.Module, layers: list[Any]) -> bool:
        """Whether the channels of a norm may be those of layers: of (N, C, L, ...) a linear layer takes the last L."""
        return takes_vectors(norm) or not any(isinstance(layer, nn.Linear) for layer in layers)

    def changes_until(self, node: fx.Node, users: set[fx.Node]) -> bool:
        """Whether anything works in place between a node and the last of `users`: by a view, on what it reads."""
        left, following = set(users), node.next
        while left:
            if works_in_place(following, self.module(following)):
                return True
            left.discard(following)
            following = following.next
        return False

    def remove(self, node: fx.Node, layers: list[Any]) -> None:
        """Take a norm whose scale and shift are in `layers` out of the graph."""
        norm = self.module(node)
        flat = any(isinstance(layer, nn.Linear) for layer in layers)
        self.removed[str(node.target)] = Compensation(norm) if keeps_more(norm) else _Flat() if flat else nn.Identity()
        self.replaced.append((self.model.get_submodule(str(node.target)), self.removed[str(node.target)]))
        if flat:
            with self.graph.inserting_before(node):
                dims = self.graph.call_method("dim", (input_of(node),))
                two = self.graph.call_function(operator.eq, (dims, 2))
                self.graph.call_function(torch._assert, (two, _NOT_FLAT))
        if keeps_more(norm):
            parent, _, name = str(node.target).rpartition(".")
            setattr(self.model.get_submodule(parent), name, self.removed[str(node.target)])
            return
        node.replace_all_uses_with(input_of(node))
        self.graph.erase_node(node)

    def may_go(self, node: fx.Node) -> bool:
        """Whether a node that nothing reads can be left out, such as DLA's unused projections: it changes nothing."""
        module = self.module(node)
        norm = module is not None and recognise(module) is not None
        return norm or isinstance(module, (nn.Identity, *_LAYERS)) or asks_shape(node)

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
        if not isinstance(node, fx.Node) or len(users_of(node)) > 1:
            return None
        layer = self.module(node)
        if layer is not None and self.takes(layer):
            return [(layer, affine)] if outputs_of(layer) == len(affine) else None
        if self.passes(node):
            return self.sinks(input_of(node), affine)
        if (summands := self.summands(node)) is not None:
            return self.all_sinks(summands, [affine, *[affine.unshifted()] * (len(summands) - 1)])
        if (parts := concatenated(node)) is not None:
            channels = [self.channels(part) for part in parts]
            if None in channels or sum(channels) != len(affine):  # type: ignore[arg-type]
                return None
            return self.all_sinks(parts, affine.split(channels))  # type: ignore[arg-type]
        return None

    def all_sinks(self, nodes: list[Any], affines: list[Affine]) -> Sinks | None:
        """The layers that can apply `affines` to the values of several nodes; None where one node has no such layer."""
        found = [self.sinks(node, affine) for node, affine in zip(nodes, affines, strict=True)]
        return None if None in found else [sink for sinks in found for sink in sinks or ()]

    def summands(self, node: fx.Node) -> list[Any] | None:
        """The nodes that a node adds up; None if it does not."""
        summed = node.op == "call_function" and node.target in _SUMS
        summed |= node.op == "call_method" and node.target in ("add", "add_")
        summed |= isinstance(self.module(node), ScaleSum)
        return list(node.args) if summed and len(node.args) == 2 and not node.kwargs else None

    def passes(self, node: fx.Node) -> bool:
        """Whether a node gives back each channel, or averages of it."""
        module = self.module(node)
        function = node.op == "call_function" and node.target is F.adaptive_avg_pool2d
        return function or (module is not None and passes_channels(module))

    def channels(self, node: Any) -> int | None:
        """Channels of the value of a node, where layers say so."""
        if not isinstance(node, fx.Node):
            return None
        module = self.module(node)
        if module is not None and outputs_of(module) is not None:
            return outputs_of(module)
        if self.passes(node):
            return self.channels(input_of(node))
        if (summands := self.summands(node)) is not None:
            return self.channels(summands[0])
        if (parts := concatenated(node)) is not None:
            counts = [self.channels(part) for part in parts]
            return None if None in counts else sum(counts)  # type: ignore[arg-type]
        return None
