"""The graph of an exported int8 model, made such that runtimes find all that they can compute in integers.

The exporter writes down what PyTorch computed; runtimes look for patterns. What is changed here changes no result.
"""

import collections
import re
from pathlib import Path
from typing import Any

_WEIGHTS = ".integers"
_QUANTIZER = re.compile(r"\bquantization\.(weights|values)\.([^.]+)\.(.+)$")
"""The name of a tensor of a quantizer."""


def ready_for_runtimes(model: Any) -> None:
    """Change an ONNX model (`onnx.ModelProto`), in place.

    - A shape that is read off a value before it is quantized is read off the quantized one: ONNX Runtime computes a
      layer in integers only where nothing else reads what it gives.
    - Weights get a zero point where a `Gemm` reads them: it asks for one there.
    - Biases of convolutions are float32, exactly what their integers stand for: the unit of a bias follows from the
      scales that its layer has anyway, so that runtimes find the same integers again, and TensorRT takes no others.
      `Gemm` keeps its integers: with a bias in float ONNX Runtime computes it in float.
    - An average over height and width becomes `GlobalAveragePool`, which it has in integers.
    - Layers are named as their calls are, so that a profile speaks of them; their weights, scales and biases as the
      model's modules are.
    - Notes of the exporter on where each node is from are left out: they are longer than the weights of a small model.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    held = {each.name: each for each in graph.initializer}
    quantized = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    weights: dict[str, str] = {}
    named: set[str] = set()
    read_by_gemm = {name for node in graph.node if node.op_type == "Gemm" for name in node.input}
    biases = [node for node in graph.node if _is_bias(node, held) and node.output[0] not in read_by_gemm]
    for node in biases:
        integers, unit = (numpy_helper.to_array(held[name]).astype(np.float64) for name in node.input)
        graph.initializer.append(numpy_helper.from_array((integers * unit).astype(np.float32), node.output[0]))
        graph.node.remove(node)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in quantized:
            node.input[0] = quantized[node.input[0]]
        elif node.op_type == "DequantizeLinear" and len(node.input) == 2 and node.input[0] in held:
            source, scale = held[node.input[0]], held[node.input[1]]
            weights[node.output[0]] = source.name
            if node.output[0] not in read_by_gemm or source.data_type != TensorProto.INT8:
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
    _shorten_names(graph)


def _shorten_names(graph: Any) -> None:
    """Name what quantizers hold by the module, such as `layer1.0.conv1.integers`, or by its call where it has several.

    Names of the exporter have the path to the quantizer, a hundred characters in some models.
    """
    found = {each.name: _QUANTIZER.search(each.name) for each in graph.initializer}
    keys = {match[2].replace("/", ".") for match in found.values() if match}
    modules = collections.Counter(key.partition(":")[0] for key in keys)
    names: dict[str, str] = {}
    for name, match in found.items():
        if match:
            key = match[2].replace("/", ".")
            module = key.partition(":")[0]
            of_values = "value_" if match[1] == "values" else ""
            names[name] = f"{module if modules[module] == 1 else key}.{of_values}{match[3]}"
    for each in graph.initializer:
        each.name = names.get(each.name, each.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def with_float_weights(path: Path) -> bytes:
    """An int8 file with the values that its weights stand for in their place, float32; values are rounded as before."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    held = {each.name: each for each in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in held:
            weights, scale, *zero = (numpy_helper.to_array(held[name]).astype("float64") for name in node.input)
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            shape = [-1 if dim == axis else 1 for dim in range(weights.ndim)] if scale.size > 1 else []
            values = (weights - sum(each.reshape(shape) for each in zero)) * scale.reshape(shape)
            model.graph.initializer.append(numpy_helper.from_array(values.astype("float32"), node.output[0]))
            model.graph.node.remove(node)
    _drop_unread(model.graph)
    return bytes(model.SerializeToString())


def _is_bias(node: Any, held: dict[str, Any]) -> bool:
    """Whether a node dequantizes a bias, which has 32 bits."""
    from onnx import TensorProto

    source = held.get(node.input[0])
    return node.op_type == "DequantizeLinear" and source is not None and source.data_type == TensorProto.INT32


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
