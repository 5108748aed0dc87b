"""The graph of a model's forward pass, recorded while it runs: which call reads which value.

graph = record(model, torch.zeros(1, 3, 64, 64))
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anysize.models.surgery.quantization.calls import Call, Interception, tensors_in


@dataclasses.dataclass
class Node:
    """A call in a graph.

    Args:
        call: which one.
        inputs: the values that it reads, in order of the arguments; parameters and constants are not among them.
        outputs: the values that it gives.
        args: its positional arguments; a tensor is its shape there.
        kwargs: its named arguments, likewise.
        moving: whether the second and third argument, a layer's weight and bias, follow from the images.
        in_place: whether it changes a value that it reads.
        shape: of its first result.
    """

    call: Call
    inputs: list[int]
    outputs: list[int]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    moving: bool
    in_place: bool
    shape: torch.Size

    @property
    def key(self) -> str:
        return self.call.key


@dataclasses.dataclass
class Graph:
    """The calls of a forward pass in order; values are numbers.

    Args:
        nodes: the calls.
        inputs: the values that the model was given.
        outputs: the values that it returned.
        unseen: values that code gave which is no call of torch, such as an autograd function.
    """

    nodes: list[Node]
    inputs: list[int]
    outputs: list[int]
    unseen: set[int]

    def __post_init__(self) -> None:
        self.producers = {value: node for node in self.nodes for value in node.outputs}
        self.readers: dict[int, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                self.readers.setdefault(value, []).append(node)

    def only_reader(self, value: int) -> Node | None:
        """The call that reads a value, if nothing else does and the model does not return it."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None


def record(model: nn.Module, images: Tensor) -> Graph:
    """Run `model` on `images` (N, C, H, W) as it is, without gradients, and return the graph of what it did.

    >>> graph = record(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    >>> [(node.key, node.inputs, node.outputs) for node in graph.nodes]
    [('0:conv2d:0', [0], [1]), ('1:relu:0', [1], [2])]
    """
    recorder = _Recorder(images, {id(each) for each in (*model.parameters(), *model.buffers())})
    with torch.no_grad(), Interception(model, recorder):
        result = model(images)
    return Graph(recorder.nodes, [0], [recorder.value(each) for each in tensors_in(result)], recorder.unseen)


class _Recorder:
    def __init__(self, images: Tensor, held: set[int]) -> None:
        self.nodes: list[Node] = []
        self.unseen: set[int] = set()
        self.held = held
        self.values: dict[int, int] = {id(images): 0}
        self.constants: set[int] = set()
        self.alive: list[Any] = [images]  # or an address would come to mean another tensor
        self.count = 1

    def __call__(self, call: Call, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        read = [tensor for tensor in tensors_in([args, kwargs]) if not self.is_constant(tensor)]
        inputs = [self.value(tensor) for tensor in read]
        result = run(*args, **kwargs)
        results = tensors_in(result)
        self.alive += [result, args, kwargs]
        if (
            call.function == "__setitem__" and inputs
        ):  # part of a tensor is another value now, and which is not followed
            self.constants.discard(id(args[0]))
            self.unseen.add(self.new(args[0]))
            return result
        if not results or not inputs:  # a question of shapes, or a value that does not depend on the images
            self.constants |= {id(tensor) for tensor in results if id(tensor) not in self.values}
            return result
        in_place = bool({id(tensor) for tensor in results} & {id(tensor) for tensor in read})
        layer = [args[i] if len(args) > i else kwargs.get(name) for i, name in ((1, "weight"), (2, "bias"))]
        moving = any(not self.is_constant(tensor) for tensor in tensors_in(layer))
        described = _described(args), _described(kwargs)
        outputs = [self.new(tensor) for tensor in results]
        self.unseen |= {n for n, each in zip(outputs, results, strict=True) if not each.is_floating_point()}
        self.nodes.append(Node(call, inputs, outputs, *described, moving, in_place, results[0].shape))
        return result

    def is_constant(self, tensor: Tensor) -> bool:
        return id(tensor) in self.held or id(tensor) in self.constants

    def value(self, tensor: Tensor) -> int:
        """The number of a value; one that no call gave gets a new one."""
        if id(tensor) not in self.values:
            self.unseen.add(self.new(tensor))
        return self.values[id(tensor)]

    def new(self, tensor: Tensor) -> int:
        self.alive.append(tensor)
        self.values[id(tensor)] = self.count
        self.count += 1
        return self.values[id(tensor)]


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if isinstance(value, dict):
        return {key: _described(each) for key, each in value.items()}
    return value
