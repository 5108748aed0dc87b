"""How long each node of an exported file takes in ONNX Runtime."""

import collections
import json
import re
import statistics
import tempfile
from pathlib import Path

from torch import Tensor

from anysize.export.extras import import_extra
from anysize.export.saturation import onnx_file

_RUNS = 5
_FUSED = re.compile(r"_token_\d+$")  # what the runtime adds to the name of a node that it has fused


def time_by_node(path: Path, images: Tensor, threads: int = 0) -> dict[str, float]:
    """Microseconds of each node by its name, the median of some runs on `images` (N, C, H, W).

    Nodes that the runtime has fused count together, under the name of the layer among them. `threads` as of
    `RuntimeOptions`.
    """
    library = import_extra("onnxruntime", "quantize")
    settings = library.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = library.InferenceSession(onnx_file(path), settings, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images.contiguous().numpy()}
        for _ in range(1 + _RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[_FUSED.sub("", event["name"].removesuffix("_kernel_time"))].append(float(event["dur"]))
    return {name: statistics.median(times[1:]) for name, times in found.items() if len(times) == 1 + _RUNS}
