"""`anysize.quantize_run`: a run's model in int8, as a checkpoint of the run and as one ONNX file with Q/DQ."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.source import Source
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.image_files import image_files, images_in
from anysize.experiment.pictures import displayed
from anysize.experiment.published import run_folder
from anysize.experiment.runs import LoadedRun, load_run, make_evaluator
from anysize.experiment.targets import eval_transform, open_split
from anysize.models.measure.input_size import check_size
from anysize.models.spec import ModelSpec
from anysize.models.surgery.quantization.fake import is_quantized, quantization_of
from anysize.quantize.after_training import QuantizeOptions, quantize_model, with_layers_in_float
from anysize.quantize.by_layer import noise_in_layers, share_of_layers, worst_first
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.html import write_report
from anysize.reports.predictions import Predictions, write_predictions
from anysize.reports.quantization import write_quantization
from anysize.sizes.batch_plan import Batch
from anysize.training.checkpoint.files import Checkpoint, model_tensors, write_checkpoint

Say = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What `quantize_run` has made.

    Args:
        checkpoint: the folder of the run's checkpoint in int8, which other verbs take by its name.
        model: in evaluation mode; computes in float32 what the integers give.
        original: the model in float.
        sizes: of the images that calibrated it.
        kept: the layers that stay in float, with the reason.
        seconds: that calibration and rounding took.
    """

    checkpoint: Path
    model: nn.Module
    original: nn.Module
    sizes: list[int]
    kept: dict[str, str]
    seconds: float


