"""A recipe's sizes, shapes and batches: base size, aspect ratios of its images, batch plan."""

import dataclasses
import functools

import numpy as np

from anysize.data.augment.transform import Transform
from anysize.data.image_shapes import image_shapes
from anysize.data.source import Source
from anysize.experiment.second_passes import passes_beside, pixels_beside
from anysize.experiment.targets import info_of, run_aspect
from anysize.norms.by_size.norm import side
from anysize.recipe import Recipe
from anysize.registry import UserError, counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.schedule import SizeSchedule, build_schedule
from anysize.sizes.settings import MOVING, SizeSettings
from anysize.sizes.shapes import SQUARE, Aspect, Shapes, parse_shape
from anysize.world import World


def base_size(recipe: Recipe) -> int:
    """The base image size, decided here alone: the recipe's, else the data set's own.

    Raises:
        UserError: the recipe has a shape and a base size, or no such shape.
    """
    if recipe.sizes.shape:
        _, size = Aspect.from_shape(*parse_shape(recipe.sizes.shape), recipe.sizes.multiple)
        if recipe.sizes.base not in (0, size):
            raise UserError(
                f"sizes.base is {recipe.sizes.base} and sizes.shape {recipe.sizes.shape}, which has as many pixels as "
                f"{size} x {size}; leave sizes.base out"
            )
        return size
    return recipe.sizes.base or info_of(recipe).image_size


def build_shapes(recipe: Recipe, images: Source | None, length: int = 0) -> Shapes | None:
    """The aspect ratios of a run, with the group of each training image; None: all are square.

    Args:
        recipe: with its settings of sizes.
        images: the training images, whose headers are read where there are several ratios.
        length: as many images as are planned for, of the same shapes; 0: those that there are.

    Raises:
        UserError: settings that exclude each other, or that say nothing.
    """
    settings, aspect = recipe.sizes, run_aspect(recipe.sizes)
    if settings.multiple != SizeSettings().multiple and aspect == SQUARE and recipe.evaluation.shape != "own":
        raise UserError(
            f"sizes.multiple is {settings.multiple}, and all images are square; set sizes.shape, sizes.aspect_ratios, "
            "or evaluation.shape to own, or leave it out"
        )
    if aspect is not None:
        return Shapes((aspect.ratio,), aspect.multiple) if aspect != SQUARE else None
    if recipe.optimizer.adapt_copies:
        raise UserError(
            "optimizer.adapt_copies measures gradients every so many steps of a size, which several shapes "
            "(sizes.aspect_ratios) would share; leave one of the two out"
        )
    assert images is not None, "to be opened where images are grouped"
    found = image_shapes(images)
    if length and length != len(found):
        found = found[np.arange(length) * len(found) // length]
    return Shapes.grouped(found, settings.aspect_ratios, settings.multiple)


def check_shapes(transform: Transform, shapes: Shapes | None) -> None:
    """Raise a `UserError` where the augmentation cannot make images of these shapes."""
    if shapes:
        for group in range(len(shapes.ratios)):
            transform.check(shapes.aspect(group))


def build_plan(
    recipe: Recipe,
    length: int,
    world: World | None = None,
    batches_a_step: int = 0,
    chunks: tuple[int, ...] = (),
    shapes: Shapes | None = None,
) -> BatchPlan:
    """The batch plan of a recipe over `length` training samples; `batches_a_step` as `BatchPlan` takes it.

    `chunks` are those that the samples lie in, for recipes that shuffle by chunks, `shapes` those of `build_shapes`.
    """
    training = recipe.training
    if training.overfit_batches and training.limit_steps:
        raise UserError(
            "training.overfit_batches and training.limit_steps are both set, and both say how many steps an epoch has; "
            "leave one out"
        )
    mixes = {recipe.sizes.mix, *(phase.mix for phase in recipe.sizes.phases)}
    at_the_end = training.overfit_batches and mixes & {*MOVING}
    if at_the_end and recipe.sizes.phases:
        raise UserError(
            "training.overfit_batches trains the same batches in each epoch, and the weights of sizes.mix window and "
            "points move from epoch to epoch, here in phases; set sizes.mix to fixed, uniform or custom"
        )
    try:
        base = base_size(recipe)
        build = functools.partial(build_schedule, recipe.sizes, base, training.epochs, equal_flops=training.equal_flops)
        schedule = build()
        if second := passes_beside(training, schedule, base):
            schedule = build(beside=pixels_beside(second))
    except UserError as error:
        raise UserError(f"[sizes]: {error}") from None
    if at_the_end:
        schedule = schedule.at_its_end()
    return BatchPlan(
        length,
        schedule,
        batch_size=training.batch_size,
        copies=training.copies,
        seed=training.seed,
        rank=world.rank if world else 0,
        world_size=world.size if world else 1,
        drop_last=training.drop_last,
        batches_a_step=batches_a_step,
        repeats=training.repeats,
        limit_steps=training.overfit_batches or training.limit_steps,
        same_samples=training.overfit_batches > 0,
        chunks=chunks if recipe.data.shuffle_chunks else (),
        chunks_together=recipe.data.shuffle_chunks or 1,
        shapes=shapes,
    )


def images_of(plan: BatchPlan, epoch: int = 0) -> np.ndarray:
    """The images (int64, sorted) that all processes train in an epoch."""
    together = dataclasses.replace(plan, rank=0, world_size=1, batches_a_step=plan.parts)
    return np.unique(np.concatenate([batch.indices for batch in together.batches(epoch)]))


def check_phases(schedule: SizeSchedule, epochs: int) -> None:
    """Raise a `UserError` if a phase of the schedule never starts."""
    for phase in schedule.phases:
        if phase.epoch >= epochs:
            raise UserError(
                f"the size phase at epoch {phase.epoch} never starts: the run makes {counted(epochs, 'pass')} over "
                "the images; "
                "start it earlier (with training.equal_flops the FLOPs decide the number of passes: `anysize plan`)"
            )


def training_sizes(plan: BatchPlan, epochs: int) -> list[int]:
    """The image sizes of a run, each once, as norms by size tell them apart; ascending."""
    return sorted({side(size) for size in plan.schedule.sizes(epochs)})
