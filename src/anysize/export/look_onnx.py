"""What an ONNX file is, of its protocol buffer alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anysize.export.contents import Contents
from anysize.export.description import KEY, Description
from anysize.export.extras import import_extra
from anysize.machine import is_short
from anysize.registry import UserError

_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""ONNX's own operators, and those that ONNX Runtime brings along."""


def look_at_onnx(path: Path) -> Contents:
    """As `look_at`. External data is not opened."""
    onnx = import_extra("onnx", "quantize")
    try:
        model = onnx.load(str(path), load_external_data=False)
        nodes = list(_messages(model, onnx.NodeProto))
        assert model.ir_version
        assert nodes
    except Exception as error:  # of the protocol buffers, which raise errors of several kinds
        if is_short(error):
            raise
        raise UserError(f"{path} is no ONNX file, or a truncated one; export or copy it anew") from None
    tensors = list(_messages(model, onnx.TensorProto))
    external = next((each for each in tensors if each.data_location == each.EXTERNAL), None)
    if external is not None:
        raise UserError(
            f"{path} keeps {external.name!r} in another file, which is not opened; write it as one file "
            "(onnx.save_model without external data)"
        )
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes:
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
            raise UserError(
                f"{path} calls the operator {node.op_type!r} of {node.domain!r}, which a library of its own would "
                "bring along; expected ONNX's operators"
            )
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx.checker.ValidationError, and others of its C++
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged: {reason}; export or copy it anew") from None
    held = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in held]
    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    fits = len(inputs) == 1 and len(model.graph.output) > 0
    tensor: Any = inputs[0].type.tensor_type if inputs else None
    if not fits or tensor.elem_type not in kinds or len(tensor.shape.dim) != 4:
        names = ", ".join(each.name for each in inputs) or "none"
        raise UserError(
            f"{path} is no network of images: its inputs are {names}; expected one, images (N, C, H, W) of float32 or "
            "uint8"
        )
    _, channels, height, width = (dim.dim_value or None for dim in tensor.shape.dim)
    logits = model.graph.output[0].type.tensor_type.shape.dim
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return Contents(
        path,
        inputs[0].name,
        kinds[tensor.elem_type],
        channels,
        (height, width),
        model.graph.output[0].name,
        logits[1].dim_value or None if len(logits) > 1 else None,
        len(logits) == 4,
        max((_largest(each) for each in tensors if each.data_type == onnx.TensorProto.INT8), default=0),
        Description.from_json(properties[KEY], path) if KEY in properties else None,
    )


def _largest(tensor: Any) -> int:
    """The largest whole number of a tensor of int8, without its sign."""
    from onnx import numpy_helper

    return int(abs(numpy_helper.to_array(tensor).astype(int)).max(initial=0))


def _messages(message: Any, kind: Any) -> Iterator[Any]:
    """All messages of a kind within a message, however deep: also in subgraphs and functions."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(each, kind)
