"""Accuracy of int8 after training against float, and against ONNX Runtime's own `quantize_static` on the same images.

    python benchmarks/int8_accuracy.py RUN [RUN ...] [--sizes 224] [--calibration DIR] [--bits 8 7] [--entropy 300]

Each size is calibrated for by itself, with 32 batches of 32 images as `anysize quantize` takes them. All files, float
too, are computed by ONNX Runtime on all validation images; our int8 file by OpenVINO too. `lost` has the standard error
of the paired difference; `equal` is the percentage of answers as in float.
quantize_static: per channel, Q/DQ, min-max on all those images; by `--entropy N` also entropy, on the first N, since
that takes long. Where `--bits` has 7 it reduces the range of weights.

Claim: ours loses no more than `quantize_static` does, whichever way that calibrates.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anysize import export_onnx, load_run, quantize_model
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.compare_int8 import compare_at
from anysize.experiment.exported import description_of
from anysize.experiment.loaded import LoadedRun, make_evaluator
from anysize.experiment.quantize import calibration_plan
from anysize.export.extras import quiet
from anysize.export.module import RuntimeModel
from anysize.export.runtimes import open_runtime
from anysize.export.write import folded
from anysize.quantize.after_training import QuantizeOptions
from harness import print_environment


def static_int8(float_file: Path, out: Path, images: list[Tensor], *, entropy: bool, bits: int) -> Path:
    """Write the file of `quantize_static`."""
    with quiet():
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.rest: Iterator[Tensor] = iter(images)

            def get_next(self) -> Any:
                batch = next(self.rest, None)
                return None if batch is None else {"images": batch.numpy()}

            def __len__(self) -> int:
                return len(images)

            def set_range(self, start_index: int, end_index: int) -> None:
                self.rest = iter(images[start_index:end_index])

        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=bits == 7,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Entropy if entropy else CalibrationMethod.MinMax,
            extra_options={"CalibStridedMinMax": 1},  # a batch a time: it keeps what all layers give
        )  # fmt: skip
    return out


def measure(loaded: LoadedRun, size: int, options: argparse.Namespace, folder: Path) -> None:
    """Make the files of a run for a size, and print a line each."""
    loader, plan = calibration_plan(loaded, [size], options.calibration, 32, 32)
    images = [batch.images.contiguous() for batch in loader.load(plan)]
    description = description_of(loaded)
    float_file = export_onnx(folded(loaded.model), folder / "float.onnx", description).path
    files: dict[str, Path] = {}
    for bits in options.bits:
        made = quantize_model(loaded.model, images, QuantizeOptions(bits=bits))
        files[f"ours, {bits} bits"] = export_onnx(made, folder / f"ours{bits}.onnx", description).path
        files[f"quantize_static min-max, {bits} bits"] = static_int8(
            float_file, folder / f"minmax{bits}.onnx", images, entropy=False, bits=bits
        )
        if options.entropy:
            few = list(torch.cat(images)[: options.entropy].split(10))
            files[f"quantize_static entropy, {bits} bits"] = static_int8(
                float_file, folder / f"entropy{bits}.onnx", few, entropy=True, bits=bits
            )
    evaluator = make_evaluator(loaded)

    def opened(path: Path, runtime: str) -> nn.Module:
        return RuntimeModel(open_runtime(path, runtime), loaded.preprocessing)

    original = opened(float_file, "onnxruntime")
    for name, path in files.items():
        for runtime in ("onnxruntime", "openvino") if name.startswith("ours") else ("onnxruntime",):
            row, _ = compare_at(evaluator, original, opened(path, runtime), size)
            print(
                f"  {size:4} px  {name:32} {runtime:12} {row['metric']} {row['int8']:6.2f}, float {row['float']:6.2f}, "
                f"lost {row['lost']:+5.2f} +-{row['spread']:.2f}, equal {row['agree']:5.1f}, {row['images']:,} images, "
                f"{path.stat().st_size / float_file.stat().st_size:.3f} of the float file",
                flush=True,
            )


def main() -> None:
    """Print a line for each run, size, maker and runtime."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", help="trained runs; without any, as in `make bench`, nothing is measured")
    parser.add_argument("--sizes", default="", help="by default the base size")
    parser.add_argument("--calibration", help="a folder of images in place of the training images")
    parser.add_argument("--bits", type=int, nargs="+", default=[8])
    parser.add_argument("--entropy", type=int, default=0, help="images")
    options = parser.parse_args()
    if not options.runs:
        print("int8_accuracy.py measures trained runs; give some")
        return
    print_environment()
    for run in options.runs:
        loaded = load_run(run, "best")
        print(f"{run}: {loaded.recipe.model.name}")
        for size in parse_sizes(options.sizes or [loaded.preprocessing.image_size]):
            with tempfile.TemporaryDirectory() as folder:
                measure(loaded, size, options, Path(folder))


if __name__ == "__main__":
    main()
