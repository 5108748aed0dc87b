"""How an int8 model compares with the original: on the validation images, by layer, in size and in time."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from anysize.data.loader import PlanLoader
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.finite import check_all_finite, is_finite
from anysize.experiment.exported import description_of
from anysize.experiment.loaded import LoadedRun, load_run, make_evaluator
from anysize.experiment.pictures import displayed
from anysize.experiment.quantize import Quantized
from anysize.export.module import measured
from anysize.export.profile import time_by_node
from anysize.export.runtimes import open_runtime
from anysize.export.write import export_onnx, folded
from anysize.machine import plainly
from anysize.models.measure.speed import bench_runtimes
from anysize.models.surgery.quantization.fake import quantization_of
from anysize.quantize.by_layer import noise_in_layers
from anysize.reports import run_files
from anysize.reports.html import write_report
from anysize.reports.predictions import Predictions, write_predictions
from anysize.reports.quantization import write_quantization
from anysize.reports.run_files import go_on_without

BATCHES = (1, 32)
"""Images a step at which both are timed."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The original and the int8 model on the validation images.

    Args:
        sizes: a row an image size: `checkpoint`, `size`, `metric`, its percentages in `float` and `int8`, `lost` points
            with the standard error `spread` of the paired difference (classification alone), the percentage of answers
            that `agree`, `images`, and how many have `changed`; where there is a file, the bytes of it and of that
            of the original, and by batch size the milliseconds of both in ONNX Runtime, such as `float_ms_1`.
        layers: a row a layer: `checkpoint`, `layer`, `computed` in int8 or float with the `reason`, and the
            `signal_to_noise` ratio (dB) of what it gives; where there is a file, its share of the `time` in ONNX
            Runtime, with one image of the first size. What is left of the time is not of layers.
    """

    sizes: pd.DataFrame
    layers: pd.DataFrame


@plainly("comparing")
def compare_with_original(
    made: Quantized, overrides: Mapping[str, Any] | None = None, *, threads: int = 0
) -> Comparison:
    """Measure a quantized model and its original on the same images; the tables also go into the run's report.

    `threads` of ONNX Runtime; 0: as many as it chooses.

    Raises:
        UserError: there are no validation images.
    """
    folder = made.checkpoint.parents[1]
    loaded = load_run(folder, made.checkpoint.name, overrides)
    evaluator = make_evaluator(loaded)
    times = _times(loaded, made, threads)
    rows = []
    for size in sorted(set(made.sizes)):
        row, changed = compare_at(evaluator, made.original, made.model, size)
        rows.append({"checkpoint": made.checkpoint.name, **row, **times.get(size, {})})
        if size == made.sizes[0]:
            _picture_changed(folder, evaluator, made.model, size, changed)
    sample = next(evaluator.validation_loader.load(evaluator.validation_batches(made.sizes[0])[:1]))
    noise = noise_in_layers(made.model, sample.images[:_FOR_NOISE].to(evaluator.device))
    shares = _shares_of_time(made, loaded, threads)
    layers = [
        {"checkpoint": made.checkpoint.name, **row, **({"time": shares.get(row["layer"])} if shares else {})}
        for row in layer_rows(made.model, noise)
    ]
    result = Comparison(pd.DataFrame(rows), pd.DataFrame(layers))
    write_quantization(folder, result.sizes, result.layers)
    go_on_without(folder / run_files.REPORT, lambda: write_report(folder))
    return result


def _times(loaded: LoadedRun, made: Quantized, threads: int) -> dict[int, dict[str, float]]:
    """Bytes and milliseconds of the original and of the int8 file, by image size."""
    if made.exported is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        original = export_onnx(folded(made.original), Path(folder) / "float.onnx", description_of(loaded))
        runtimes = {
            name: measured(open_runtime(path, threads=threads))
            for name, path in (("float", original.path), ("int8", made.exported.path))
        }
        channels = loaded.preprocessing.channels
        table = bench_runtimes(runtimes, sorted(set(made.sizes)), BATCHES, channels=channels)
    sizes: dict[int, dict[str, float]] = {}
    for row in table.to_dict("records"):
        held = sizes.setdefault(row["size"], {"float_bytes": original.bytes, "int8_bytes": made.exported.bytes})
        held[f"{row['runtime']}_ms_{row['batch']}"] = row["milliseconds"]
    return sizes


def _shares_of_time(made: Quantized, loaded: LoadedRun, threads: int) -> dict[str, float]:
    """The share of each quantized layer in the time of the int8 file, by its name."""
    if made.exported is None:
        return {}
    image = torch.zeros(1, loaded.preprocessing.channels, made.sizes[0], made.sizes[0])
    times = time_by_node(made.exported.path, image, threads)
    layers = quantization_of(made.model).placement.layers
    total = sum(times.values()) or 1.0
    return {layer.name: times.get(key, 0.0) / total for key, layer in layers.items()}


_FOR_NOISE = 16
_PICTURES = 16


def compare_at(
    evaluator: Evaluator, original: nn.Module, model: nn.Module, size: int
) -> tuple[dict[str, Any], list[int]]:
    """A row of `Comparison.sizes`, and the images to which the answers of a model and its original differ.

    An answer is the class of the highest output, for each pixel where there are masks, and the set of those above one
    half where there are labels. In an image with a mask it has changed where most pixels have.
    """
    task, models = evaluator.task, (original, model)
    metrics = [task.metrics(evaluator.device) for _ in models]
    equal: list[float] = []
    indices: list[int] = []
    unsound: tuple[list[int], list[int]] = ([], [])
    right: list[tuple[bool, bool]] = []
    with evaluating(original), evaluating(model):
        for batch in evaluator.validation_loader.load(evaluator.validation_batches(size)):
            batch = on_device(batch, evaluator.device)
            for each, model in zip(metrics, models, strict=True):
                task.measure(each, model, batch)
            answers = (task.predictions(model, batch) for model in models)
            for row, (one, other) in enumerate(zip(*answers, strict=True)):
                equal.append(_equal(task.name, one, other))
                indices.append(int(batch.indices[row]))
                for bad, output in zip(unsound, (one, other), strict=True):
                    bad += [] if is_finite(output) else [indices[-1]]
                if task.name == "classification":
                    target = int(batch.targets[row])
                    right.append((int(one.argmax()) == target, int(other.argmax()) == target))
    for bad, model in zip(unsound, models, strict=True):
        check_all_finite(bad, len(indices), evaluator.validation.describe, model)
    values = [100 * float(task.summary(each).values[task.best]) for each in metrics]
    changed = [index for index, share in zip(indices, equal, strict=True) if share < 0.5]
    differences = [100.0 * (one - other) for one, other in right]
    found = {
        "size": size,
        "metric": task.best,
        "float": values[0],
        "int8": values[1],
        "lost": values[0] - values[1],
        "spread": float(np.std(differences) / len(differences) ** 0.5) if differences else float("nan"),
        "agree": 100 * sum(equal) / len(equal),
        "images": len(equal),
        "changed": len(changed),
    }
    return found, changed


def _equal(task: str, one: Tensor, other: Tensor) -> float:
    """Whether two answers are equal, for masks the share of pixels."""
    if task == "multilabel":
        return float(torch.equal(one > 0, other > 0))
    return (one.argmax(0) == other.argmax(0)).float().mean().item()


def _picture_changed(folder: Path, evaluator: Evaluator, model: nn.Module, size: int, changed: list[int]) -> None:
    """Write pictures of some validation images to which the answers have changed."""
    source = evaluator.validation.subset(np.array(changed[:_PICTURES], dtype=np.int64))
    loader = PlanLoader(source, evaluator.transform(), device=evaluator.device)
    images = []
    with evaluating(model):
        for batch in loader.load(evaluator.batches_of(source, size)):
            batch = on_device(batch, evaluator.device)
            for row, output in enumerate(evaluator.task.predictions(model, batch)):
                index = int(batch.indices[row])
                shown = evaluator.task.show(output.cpu(), evaluator.kind.target_of(batch, row).cpu())
                images.append((source.describe(index), displayed(source, index), shown))
    predictions = Predictions(size, False, len(changed), images)
    go_on_without(folder / run_files.CHANGED, lambda: write_predictions(folder, predictions, run_files.CHANGED))


def layer_rows(model: nn.Module, noise: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """A row a layer: whether it is quantized or why not, and its signal-to-noise ratio in dB."""
    placement = quantization_of(model).placement
    for name, value in noise.items():
        yield {"layer": name, "computed": "int8", "reason": "", "signal_to_noise": value}
    for name, reason in placement.kept.items():
        yield {"layer": name, "computed": "float", "reason": reason, "signal_to_noise": float("nan")}
