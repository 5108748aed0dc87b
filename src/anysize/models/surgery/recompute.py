"""Activation checkpointing: less memory for a second forward pass.

    checkpoint_segments(model, 2)           # or --model.checkpoint-segments 2 in a recipe

Between forward and backward only what enters a segment is kept; its activations are computed again when the backward
pass needs them (Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174). Losses, gradients,
running statistics and random numbers are those of the plain run, to the bit: running statistics move once, which
PyTorch leaves to the model, and an online norm starts its second pass where its first one did.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from anysize.models.checks import check_is_model
from anysize.norms.by_size.norm import places_of, set_places
from anysize.norms.online.norm import online_norms
from anysize.registry import UserError

_OFF = contextvars.ContextVar("off", default=False)


@contextlib.contextmanager
def computed_once() -> Iterator[None]:
    """Let models keep all their activations meanwhile, as if they had no segments: to count FLOPs."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def checkpoint_segments(model: nn.Module, segments: int) -> list[str]:
    """Let `model` recompute the activations of its stages in the backward pass, in place; returns the stages' names.

    A stage is an outermost `nn.Sequential` of two modules or more, such as `layer1` to `layer4` of a ResNet; it is cut
    into `segments` pieces of about as many modules. Containers whose forward pass is their own are stages, too: the
    layers of a dense block and the cells of a `ModuleList` are recomputed one by one, and a module with an attribute
    `checkpoint_children`, such as DLA's trees, names those of its children that share the segments.

    Memory between forward and backward falls with fewer segments; at its peak one segment's activations come on top,
    which fall with more of them. A training step takes up to a third longer. Evaluation, parameters, names in the
    state_dict and copies of the model are as before. Under `torch.compile` each segment is recomputed, too. Not for
    `torch.func.functional_call` with a backward pass outside: the second forward pass sees the model's own weights.

    Args:
        model: not checkpointed yet.
        segments: at least 1: pieces that a stage is cut into; a stage of fewer modules has as many pieces as modules.

    Raises:
        UserError: fewer segments than 1, a model without stages, or one that recomputes already.

    >>> from anysize.models.spec import create_model
    >>> from anysize.models.measure.memory import activation_bytes
    >>> model = create_model("resnet20")
    >>> before = activation_bytes(model, size=32)
    >>> checkpoint_segments(model, 2)
    ['layer1', 'layer2', 'layer3']
    >>> round(before / activation_bytes(model, size=32), 1)
    4.4
    """
    check_is_model("checkpoint_segments", model)
    if not isinstance(segments, int) or segments < 1:
        raise UserError(f"checkpoint segments are {segments!r}; expected at least 1, a whole number")
    if any(isinstance(vars(module).get("forward"), _Recomputed) for module in model.modules()):
        raise UserError(f"{type(model).__name__} recomputes its activations already; build it anew for other segments")
    stages = dict(_stages(model, ""))
    if not stages:
        raise UserError(
            f"{type(model).__name__} has no stages to recompute: no nn.Sequential of two modules or more; put the "
            "layers of each stage into one, or name the stages in an attribute checkpoint_children of the model"
        )
    for stage in stages.values():
        _into_segments(stage, segments)
    return list(stages)


class _Recomputed:
    """The forward pass of a module in segments; takes the place of `module.forward`."""

    def __init__(self, module: nn.Module, segments: int) -> None:
        self.module = module
        self.segments = segments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        off = not torch.compiler.is_compiling() and _OFF.get()
        if not module.training or not torch.is_grad_enabled() or off:
            return type(module).forward(module, *args, **kwargs)
        if kwargs or not _in_a_row(module):
            return _recompute(functools.partial(type(module).forward, module), [module], args, kwargs)
        (value,) = args
        children = list(module.children())
        while children and _changes_input(children[0]):  # what is kept must stay as it is
            value = children.pop(0)(value)
        for group in _groups(children, self.segments):
            value = _recompute(functools.partial(_one_after_another, group), group, (value,), {})
        return value


