"""Whether a runtime adds up products of 8 bits without loss on this machine: a tiny layer is computed, and looked at.

Processors without instructions for int8 (VNNI, AMX) have one that adds two products up in 16 bits, where they saturate:
a file then gives wrong values without a word, unless its weights have 7 bits or the runtime goes another way.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from anysize.export.contents import Contents
from anysize.export.extras import import_extra
from anysize.export.int8_graph import with_float_weights
from anysize.files import read_regular

Compute = Callable[[Tensor], Tensor]
"""Images to outputs."""
OnnxFile = str | bytes
"""Its path or its bytes."""

Start = Callable[[OnnxFile, Mapping[str, str]], Compute]
"""Given a file and settings of a runtime."""
_LARGEST_SAFE = 64
"""Of a weight: two products of 255 and 64 are within 16 bits."""
_CHANNELS, _SIDE = 16, 8
_LARGEST = 255 * 127 * 9 * _CHANNELS


def onnx_file(path: Path) -> OnnxFile:
    """The path of a file, or its bytes where the path is no UTF-8, which runtimes do not take."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return read_regular(path)
    return str(path)


def start_without_saturation(
    contents: Contents, ways: Mapping[str, Mapping[str, str]], start: Start
) -> tuple[list[str], Compute]:
    """Start an ONNX file in the first way in which a runtime does not saturate; says which one, where it is not plain.

    Where all do, the file is computed in float32, with the very values that its whole numbers stand for.

    Args:
        contents: of the file.
        ways: settings of the runtime by what is said of them; nothing is said of the first.
        start: the runtime.
    """
    path = onnx_file(contents.path)
    if contents.largest_weight <= _LARGEST_SAFE:
        return [], start(path, next(iter(ways.values())))
    for says, settings in ways.items():
        if not _saturates(start(_probe(), settings)):
            return [says] if says else [], start(path, settings)
    return ["in float32, as int8 saturates here"], start(with_float_weights(contents.path), {})


def _saturates(compute: Compute) -> bool:
    """Whether the outputs are wrong by more than a step of rounding."""
    images = torch.full((1, _CHANNELS, _SIDE, _SIDE), 255.0)
    weights = probe_weights().float()
    exact = torch.nn.functional.conv2d(images, weights)  # less than 2**24: exact in float32
    return bool(((compute(images) - exact).abs() > 1.5 * _step()).any())


def _step() -> float:
    return _LARGEST / 127


def probe_weights() -> Tensor:
    """Those of the layer that is computed: the largest there are, of both signs by channel of the output."""
    signs = 1 - 2 * (torch.arange(_CHANNELS) % 2)
    return (127 * signs).view(-1, 1, 1, 1).expand(-1, _CHANNELS, 3, 3)


def _probe() -> bytes:
    """A convolution in QuantizeLinear and DequantizeLinear as an ONNX file."""
    import numpy as np

    onnx = import_extra("onnx", "quantize")
    node, held = onnx.helper.make_node, onnx.numpy_helper.from_array
    shape = [1, _CHANNELS, _SIDE, _SIDE]
    value = onnx.helper.make_tensor_value_info
    nodes = [
        node("QuantizeLinear", ["images", "one", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "one", "zero"], ["values"]),
        node("DequantizeLinear", ["integers", "one"], ["weights"]),
        node("Conv", ["values", "weights"], ["sums"]),
        node("QuantizeLinear", ["sums", "step", "middle"], ["q_sums"]),
        node("DequantizeLinear", ["q_sums", "step", "middle"], ["outputs"]),
    ]
    constants = {
        "one": np.float32(1), "zero": np.uint8(0), "middle": np.uint8(128), "step": np.float32(_step()),
        "integers": probe_weights().to(torch.int8).contiguous().numpy(),
    }  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes,
        "probe",
        [value("images", onnx.TensorProto.FLOAT, shape)],
        [value("outputs", onnx.TensorProto.FLOAT, None)],
        [held(np.asarray(each), name) for name, each in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
