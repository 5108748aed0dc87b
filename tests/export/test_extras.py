"""Libraries of extras: they leave alone what is not theirs."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import onnx
from anysize.export.extras import import_extra

value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
node = onnx.helper.make_node("Identity", ["x"], ["y"])
result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
graph = onnx.helper.make_graph([node], "identity", [value], [result])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
session = import_extra("onnxruntime", "quantize").InferenceSession(model.SerializeToString())
assert session.run(["y"], {"x": [1.0]})
"""


def test_onnx_runtime_keeps_no_record_to_be_sent(tmp_path: Path) -> None:
    """It would keep one in the user's cache until it reaches its makers."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=home, check=True)
    assert not [*tmp_path.rglob("*onnxruntime*")]
