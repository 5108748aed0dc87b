"""What a run folder holds, ready for use: its recipe, its model, and what its evaluations need."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anysize.data.catalog import resized_as_set
from anysize.data.dataset import MissingSplit, Split
from anysize.data.formats.voc_lists import CLASSES as VOC_CLASSES
from anysize.data.loader import PlanLoader
from anysize.data.source import Source
from anysize.evaluation.evaluator import Evaluator
from anysize.experiment import build
from anysize.experiment.exported import in_runtime, opened
from anysize.experiment.identity import how_classes_differ, renamed
from anysize.experiment.image_files import image_files, images_in
from anysize.experiment.run_folder import warn_of_changes
from anysize.experiment.targets import build_evaluator, info_of, open_split, train_transform
from anysize.export.look import is_exported
from anysize.export.module import RuntimeModel
from anysize.models import trust
from anysize.models.measure.input_size import check_size
from anysize.models.spec import ModelSpec
from anysize.norms.by_size.model import fix_norm_size
from anysize.norms.calibration import has_running_statistics
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe, override
from anysize.registry import UserError, counted, did_you_mean, in_a_line, some_of
from anysize.reports import run_files
from anysize.sizes.shapes import Extent, sides_of
from anysize.training.checkpoint.files import (
    Checkpoint,
    DamagedCheckpoint,
    load_model,
    read_checkpoint,
)
from anysize.training.checkpoint.store import checkpoint_names, find_checkpoint, with_another
from anysize.world import World, pick_device

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class LoadedRun:
    """A model with its weights and what it needs to be used rightly."""

    folder: Path
    recipe: Recipe
    model: nn.Module
    preprocessing: Preprocessing
    checkpoint: Checkpoint
    device: torch.device


def recipe_of(run: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a run, with overrides. Raises a `UserError` for what is no run folder."""
    path = Path(run) / run_files.RECIPE
    if not path.exists():
        raise UserError(
            f"{run} is not a run folder: it has no {run_files.RECIPE}; give a folder that anysize train wrote"
        )
    trust.consent((overrides or {}).get("model.name"))
    recipe = load_recipe(str(path))
    warn_of_changes(Path(run), recipe)
    return override(recipe, overrides or {})


def load_run(
    run: str | Path,
    checkpoint: str = "best",
    overrides: Mapping[str, Any] | None = None,
    *,
    runtime: str = "",
    threads: int = 0,
    size: int | None = None,
) -> LoadedRun:
    """Load a run's model in evaluation mode.

    Args:
        run: the run folder, or an exported file.
        checkpoint: "best", "last", "previous", or the name of a calibrated copy.
        overrides: settings of the recipe to replace, such as `{"data.root": ...}`.
        runtime: computes the file, or the run, which is exported for a while; empty: a run is computed by PyTorch, a
            file by the default runtime of its format.
        threads: of the runtime; 0: as many as it chooses.
        size: pixels of the images, which a file of another program does not tell.

    Raises:
        UserError: not a run folder, no such checkpoint, or a damaged one; what cannot be exported, or is no good file.
    """
    if is_exported(run):
        return LoadedRun(**opened(run, checkpoint, overrides or {}, runtime, threads, size))
    if threads and not runtime:
        raise UserError(f"threads is {threads}, and no runtime is named that would take it; give --runtime")
    folder, recipe = Path(run), recipe_of(run, overrides)
    path = find_checkpoint(folder / run_files.CHECKPOINTS, checkpoint)
    if path is None:
        known = checkpoint_names(folder / run_files.CHECKPOINTS)
        hint = did_you_mean(checkpoint, known) if known else "train it first"
        raise UserError(f"{folder} has no checkpoint {checkpoint!r}: {hint}")
    try:
        loaded = read_checkpoint(path, "model", "preprocessing")
    except DamagedCheckpoint as error:
        raise with_another(path, error, "take another one of the run with --checkpoint {}".format) from None
    preprocessing = resized_as_set(Preprocessing.from_dict(loaded.state["preprocessing"]), recipe.data)
    names = renamed(preprocessing.classes, recipe.data)
    preprocessing = dataclasses.replace(preprocessing, backend=recipe.augment.backend, classes=names)
    spec = ModelSpec.from_dict(loaded.state["model"])
    wanted = ModelSpec.from_settings(recipe.model, sizes=spec.norm_sizes or [1]).settings  # the sizes are none of them
    for key, held in spec.settings.items():
        if held != wanted[key]:
            raise UserError(
                f"{path} is a checkpoint of another model: its model.{key} is {held!r}, the run's recipe says "
                f"{wanted[key]!r}; give the run folder it comes from"
            )
    fixed = any(change.name == "quantized" for change in spec.changes)
    if spec.aware != recipe.quantize.options and not fixed:
        raise UserError(
            f"{path} is a checkpoint of a model that is {'' if spec.aware else 'not '}trained for int8, and the "
            "settings of [quantize] say otherwise; leave them out"
        )
    model = spec.build()
    load_model(model, loaded.weights if recipe.evaluation.averaged else loaded.model, path)
    device = pick_device(recipe.training.device)
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    run_of_torch = LoadedRun(folder, recipe, model.to(device).eval(), preprocessing, loaded, device)
    if not runtime:
        return run_of_torch
    return in_runtime(at_norm_size(run_of_torch, preprocessing.image_size, f"in {runtime}"), runtime, threads)


