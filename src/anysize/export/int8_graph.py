"""The graph of an exported int8 model, made such that runtimes find all that they can compute in integers.

The exporter writes down what PyTorch computed; runtimes look for patterns. What is changed here changes no result.
"""

from typing import Any

_WEIGHTS = ".integers"


def ready_for_runtimes(model: Any) -> None:
    """Change an ONNX model (`onnx.ModelProto`), in place.

    - A shape that is read off a value before it is quantized is read off the quantized one: ONNX Runtime computes a
      layer in integers only where nothing else reads what it gives.
    - Weights get a zero point, which it asks for in `Gemm`.
    - An average over height and width becomes `GlobalAveragePool`, which it has in integers.
    - Layers are named as the model's modules are, so that a profile speaks of them.
    - Notes of the exporter on where each node is from are left out: they are longer than the weights of a small model.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    held = {each.name: each for each in graph.initializer}
    quantized = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    weights: dict[str, str] = {}
    named: set[str] = set()
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in quantized:
            node.input[0] = quantized[node.input[0]]
        elif node.op_type == "DequantizeLinear" and len(node.input) == 2 and node.input[0] in held:
            source, scale = held[node.input[0]], held[node.input[1]]
            weights[node.output[0]] = source.name
            if source.data_type != TensorProto.INT8:
                continue
            kind = helper.tensor_dtype_to_np_dtype(source.data_type)
            zero = numpy_helper.from_array(np.zeros(tuple(scale.dims), kind), f"{source.name}.zero_point")
            if zero.name not in held:
                graph.initializer.append(zero)
                held[zero.name] = zero
            node.input.append(zero.name)
        elif node.op_type == "ReduceMean" and _averages_positions(node, held):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]
        elif len(node.input) > 1 and node.input[1] in weights:
            name = _layer_of(weights[node.input[1]])
            if name and name not in named:  # layers with equal weights share them
                node.name = name
                named.add(name)
    for node in graph.node:
        del node.metadata_props[:]
    del graph.value_info[:]
    _drop_unread(graph)
    _sort(graph)


def _averages_positions(node: Any, held: dict[str, Any]) -> bool:
    """Whether a node averages (N, C, H, W) over H and W to (N, C, 1, 1)."""
    from onnx import numpy_helper

    keeps = all(each.i == 1 for each in node.attribute if each.name == "keepdims")
    if not keeps or len(node.input) < 2 or node.input[1] not in held:
        return False
    return {int(axis) for axis in numpy_helper.to_array(held[node.input[1]])} in ({-1, -2}, {2, 3})


def _layer_of(name: str) -> str:
    """The key of the layer whose weights have this name in the graph; empty for others."""
    if not name.endswith(_WEIGHTS):
        return ""
    return name.removesuffix(_WEIGHTS).rpartition(".")[2].replace("/", ".")


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _sort(graph: Any) -> None:
    """Put nodes behind those that they read, otherwise in the order that they have."""
    known = {"", *(each.name for each in graph.initializer), *(each.name for each in graph.input)}
    waiting: list[Any] = []
    ordered: list[Any] = []

    def take(node: Any) -> bool:
        if not known.issuperset(node.input):
            return False
        known.update(node.output)
        ordered.append(node)
        return True

    for node in graph.node:
        if not take(node):
            waiting.append(node)
            continue
        while len(left := [late for late in waiting if not take(late)]) < len(waiting):
            waiting = left
    del graph.node[:]
    graph.node.extend(ordered)
