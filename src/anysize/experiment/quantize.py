"""`anysize.quantize_run`: a run's model in int8, as a checkpoint of the run and as one ONNX file with Q/DQ."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anysize.data.loader import PlanLoader
from anysize.data.source import Source
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.finite import check_all_finite, images_not_finite
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.exported import description_of
from anysize.experiment.image_files import image_files, images_in
from anysize.experiment.loaded import (
    LoadedRun,
    at_norm_size,
    check_classes,
    class_names,
    load_run,
    make_evaluator,
)
from anysize.experiment.published import run_folder
from anysize.experiment.targets import build_task, eval_transform, evaluated_shape, open_split
from anysize.export.check import Exported
from anysize.export.extras import import_extra
from anysize.export.look import is_exported
from anysize.export.write import export_onnx
from anysize.machine import plainly
from anysize.models.measure.input_size import check_size
from anysize.models.spec import ModelSpec
from anysize.models.surgery.quantization.aware import is_aware, without_quantization
from anysize.models.surgery.quantization.fake import is_quantized, quantization_of
from anysize.quantize.after_training import QuantizeOptions, quantize_model, with_layers_in_float
from anysize.quantize.aware import fixed_from_aware
from anysize.quantize.by_layer import share_of_layers, worst_first
from anysize.registry import NotFinite, UserError, counted
from anysize.reports import run_files
from anysize.sizes.batch import Batch
from anysize.training.checkpoint.files import Checkpoint, model_tensors, read_state, write_checkpoint
from anysize.training.checkpoint.store import is_own_name

Say = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What `quantize_run` has made.

    Args:
        checkpoint: the folder of the run's checkpoint in int8, which other verbs take by its name.
        exported: the ONNX file, checked; None: it was not asked for.
        model: in evaluation mode; computes in float32 what the integers give.
        original: the model in float.
        sizes: of the images that calibrated it.
        kept: the layers that stay in float, with the reason.
    """

    checkpoint: Path
    exported: Exported | None
    model: nn.Module
    original: nn.Module
    sizes: list[int]
    kept: dict[str, str]