def at_norm_size(loaded: LoadedRun, size: int, where: str) -> LoadedRun:
    """The run with plain norms, those for `size` where its model keeps norms by size; the log says so."""
    state = loaded.checkpoint.state
    spec = ModelSpec.from_dict(state["model"])
    if not spec.norm_sizes:
        return loaded
    logger.warning(
        "%s keeps norms for %s px; %s are those for %d px, at any image size",
        loaded.folder, ", ".join(map(str, spec.norm_sizes)), where, size,
    )  # fmt: skip
    fixed = dataclasses.replace(loaded.checkpoint, state={**state, "model": spec.fix_norm_size(size).to_dict()})
    return dataclasses.replace(loaded, model=fix_norm_size(loaded.model, size), checkpoint=fixed)


def check_takes(loaded: LoadedRun, size: int, extents: Iterable[Extent] = ()) -> None:
    """Raise a `UserError` where the network does not take images of `size` pixels, or of these shapes.

    Of many shapes the highest, the lowest, the widest and the narrowest are tried.
    """
    shapes = [*extents] or [size]
    ends = {choose(shapes, key=lambda shape: sides_of(shape)[side]) for choose in (min, max) for side in (0, 1)}
    for extent in sorted(ends, key=sides_of):
        if isinstance(loaded.model, RuntimeModel):
            loaded.model.check_size(extent)
        else:
            check_size(loaded.model, extent, loaded.preprocessing.channels)


def make_evaluator(
    loaded: LoadedRun, calibration: str | Path | None = None, world: World | None = None, split: Split = "validation"
) -> Evaluator:
    """Open the data of a run to evaluate it on the images of a split.

    Args:
        calibration: a folder of pictures to calibrate with; None: the training images.
        world: the processes that evaluate it together; None: this one alone.
    """
    check_channels(loaded)
    preprocessing = input_of(loaded)
    validation = open_split(loaded.recipe, split)
    if not preprocessing.classes:
        preprocessing = dataclasses.replace(preprocessing, classes=_unnamed_classes(loaded, validation.classes))
    check_classes(preprocessing, validation)
    loader = functools.partial(calibration_loader, loaded, preprocessing, calibration)
    evaluator = build_evaluator(loaded.recipe, preprocessing, validation, loader, loaded.device, world)
    return dataclasses.replace(evaluator, labelled=calibration is None)


