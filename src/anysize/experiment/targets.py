"""The parts of a recipe that follow from its task: kind of targets, data, transforms, and the task itself."""

from collections.abc import Callable
from typing import Any

import torch

from anysize.data.augment.by_size import last_epoch, scheduled_names
from anysize.data.augment.transform import Transform
from anysize.data.catalog import dataset_info, load_dataset, preloaded, resolve_augment
from anysize.data.dataset import DatasetInfo, Split
from anysize.data.kinds.base import TargetKind, create_kind
from anysize.data.left_out import warn_of
from anysize.data.loader import PlanLoader
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.data.source import Source
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.shapes import EvaluatedShape
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.sizes.settings import SizeSettings
from anysize.sizes.shapes import SQUARE, Aspect, Shapes, parse_shape
from anysize.tasks.base import Task, create_task, list_tasks, task_class
from anysize.world import World


def kind_of(recipe: Recipe) -> TargetKind:
    """The kind of targets that the recipe's task learns."""
    return create_kind(task_class(recipe.task.name).targets)


def info_of(recipe: Recipe) -> DatasetInfo:
    """How the recipe's data set is usually used for its task."""
    return dataset_info(recipe.data, task_class(recipe.task.name).targets)


def open_split(recipe: Recipe, split: Split) -> Source:
    """The images of a split with the targets of the task."""
    return ready(load_dataset(recipe.data, split, task_class(recipe.task.name).targets, preload=False), recipe.data)


def ready(source: Source, settings: DataSettings) -> Source:
    """An opened source, decoded into memory where it fits; a warning names what was left out of it."""
    warn_of(source.left_out, source.name)
    return preloaded(source, settings)


def open_sources(recipe: Recipe) -> dict[Split, Source]:
    """The training and validation images, of which none is decoded."""
    targets = task_class(recipe.task.name).targets
    return {split: load_dataset(recipe.data, split, targets, preload=False) for split in ("train", "validation")}


def augmentation(recipe: Recipe) -> AugmentSettings:
    """What happens to a training image: nothing where a few batches are overfitted."""
    if not recipe.training.overfit_batches:
        return recipe.augment
    return AugmentSettings(crop="none", flip=0.0, backend=recipe.augment.backend)


def train_transform(recipe: Recipe, preprocessing: Preprocessing) -> Transform:
    """Augmentation as the recipe says."""
    augment = resolve_augment(augmentation(recipe), info_of(recipe))
    return kind_of(recipe).train_transform(preprocessing, augment, recipe.training.seed)


def eval_transform(recipe: Recipe, preprocessing: Preprocessing) -> Transform:
    """Preprocessing for evaluation, in crops where the recipe says so; raises a `UserError` for what does not fit."""
    settings, own = recipe.evaluation, evaluated_shape(recipe, preprocessing).own
    return kind_of(recipe).eval_transform(preprocessing, int(settings.crops), settings.copies, own)


def run_aspect(settings: SizeSettings) -> Aspect | None:
    """The aspect of all training images: a square, or what sizes.shape or a single ratio says; None: they are grouped.

    >>> run_aspect(SizeSettings()), run_aspect(SizeSettings(shape="192x256")).sides(222)
    (Aspect(ratio=1.0, multiple=1), (192, 256))

    Raises:
        UserError: settings that exclude each other, or no such shape.
    """
    if settings.shape and settings.aspect_ratios:
        raise UserError(
            f"sizes.shape is {settings.shape} and sizes.aspect_ratios {list(settings.aspect_ratios)}; all images have "
            "the first, or each the nearest of the others: leave one of them out"
        )
    if settings.shape:
        return Aspect.from_shape(*parse_shape(settings.shape), settings.multiple)[0]
    if not settings.aspect_ratios:
        return SQUARE
    return Shapes(settings.aspect_ratios, settings.multiple).aspect(0) if len(settings.aspect_ratios) == 1 else None


def evaluated_shape(recipe: Recipe, preprocessing: Preprocessing) -> EvaluatedShape:
    """The shape that evaluation.shape says; raises a `UserError` as `run_aspect`."""
    aspect, multiple = run_aspect(recipe.sizes), recipe.sizes.multiple
    match recipe.evaluation.shape:
        case "own":
            return EvaluatedShape(own=True, multiple=multiple)
        case "square":
            return EvaluatedShape()
    if aspect is None:  # masks that are padded have their images' shapes as it is
        return EvaluatedShape(own=kind_of(recipe).one_shape or preprocessing.resize != "pad", multiple=multiple)
    return EvaluatedShape(aspect=aspect)


def build_evaluator(
    recipe: Recipe,
    preprocessing: Preprocessing,
    validation: Source,
    training_loader: Callable[[], PlanLoader],
    device: torch.device,
    world: World | None = None,
) -> Evaluator:
    """The evaluator with the recipe's task and settings.

    Raises:
        UserError: as `build_task`, and settings of evaluation that do not fit together.
    """
    return Evaluator(
        recipe.evaluation,
        kind_of(recipe),
        build_task(recipe, preprocessing),
        preprocessing,
        validation,
        training_loader,
        device,
        lambda: train_transform(recipe, preprocessing),
        training_batch=recipe.training.batch_size,
        seed=recipe.training.seed,
        workers=recipe.data.workers,
        augment_epoch=last_epoch(augmentation(recipe)),
        world=world or World(),
        shape=evaluated_shape(recipe, preprocessing),
    )


def build_task(recipe: Recipe, preprocessing: Preprocessing) -> Task:
    """The task with its options, for the classes of `preprocessing`.

    Raises:
        UserError: an unknown task, or a setting of another task that this one does not take.

    >>> from anysize.recipe import override
    >>> build_task(override(Recipe(), {"task.label_smoothing": 0.1}), Preprocessing(28, classes=("a", "b"))).name
    'classification'
    """
    own = task_class(recipe.task.name).settings
    every = {key for name in list_tasks() for key in task_class(name).settings}
    others = {"sizes.base", "augment.by_size", "augment.by_epoch", *kind_of(recipe).settings}  # read elsewhere, too
    for name in scheduled_names(recipe.augment):
        if f"augment.{name}" in every - {*own}:
            raise UserError(
                f"augment.by_size or by_epoch has {name}, but the task {recipe.task.name!r} does not use it; remove it"
            )
    for key in sorted(every - {*own} - others):
        if _setting(recipe, key) != _setting(Recipe(), key):
            takers = [name for name in list_tasks() if key in task_class(name).settings]
            raise UserError(
                f"{key} is set, but the task {recipe.task.name!r} does not use it ({' and '.join(takers)} would); "
                "remove it"
            )
    resolved = {"data.areas": info_of(recipe).areas, "sizes.base": preprocessing.own_size}
    resolved |= {f"augment.{name}": value for name, value in vars(augmentation(recipe)).items()}
    options = {key.rpartition(".")[2]: resolved.get(key, _setting(recipe, key)) for key in own}
    return create_task(recipe.task.name, preprocessing.classes, **options)


def _setting(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)
