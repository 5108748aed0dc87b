"""What a recipe's task decides: the targets that its data set is read with, their transforms, and the task itself."""

from typing import Any

from anysize.data.augment.evaluation import EvalTransform, Transform
from anysize.data.augment.joint import DenseEvalTransform, DenseTrainTransform, DenseTransform
from anysize.data.augment.plain import TrainTransform
from anysize.data.catalog import dataset_info, load_dataset, resolve_augment
from anysize.data.dataset import DatasetInfo, Split, Targets
from anysize.data.source import Source
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.tasks.base import Task, create_task, list_tasks, task_class


def targets_of(recipe: Recipe) -> Targets:
    """The kind of targets that the recipe's task learns."""
    targets: Targets = task_class(recipe.task.name).targets
    return targets


def info_of(recipe: Recipe) -> DatasetInfo:
    """How the recipe's data set is usually used for its task."""
    return dataset_info(recipe.data, targets_of(recipe))


def open_split(recipe: Recipe, split: Split) -> Source:
    """The images of a split with the targets of the task."""
    return load_dataset(recipe.data, split, targets_of(recipe))


def train_transform(recipe: Recipe, preprocessing: Preprocessing) -> Transform | DenseTransform:
    """Augmentation as the recipe says, of masks together with their images."""
    augment = resolve_augment(recipe.augment, info_of(recipe))
    kind = DenseTrainTransform if targets_of(recipe) == "masks" else TrainTransform
    return kind(preprocessing, augment, recipe.training.seed)


def eval_transform(recipe: Recipe, preprocessing: Preprocessing) -> Transform | DenseTransform:
    """Preprocessing for evaluation, in crops where the recipe says so.

    Raises:
        UserError: crops or copies of images that have masks.
    """
    settings = recipe.evaluation
    if targets_of(recipe) != "masks":
        return EvalTransform(preprocessing, crops=int(settings.crops))
    for key, value in (("crops", int(settings.crops)), ("copies", settings.copies)):
        if value != 1:
            raise UserError(
                f"evaluation.{key} is {value}, but the outputs for images with masks are not averaged over {key}; "
                "expected 1: evaluation.scales and evaluation.flip average over scales and mirrored images"
            )
    return DenseEvalTransform(preprocessing)


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
    others = {"sizes.base"} | ({"data.areas"} if targets_of(recipe) == "labels" else set())  # read elsewhere, too
    for key in sorted(every - {*own} - others):
        if _setting(recipe, key) != _setting(Recipe(), key):
            takers = [name for name in list_tasks() if key in task_class(name).settings]
            raise UserError(
                f"{key} is set, but the task {recipe.task.name!r} does not use it ({' and '.join(takers)} would); "
                "remove it"
            )
    resolved = {"data.areas": info_of(recipe).areas, "sizes.base": preprocessing.own_size}
    options = {key.rpartition(".")[2]: resolved.get(key, _setting(recipe, key)) for key in own}
    return create_task(recipe.task.name, preprocessing.classes, **options)


def _setting(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


__all__ = ["build_task", "eval_transform", "info_of", "open_split", "targets_of", "train_transform"]