def input_of(loaded: LoadedRun) -> Preprocessing:
    """The preparation of images, as the recipe or its overrides want it."""
    preprocessing = loaded.preprocessing
    for key in ("mean", "std"):
        wanted, own = getattr(loaded.recipe.data, key), getattr(preprocessing, key)
        if wanted and tuple(wanted) != own:
            raise UserError(f"data.{key} is {list(wanted)} and the model was trained with {list(own)}; leave it out")
    return preprocessing


def check_has_statistics(loaded: LoadedRun) -> None:
    """Raise a `UserError` for a model that has nothing to calibrate."""
    if isinstance(loaded.model, RuntimeModel):
        raise UserError(
            f"{loaded.folder} is computed by {loaded.model.runtime.name}, and the statistics of an exported network "
            "are fixed: calibrate the run, and export it with --checkpoint calibrated-SIZE"
        )
    if not has_running_statistics(loaded.model):
        raise UserError(f"{loaded.checkpoint.state['model']['name']} keeps no running statistics; nothing to calibrate")


def check_channels(loaded: LoadedRun) -> None:
    """Raise a `UserError` where the images have not the channels of the model."""
    channels, wanted = info_of(loaded.recipe).channels, loaded.preprocessing.channels
    if channels != wanted:
        raise UserError(
            f"the images of {loaded.recipe.data.name!r} have {channels} channel{'s' * (channels != 1)} and the model "
            f"takes {wanted}; give other data with --data.name, or train the model for these images with "
            f"--model.weights {loaded.folder}"
        )


def check_classes(preprocessing: Preprocessing, data: Source) -> None:
    """Raise a `UserError` where the data have other classes than the model, or another order of them."""
    if preprocessing.classes and data.classes != preprocessing.classes:
        own, other = (in_a_line(some_of(each.classes), 100) for each in (preprocessing, data))
        raise UserError(
            f"the data has the classes {other} and the run was trained on {own}: "
            f"{how_classes_differ(preprocessing.classes, data.classes)}; other data are given with --data.root"
        )


def calibration_loader(loaded: LoadedRun, preprocessing: Preprocessing, folder: str | Path | None) -> PlanLoader:
    """Loads the training images, or those in `folder`, augmented as in training."""
    recipe = loaded.recipe
    if folder is None:
        try:
            data = build.build_data(recipe, preprocessing)
        except MissingSplit as error:
            raise MissingSplit(
                f"calibration needs training images, or any folder of pictures with --calibration DIR ({error})"
            ) from None
        check_classes(loaded.preprocessing, data.train)
        return data.loader(recipe.data, loaded.device)
    source = image_files(recipe, preprocessing, images_in(Path(folder).expanduser()))
    at_base = dataclasses.replace(preprocessing, image_size=preprocessing.own_size, trained_size=0)
    transform = train_transform(recipe, at_base)
    return PlanLoader(source, transform, device=loaded.device, workers=recipe.data.workers)


def class_names(loaded: LoadedRun) -> tuple[str, ...]:
    """The names of the run's classes; weights that were imported do not tell them: VOC's, or their numbers."""
    count = loaded.checkpoint.state["model"]["num_classes"]
    voc = loaded.recipe.data.name == "voc" and count == len(VOC_CLASSES)
    return loaded.preprocessing.classes or (VOC_CLASSES if voc else tuple(map(str, range(count))))


def _unnamed_classes(loaded: LoadedRun, names: tuple[str, ...]) -> tuple[str, ...]:
    """The data's classes for weights that were imported without names, where they are as many."""
    wanted = loaded.checkpoint.state["model"]["num_classes"]
    if len(names) != wanted:
        raise UserError(
            f"the data has {counted(len(names), 'class')} and the weights, imported without names of classes, are for "
            f"{wanted}; give data with these classes, in the same order, or train a new head: "
            f"--model.weights {loaded.folder}"
        )
    return names