@plainly("quantizing")
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
    onnx: bool = True,
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
        onnx: also write `export/NAME.onnx` in the run, checked against the model.
        overrides: settings of the recipe to replace, such as `{"data.root": ...}`.
        say: is told what was done, a sentence a time.

    Raises:
        UserError: not a run, no images to calibrate with, a size that the network cannot take, a model without layers
            to quantize, or one that cannot be kept within `max_accuracy_drop`.
        NotFinite: the network gives NaN or infinite values for images that calibrate it.

    Example::

        made = anysize.quantize_run("runs/quickstart", max_accuracy_drop=0.5)
        table = anysize.evaluate("runs/quickstart", checkpoint=made.checkpoint.name)
    """
    options = options or QuantizeOptions()
    if is_exported(run):
        raise UserError(f"{run} is an exported file; give the run that it is from")
    loaded = load_run(run_folder(run), checkpoint, overrides)
    if is_quantized(loaded.model) and not is_aware(loaded.model):
        raise UserError(f"checkpoint {checkpoint!r} of {run} is quantized already; name one in float with --checkpoint")
    base = loaded.preprocessing.image_size
    wanted = parse_sizes([base] if sizes is None else [sizes] if isinstance(sizes, int) else sizes)
    loaded = at_norm_size(loaded, wanted[0] if len(set(wanted)) == 1 else base, "in int8")
    for size in wanted:
        check_size(loaded.model, size, loaded.preprocessing.channels)
    for title, number in (("batches", calibration_batches), ("batch size", calibration_batch_size)):
        if number < 1:
            raise UserError(f"calibration {title} is {number}; expected at least 1")
    own = wanted == [loaded.preprocessing.own_size]
    name = name or ("int8" if own else "-".join(map(str, ["int8", *sorted(set(wanted))])))
    _check_name(loaded.folder, name)
    for own_folder in (run_files.CHECKPOINTS, *(["export"] if onnx else [])):
        run_files.check_is_own(loaded.folder, own_folder)
    if onnx:  # before minutes are spent
        for extra in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(extra, "quantize")
    if is_aware(loaded.model):
        model, original, sample = _of_aware(loaded, wanted[0], calibration, options)
        settings = loaded.recipe.quantize
        options = QuantizeOptions(bits=settings.bits, keep=tuple(settings.keep))
        say("the ranges are those of training: nothing is calibrated")
    else:
        original = loaded.model
        loader, batches = calibration_plan(loaded, wanted, calibration, calibration_batches, calibration_batch_size)
        images = (batch.images.to(loaded.device) for batch in loader.load(batches))
        try:
            model = quantize_model(original, images, options)
        except NotFinite:
            _name_not_finite(loaded, loader, batches)
            raise
        sample = next(iter(loader.load(batches[:1]))).images[:_SAMPLE].to(loaded.device)
        say(
            f"calibrated with {counted(sum(len(batch.indices) for batch in batches), 'image')} at "
            f"{', '.join(map(str, sorted(set(wanted))))} px"
        )
    if max_accuracy_drop is not None:
        model = _within(original, model, sample, options, max_accuracy_drop, make_evaluator(loaded), wanted, say)
    quantization = quantization_of(model)
    kept = dict(quantization.placement.kept)
    folder = loaded.folder / run_files.CHECKPOINTS / name
    _write(folder, loaded, model, options, checkpoint, wanted)
    exported = _export(loaded.folder, name) if onnx else None
    if exported:
        worst = max(exported.checks, key=lambda check: check.difference)
        say(f"{exported.path}: {exported.bytes / 1e6:.2f} MB, {exported.bytes / _float_bytes(original):.3f} of float32")
        say(f"checked at {len(exported.checks)} sizes and batches: {worst.says}")
    layers = len(quantization.placement.layers)
    names = f" ({', '.join(kept)})" if kept else ""
    say(f"{folder}: {counted(layers, 'layer')} in int8, {len(kept)} in float{names}")
    return Quantized(folder, exported, model, original, list(wanted), kept)


def _name_not_finite(loaded: LoadedRun, loader: PlanLoader, batches: list[Batch]) -> None:
    """Raise `NotFinite` with the names of the images of which the outputs are not finite, if there are any."""
    task = build_task(loaded.recipe, dataclasses.replace(loaded.preprocessing, classes=class_names(loaded)))
    found: list[int] = []
    with evaluating(loaded.model):
        for batch in loader.load(batches):
            found += images_not_finite(task, loaded.model, on_device(batch, loaded.device))
    images = sum(len(batch.indices) for batch in batches)
    check_all_finite(found, images, loader.source.describe, loaded.model)


def _of_aware(
    loaded: LoadedRun, size: int, calibration: str | Path | None, options: QuantizeOptions
) -> tuple[nn.Module, nn.Module, Tensor]:
    """The int8 model that a run was trained for, its weights without rounding, and images of its size."""
    settings = loaded.recipe.quantize
    given = QuantizeOptions(bits=settings.bits, keep=tuple(settings.keep))
    if calibration is not None or options not in (QuantizeOptions(), given):
        raise UserError(
            f"{loaded.folder} was trained for int8: its ranges, its weights of {settings.bits} bits and the layers in "
            "float are those of training; leave calibration and its options out"
        )
    images = torch.zeros(1, loaded.preprocessing.channels, size, size, device=loaded.device)
    return fixed_from_aware(loaded.model, images), without_quantization(loaded.model).eval(), images


def _export(folder: Path, name: str) -> Exported:
    """Write a checkpoint as `export/NAME.onnx`."""
    loaded = load_run(folder, name)
    path = folder / "export" / f"{name}.onnx"
    with contextlib.suppress(OSError):  # an error is reported when the file is written
        path.parent.mkdir(exist_ok=True)
    return export_onnx(loaded.model, path, description_of(loaded))


_SAMPLE = 32
"""Images by which the share of each layer is measured."""


def _within(
    original: nn.Module, model: nn.Module, images: Tensor, options: QuantizeOptions, limit: float,
    evaluator: Evaluator, sizes: Sequence[int], say: Say,
) -> nn.Module:  # fmt: skip
    """The quantized model with as many layers in float as keep the loss of accuracy at each size within the limit."""
    metric = evaluator.task.best

    def accuracies(each: nn.Module) -> list[float]:
        return [100 * float(evaluator.evaluate(each, size).values[metric]) for size in sorted(set(sizes))]

    targets = accuracies(original)
    order = worst_first(share_of_layers(model, images))
    current, count = model, 0
    while True:
        lost = max(target - own for target, own in zip(targets, accuracies(current), strict=True))
        say(f"{counted(count, 'layer')} in float: {lost:.2f} points of {metric} are lost")
        if lost <= limit:
            return current
        if count == len(order) - 1:
            raise UserError(
                f"{metric} falls by {lost:.2f} points with one layer in int8 alone, and max_accuracy_drop is {limit}; "
                "allow more, or calibrate with other images"
            )
        count = min(max(1, 2 * count), len(order) - 1)
        keep = [*options.keep, *order[:count]]
        current = with_layers_in_float(original, model, images[:1], keep)


def _check_name(folder: Path, name: str) -> None:
    """Raise a `UserError` for a name that is none for a copy, or that of a checkpoint which is no int8 one."""
    if Path(name).name != name or name.startswith(".") or "\\" in name:
        raise UserError(f"name {name!r} is no name for a checkpoint; expected a plain one, such as int8")
    path = folder / run_files.CHECKPOINTS / name
    taken = is_own_name(name) or (path.exists() and "quantized" not in read_state(path))
    if taken:
        raise UserError(f"{path} is no int8 checkpoint, or is to be none; give another name with --name, such as int8")


def _float_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in model.parameters())


def calibration_plan(
    loaded: LoadedRun, sizes: Sequence[int], folder: str | Path | None, batches: int, batch_size: int
) -> tuple[PlanLoader, list[Batch]]:
    """The images that calibrate a run, prepared as in evaluation: of the training images, or those in a folder."""
    if folder is None:
        source = open_split(loaded.recipe, "train")
        check_classes(loaded.preprocessing, source)
    else:
        source = image_files(loaded.recipe, loaded.preprocessing, images_in(Path(folder).expanduser()))
    transform = eval_transform(loaded.recipe, loaded.preprocessing)
    loader = PlanLoader(source, transform, device=loaded.device, workers=loaded.recipe.data.workers)
    shape = evaluated_shape(loaded.recipe, loaded.preprocessing)
    chosen = balanced_batches(source, sizes, batches, batch_size, loaded.recipe.training.seed)
    return loader, [each for batch in chosen for each in shape.within(source, batch)]


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


def _write(
    folder: Path, loaded: LoadedRun, model: nn.Module, options: QuantizeOptions, checkpoint: str, sizes: list[int]
) -> None:
    state = {key: value for key, value in loaded.checkpoint.state.items() if key not in ("files", "format")}
    keep = [name for name, reason in quantization_of(model).placement.kept.items() if reason == "asked for"]
    state["model"] = (
        ModelSpec.from_dict(state["model"]).quantized(options.bits, keep, biases=options.correct_bias).to_dict()
    )
    state["quantized"] = {"from": checkpoint, "sizes": sizes, **dataclasses.asdict(options)}
    if len(set(sizes)) == 1:
        preprocessing = dataclasses.replace(loaded.preprocessing, image_size=sizes[0])
        if sizes[0] != loaded.preprocessing.image_size:
            preprocessing = dataclasses.replace(preprocessing, trained_size=loaded.preprocessing.own_size)
        state["preprocessing"] = preprocessing.to_dict()
    write_checkpoint(folder, Checkpoint({"model": model_tensors(model)}, state))