def quantize_run(
    run: str | Path,
    sizes: int | Sequence[int] | str | None = None,
    *,
    checkpoint: str = "best",
    calibration: str | Path | None = None,
    calibration_batches: int = 32,
    calibration_batch_size: int = 32,
    options: QuantizeOptions | None = None,
    max_accuracy_drop: float | None = None,
    name: str = "",
    overrides: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> Quantized:
    """Write a run's model in int8: the checkpoint `int8` of the run, which `evaluate`, `predict` and `export` take.

    Args:
        run: the run folder; or the name of a recipe, for the published weights that it names.
        sizes: pixels, of the images that calibrate; several: the ranges hold for all of them. None: the base size.
        checkpoint: what is quantized.
        calibration: a folder of any pictures, without labels, in place of the training images.
        calibration_batches, calibration_batch_size: so many images in all, as many of each class as can be; prepared
            as in evaluation.
        options: None: the defaults.
        max_accuracy_drop: in percentage points of the metric that chooses the best checkpoint: the layers that change
            the results most stay in float until no more than that is lost on the validation images. None: no limit.
        name: of the checkpoint; empty: `int8`, with the sizes where they are not the base size.
        overrides: settings of the recipe to replace, such as `{"data.root": ...}`.
        say: is told what was done, a sentence a time.

    Raises:
        UserError: not a run, no images to calibrate with, a size that the network cannot take, a model without layers
            to quantize, or one that cannot be kept within `max_accuracy_drop`.

    Example::

        made = anysize.quantize_run("runs/quickstart", max_accuracy_drop=0.5)
        table = anysize.evaluate("runs/quickstart", checkpoint=made.checkpoint.name)
    """
    options = options or QuantizeOptions()
    loaded = load_run(run_folder(run), checkpoint, overrides)
    if is_quantized(loaded.model):
        raise UserError(f"checkpoint {checkpoint!r} of {run} is quantized already; name one in float with --checkpoint")
    base = loaded.preprocessing.image_size
    wanted = parse_sizes([base] if sizes is None else [sizes] if isinstance(sizes, int) else sizes)
    for size in wanted:
        check_size(loaded.model, size, loaded.preprocessing.channels)
    for title, number in (("batches", calibration_batches), ("batch size", calibration_batch_size)):
        if number < 1:
            raise UserError(f"calibration {title} is {number}; expected at least 1")
    started = time.monotonic()
    source = _source(loaded, calibration)
    batches = balanced_batches(source, wanted, calibration_batches, calibration_batch_size, loaded.recipe.training.seed)
    transform, workers = eval_transform(loaded.recipe, loaded.preprocessing), loaded.recipe.data.workers
    loader = PlanLoader(source, transform, device=loaded.device, workers=workers)
    images = (batch.images.to(loaded.device) for batch in loader.load(batches))
    model = quantize_model(loaded.model, images, options)
    say(
        f"calibrated with {sum(len(batch.indices) for batch in batches):,} images at "
        f"{', '.join(map(str, sorted(set(wanted))))} px"
    )
    if max_accuracy_drop is not None:
        sample = next(iter(loader.load(batches))).images[:_SAMPLE].to(loaded.device)
        model = _within(loaded, model, sample, options, max_accuracy_drop, make_evaluator(loaded), say)
    quantization = quantization_of(model)
    kept = dict(quantization.placement.kept)
    seconds = time.monotonic() - started
    name = name or ("int8" if wanted == [base] else "-".join(map(str, ["int8", *sorted(set(wanted))])))
    folder = loaded.folder / run_files.CHECKPOINTS / name
    _write(folder, loaded, model, options, checkpoint, wanted)
    layers = len(quantization.placement.layers)
    say(f"{folder}: {layers} layers in int8, {len(kept)} in float{' (' + ', '.join(kept) + ')' if kept else ''}")
    return Quantized(folder, model, loaded.model, list(wanted), kept, seconds)


_SAMPLE = 32
"""Images by which the share of each layer is measured."""


def _within(
    loaded: LoadedRun, model: nn.Module, images: Tensor, options: QuantizeOptions, limit: float,
    evaluator: Evaluator, say: Say,
) -> nn.Module:  # fmt: skip
    """The quantized model with as many layers in float as keep the loss of accuracy within the limit."""
    size, metric = evaluator.preprocessing.image_size, evaluator.task.best

    def accuracy(each: nn.Module) -> float:
        return 100 * float(evaluator.evaluate(each, size).values[metric])

    target = accuracy(loaded.model)
    order = worst_first(share_of_layers(model, images))
    current, count = model, 0
    while True:
        lost = target - accuracy(current)
        say(f"{count} layers in float: {metric} {target - lost:.2f}% in int8, {target:.2f}% in float")
        if lost <= limit:
            return current
        if count == len(order) - 1:
            raise UserError(
                f"{metric} falls by {lost:.2f} points with one layer in int8 alone, and max_accuracy_drop is {limit}; "
                "allow more, or calibrate with other images"
            )
        count = min(max(1, 2 * count), len(order) - 1)
        keep = [*options.keep, *order[:count]]
        current = with_layers_in_float(loaded.model, model, images[:1], keep)


def balanced_batches(source: Source, sizes: Sequence[int], batches: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of images of a source, as many of each class as can be, in an order that follows from the seed.

    Where there are several sizes, each gets its share of the batches. What has no classes is shuffled alone.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    targets = source.targets
    if isinstance(targets, np.ndarray) and targets.ndim == 1:
        turn = np.zeros(len(order), int)  # how many of its class come before an image
        seen: dict[int, int] = {}
        for i, label in enumerate(targets[order].tolist()):
            turn[i] = seen[label] = seen.get(label, -1) + 1
        order = order[np.argsort(turn, kind="stable")]
    order = order[: batches * batch_size]
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [Batch(0, sizes[i % len(sizes)], 1, part) for i, part in enumerate(parts)]


def _source(loaded: LoadedRun, folder: str | Path | None) -> Source:
    """The training images, or those in a folder."""
    if folder is not None:
        return image_files(loaded.recipe, loaded.preprocessing, images_in(Path(folder).expanduser()))
    return open_split(loaded.recipe, "train")


def _write(
    folder: Path, loaded: LoadedRun, model: nn.Module, options: QuantizeOptions, checkpoint: str, sizes: list[int]
) -> None:
    state = {key: value for key, value in loaded.checkpoint.state.items() if key not in ("files", "format")}
    keep = [name for name, reason in quantization_of(model).placement.kept.items() if reason == "asked for"]
    state["model"] = ModelSpec.from_dict(state["model"]).quantized(options.bits, keep).to_dict()
    state["quantized"] = {"from": checkpoint, "sizes": sizes, **dataclasses.asdict(options)}
    if len(set(sizes)) == 1:
        preprocessing = dataclasses.replace(loaded.preprocessing, image_size=sizes[0])
        if sizes[0] != loaded.preprocessing.image_size:
            preprocessing = dataclasses.replace(preprocessing, trained_size=loaded.preprocessing.own_size)
        state["preprocessing"] = preprocessing.to_dict()
    write_checkpoint(folder, Checkpoint({"model": model_tensors(model)}, state))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The original and the int8 model on the validation images.

    Args:
        sizes: a row an image size: `checkpoint`, `size`, `metric`, its percentages in `float` and `int8`, `lost` points
            with the standard error `spread` of the paired difference (classification alone), the percentage of answers
            that `agree`, `images`, and how many answers have `changed`.
        layers: a row a layer: `checkpoint`, `layer`, `computed` in int8 or float with the `reason`, and the
            `signal_to_noise` ratio (dB) of what it gives.
    """

    sizes: pd.DataFrame
    layers: pd.DataFrame


def compare_with_original(made: Quantized, overrides: Mapping[str, Any] | None = None) -> Comparison:
    """Measure a quantized model and its original on the same images; the tables also go into the run's report.

    Raises:
        UserError: there are no validation images.
    """
    folder = made.checkpoint.parents[1]
    loaded = load_run(folder, made.checkpoint.name, overrides)
    evaluator = make_evaluator(loaded)
    rows = []
    for size in sorted(set(made.sizes)):
        row, changed = _compare_at(evaluator, made, size)
        rows.append({"checkpoint": made.checkpoint.name, **row})
        if size == made.sizes[0]:
            _picture_changed(folder, evaluator, made.model, size, changed)
    sample = next(evaluator.validation_loader.load(evaluator.validation_batches(made.sizes[0])[:1]))
    noise = noise_in_layers(made.model, sample.images[:_FOR_NOISE].to(evaluator.device))
    layers = [{"checkpoint": made.checkpoint.name, **row} for row in layer_rows(made.model, noise)]
    result = Comparison(pd.DataFrame(rows), pd.DataFrame(layers))
    write_quantization(folder, result.sizes, result.layers)
    write_report(folder)
    return result


_FOR_NOISE = 16
_PICTURES = 16


def _compare_at(evaluator: Evaluator, made: Quantized, size: int) -> tuple[dict[str, Any], list[int]]:
    """A row of `Comparison.sizes`, and the images to which the answers differ.

    An answer is the class of the highest output, for each pixel where there are masks, and the set of those above one
    half where there are labels. In an image with a mask it has changed where most pixels have.
    """
    task, models = evaluator.task, (made.original, made.model)
    metrics = [task.metrics(evaluator.device) for _ in models]
    equal: list[float] = []
    indices: list[int] = []
    right: list[tuple[bool, bool]] = []
    with evaluating(made.original), evaluating(made.model):
        for batch in evaluator.validation_loader.load(evaluator.validation_batches(size)):
            batch = on_device(batch, evaluator.device)
            for each, model in zip(metrics, models, strict=True):
                task.measure(each, model, batch)
            answers = (task.predictions(model, batch) for model in models)
            for row, (one, other) in enumerate(zip(*answers, strict=True)):
                equal.append(_equal(task.name, one, other))
                indices.append(int(batch.indices[row]))
                if task.name == "classification":
                    target = int(batch.targets[row])
                    right.append((int(one.argmax()) == target, int(other.argmax()) == target))
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
        for batch in loader.load(sequential_batches(len(source), size, evaluator.batch_size(size))):
            batch = on_device(batch, evaluator.device)
            for row, output in enumerate(evaluator.task.predictions(model, batch)):
                index = int(batch.indices[row])
                shown = evaluator.task.show(output.cpu(), evaluator.kind.target_of(batch, row).cpu())
                images.append((source.describe(index), displayed(source, index), shown))
    write_predictions(folder, Predictions(size, False, len(changed), images), run_files.CHANGED)


def layer_rows(model: nn.Module, noise: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """A row a layer: whether it is quantized or why not, and its signal-to-noise ratio in dB."""
    placement = quantization_of(model).placement
    for name, value in noise.items():
        yield {"layer": name, "computed": "int8", "reason": "", "signal_to_noise": value}
    for name, reason in placement.kept.items():
        yield {"layer": name, "computed": "float", "reason": reason, "signal_to_noise": float("nan")}
