"""Where a model is quantized: decided here alone, for quantization after training, for training, and for every runtime.

A layer (convolution, linear layer) reads rounded values and rounded weights. What it gives is rounded again, but for a
linear layer whose values the model returns; where a norm that can be folded into the layer or an activation that only
clips (ReLU, ReLU6) reads that alone, it is done before. So are sums, products, joined values and averages, which
runtimes compute in integers too. A call that only moves or picks values (pooling of maxima, reshaping, padding with
zeros) keeps the scale of what it reads. All else computes in float: it reads rounded values where they are rounded
already. These are the places at which ONNX Runtime, OpenVINO and TensorRT fuse QuantizeLinear and DequantizeLinear.
"""

import dataclasses
import fnmatch
from collections.abc import Collection, Sequence

from anysize.models.surgery.quantization.calls import NORM
from anysize.models.surgery.quantization.graph import Graph, Node
from anysize.registry import UserError, did_you_mean

LAYERS = {
    "conv1d": 0, "conv2d": 0, "conv3d": 0, "linear": 0,
    "conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1,
}  # fmt: skip
"""Functions of layers, each with the dimension of its weights that counts the output channels."""
_CLIPS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_", "clamp_min"}
SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_PRODUCTS = {"mul", "mul_", "__mul__", "__imul__", "__rmul__"}
JOINS = {"cat", "concat", "concatenate"}
_AVERAGES = {f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)} | {"mean"}
_MOVES = {
    *(f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)), "max_pool2d_with_indices",
    "flatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "contiguous", "unflatten",
    "chunk", "split", "split_with_sizes", "unbind", "__getitem__", "narrow", "select", "expand", "expand_as", "flip",
    "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "pad", "dropout", "dropout2d", "identity", "detach",
    "to", "float", "T", "mT",
}  # fmt: skip
"""Functions that give back values which they read; `pad` and `interpolate` only as their arguments say."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose weights are rounded.

    Args:
        key: of its call.
        name: of the module, or of the call where a module makes several.
        source: the quantizer of what it reads.
        channels: of what it gives, as its weights count them.
        channel_dim: the dimension of its weights that counts them.
    """

    key: str
    name: str
    source: str
    channels: int
    channel_dim: int

    @property
    def function(self) -> str:
        """The name of the function that it calls, such as `conv2d`."""
        return self.key.split(":")[-2]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the values of a model are rounded.

    Args:
        quantizers: the names of all quantizers, in order.
        points: the quantizer by the place whose value it rounds: the key of a call, with `#1` for its second result and
            so on; "images" for what the model is given.
        copies: as `points`, where a value has the scale already: rounding it again changes nothing, and only says so.
        layers: the layers with rounded weights, by the key of their call.
        sources: the quantizers of what sums, joins, averages and the like read, by the quantizer of what they give.
        kept: the layers in float with the reason, by name.
    """

    quantizers: tuple[str, ...]
    points: dict[str, str]
    copies: dict[str, str]
    layers: dict[str, Layer]
    sources: dict[str, tuple[str, ...]]
    kept: dict[str, str]


IMAGES = "images"


def place(graph: Graph, keep: Sequence[str] = (), folded: Collection[str] = ()) -> Placement:
    """Decide where the model of `graph` is quantized.

    Args:
        graph: of its forward pass in evaluation.
        keep: patterns (`fnmatch`) of the names of layers or of modules around them that stay in float.
        folded: the names of norms that will be folded into the layers before them.

    Raises:
        UserError: a pattern matches no layer, or the model has no layer that can be quantized.
    """
    return _Placing(graph, keep, folded).place()


class _Placing:
    def __init__(self, graph: Graph, keep: Sequence[str], folded: Collection[str]) -> None:
        self.graph = graph
        self.keep = keep
        self.folded = folded
        self.of_value: dict[int, str] = {}
        self.points: dict[str, str] = {}
        self.copies: dict[str, str] = {}
        self.heads: dict[int, str] = {}

    def place(self) -> Placement:
        kept: dict[str, str] = {}
        layers = [node for node in self.graph.nodes if node.call.function in LAYERS]
        names = _names(layers)
        self.check_patterns([*names.values()])
        for node in self.graph.nodes:
            for value in node.outputs:
                self.heads.setdefault(self.tail(value), node.key)
        quantized: dict[str, Layer] = {}
        sources: dict[str, tuple[str, ...]] = {}
        for node in self.graph.nodes:
            name = names.get(node.key, "")
            if reason := self.why_not(node, name):
                kept[name] = reason
            elif name:
                source = self.round(node.inputs[0])
                dim = LAYERS[node.call.function]
                shape = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
                quantized[node.key] = Layer(node.key, name, source, shape[dim], dim)
                if not self.is_result_of_linear(node):
                    self.round(self.tail(node.outputs[0]))
            elif self.computes(node):
                read = tuple(self.round(value) for value in node.inputs)
                sources[self.round(self.tail(node.outputs[0]))] = read
        if not quantized:
            raise UserError(
                "the model has no layer that can be quantized: "
                + ("; ".join(f"{name}: {reason}" for name, reason in kept.items()) or "it has no convolution")
            )
        order = dict.fromkeys(self.points.values())
        return Placement(tuple(order), self.points, self.copies, quantized, sources, kept)

    def check_patterns(self, names: list[str]) -> None:
        for pattern in self.keep:
            if not any(_matches(name, pattern) for name in names):
                raise UserError(
                    f"the layer to keep in float {pattern!r} is not there: {did_you_mean(pattern, names)}; patterns "
                    "such as 'layer1.*' are taken, too"
                )

    def why_not(self, node: Node, name: str) -> str:
        """Why a layer stays in float; empty for one that does not, and for what is no layer."""
        if not name:
            return ""
        if any(_matches(name, pattern) for pattern in self.keep):
            return "asked for"
        if node.moving:
            return "its weights follow from the images"
        if self.source_of(node.inputs[0]) in self.graph.unseen:
            return "what it reads comes from code that is no call of torch"
        return ""

    def source_of(self, value: int) -> int:
        """The value that calls which only move values have made this one of."""
        producer = self.graph.producers.get(value)
        return self.source_of(producer.inputs[0]) if producer and moves(producer) else value

    def computes(self, node: Node) -> bool:
        """Whether a call is one of those beside layers that are computed in integers."""
        name = node.call.function
        if any(self.source_of(value) in self.graph.unseen for value in node.inputs):
            return False
        if name in SUMS | _PRODUCTS:
            return len(node.inputs) == 2
        if name in JOINS:
            return len(node.inputs) > 1
        return name in _AVERAGES and len(node.shape) > 1 and (name != "mean" or len(node.args[0]) > 2)

    def tail(self, value: int) -> int:
        """The value behind the norms and clips that alone read a value of a layer, a sum or the like."""
        producer = self.graph.producers[value]
        if producer.call.function not in LAYERS and not self.computes(producer):
            return value
        norm_allowed = True
        while reader := self.graph.only_reader(value):
            is_norm = reader.call.function == NORM and reader.call.module in self.folded
            if not (is_norm and norm_allowed) and not clips(reader):
                break
            norm_allowed = False
            value = reader.outputs[0]
        return value

    def is_result_of_linear(self, node: Node) -> bool:
        """Whether nothing but a linear layer stands between its input and a result of the model."""
        return node.call.function == "linear" and not self.graph.readers.get(self.tail(node.outputs[0]))

    def round(self, value: int) -> str:
        """Have a value rounded; returns the name of its quantizer."""
        if value in self.of_value:
            return self.of_value[value]
        producer = self.graph.producers.get(value)
        if producer and moves(producer):
            self.of_value[value] = name = self.round(producer.inputs[0])
            self.copies[place_of(producer, value)] = name
        elif producer:
            place = place_of(producer, value)
            self.of_value[value] = self.points[place] = name = self.heads.get(value, place)
        else:
            self.of_value[value] = self.points[IMAGES] = name = IMAGES
        return name


def moves(node: Node) -> bool:
    """Whether a call gives back values that it reads, and nothing else but zeros."""
    name = node.call.function
    if name == "interpolate":
        return (node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")) in (
            "nearest",
            "nearest-exact",
        )
    if name == "pad":
        rest = [*node.args[2:], *node.kwargs.values()]
        return not any(isinstance(each, (int, float)) and each != 0 for each in rest if not isinstance(each, bool))
    return name in _MOVES and len(node.inputs) == 1


def clips(node: Node) -> bool:
    """Whether a call cuts values off below 0, or on both sides, and changes no other."""
    name = node.call.function
    if name not in _CLIPS or len(node.inputs) != 1:
        return False
    low = [*node.args[1:2], *(node.kwargs[key] for key in ("min", "min_val") if key in node.kwargs)]
    return name in ("relu", "relu_", "relu6") or low[:1] == [0]


def place_of(node: Node, value: int) -> str:
    """The place of a value that a call gives."""
    number = node.outputs.index(value)
    return f"{node.key}#{number}" if number else node.key


def _names(layers: Sequence[Node]) -> dict[str, str]:
    """The names of layers by the key of their call: the module's where it makes one call alone."""
    modules = [node.call.module for node in layers]
    alone = {module for module in modules if module and modules.count(module) == 1}
    return {node.key: node.call.module if node.call.module in alone else node.key for node in layers}


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a layer's name or that of a module around it."""
    parts = name.split(".")
    around = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return any(each == pattern or fnmatch.fnmatchcase(each, pattern) for each in around)