def _stages(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The stages of a model by name."""
    children = list(module.named_children())
    if _checkpoint_children(module) or (_in_a_row(module) and len(children) > 1):
        inner = [child for _, child in children if _checkpoint_children(child)]
        if not _in_a_row(module) or not inner:  # a row of dense blocks, whose layers are worth more
            yield name, module
            return
    for child_name, child in children:
        yield from _stages(child, f"{name}.{child_name}" if name else child_name)


def _in_a_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _checkpoint_children(module: nn.Module) -> list[nn.Module]:
    """The children of a module with a forward pass of its own that are recomputed apart; empty for any other."""
    named = getattr(module, "checkpoint_children", None)
    if named is not None:
        return [module.get_submodule(name) for name in named]
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not _in_a_row(module):
        return list(module.children()) if len(list(module.children())) > 1 else []
    return []


def _into_segments(module: nn.Module, segments: int) -> None:
    """Let a stage be recomputed in `segments` pieces."""
    parts = _checkpoint_children(module)
    container = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    if not parts or (segments == 1 and not container):
        module.forward = _Recomputed(module, segments)
        return
    for part in parts:
        _into_segments(part, 1 if container else math.ceil(segments / len(parts)))


def _groups(modules: Sequence[nn.Module], count: int) -> list[list[nn.Module]]:
    """At most `count` pieces of about equal length, none of which begins by changing its input in place."""
    groups: list[list[nn.Module]] = []
    count = min(count, len(modules))
    ends = {len(modules) * (i + 1) // count for i in range(count)}
    for i, module in enumerate(modules):
        if not groups or (i in ends and not _changes_input(module)):
            groups.append([])
        groups[-1].append(module)
    return groups


def _changes_input(module: nn.Module) -> bool:
    """Whether the first thing that a row of layers or an activation does is done in place."""
    while _in_a_row(module) and len(module):  # type: ignore[arg-type]
        module = next(module.children())
    return bool(getattr(module, "inplace", False))


def _one_after_another(modules: Sequence[nn.Module], value: Tensor) -> Tensor:
    for module in modules:
        value = module(value)
    return value


def _recompute(forward: Callable[..., Any], modules: Sequence[nn.Module], args: Any, kwargs: Any) -> Any:
    """Run `forward`, keep of it only the tensors that enter it, and run it again in the backward pass."""
    leaves, form = pytree.tree_flatten((args, kwargs))  # checkpoint sees tensors among its own arguments alone
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[i] for i in places]
    others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def run(*given: Tensor) -> Any:
        filled = list(others)
        for i, tensor in zip(places, given, strict=True):
            filled[i] = tensor
        run_args, run_kwargs = pytree.tree_unflatten(filled, form)
        return forward(*run_args, **run_kwargs)

    if torch.compiler.is_compiling():  # whose second pass repeats no update of a buffer
        return checkpoint(run, *tensors, use_reentrant=False)
    versions = [tensor._version for tensor in tensors]
    aside = contextlib.nullcontext(), _StatisticsAside(modules)
    result = checkpoint(run, *tensors, use_reentrant=False, context_fn=lambda: aside)
    if versions != [tensor._version for tensor in tensors]:
        raise UserError(
            f"{type(modules[0]).__name__} changes its input in place, so it cannot be computed again from it; build it "
            "with inplace=False, or train without checkpoint segments"
        )
    return result


class _StatisticsAside:
    """A context in which a forward pass updates copies of the buffers; online norms know that they recompute.

    Norms by size are set to the size of the first pass.

    With `retain_graph` each backward pass enters the same one.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.places = places_of(modules)
        self.since = self.places
        self.before: list[list[tuple[nn.Module, dict[str, Tensor | None]]]] = []

    def __enter__(self) -> None:
        self.since = places_of(self.modules)
        set_places(self.places)
        online = {norm.norm for module in self.modules for _, norm in online_norms(module)}
        owners = [owner for module in self.modules for owner in module.modules() if owner._buffers]
        self.before.append([(owner, dict(owner._buffers)) for owner in owners if owner not in online])
        for owner, buffers in self.before[-1]:
            owner._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})

    def __exit__(self, *error: object) -> None:
        set_places(self.since)
        for owner, buffers in self.before.pop():
            owner._buffers.update(buffers)
