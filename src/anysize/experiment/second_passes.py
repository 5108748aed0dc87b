"""What the steps of a recipe compute of their samples beside their own pass, and whether its settings for it agree."""

import dataclasses
import functools
from collections.abc import Callable

from torch import nn

from anysize.models.measure.memory import activation_bytes
from anysize.norms.online.norm import online_norms
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops
from anysize.sizes.mix import SizeBatch
from anysize.sizes.schedule import SizeSchedule
from anysize.sizes.second_size import SecondSize
from anysize.sizes.shapes import SQUARE, Extent
from anysize.training.regime import constant
from anysize.training.settings import OptimizerSettings, TrainingSettings

_DEFAULT = TrainingSettings()
_SETTINGS = (
    "distill", "distill_weight", "distill_temperature", "second_size", "both_sizes", "consistency", "consistency_loss",
)  # fmt: skip


def without_second_passes(training: TrainingSettings) -> TrainingSettings:
    """The settings with every sample computed once a step, and nobody who teaches."""
    return dataclasses.replace(training, **{name: getattr(_DEFAULT, name) for name in _SETTINGS})


def computes_more(training: TrainingSettings) -> bool:
    """Whether the steps compute more of their samples than one pass at their own size."""
    return bool(training.distill or training.both_sizes or training.consistency)


def passes_beside(training: TrainingSettings, schedule: SizeSchedule, base: int) -> SecondSize:
    """What the steps compute of their samples beside their own pass, around `base` pixels; nothing is checked."""
    if not computes_more(training):
        return SecondSize(0)
    size = max(_all_sizes(training, schedule)) if training.second_size == "largest" else base
    return SecondSize(size, training.both_sizes or training.consistency > 0, training.distill)


def _all_sizes(training: TrainingSettings, schedule: SizeSchedule) -> set[int]:
    return schedule.sizes(schedule.epochs_with_all_sizes(training.epochs, training.equal_flops))


def pixels_beside(second: SecondSize) -> Callable[[int], float]:
    """The pixels of an image beside its own, where a backward pass takes twice as much as a forward one.

    >>> pixels_beside(SecondSize(32, teacher="larger"))(16) == 32**2 / 3
    True
    """
    return lambda size: second.flops(size, lambda side: Flops(side**2, 2 * side**2)) / 3


def second_size(recipe: Recipe, plan: BatchPlan, base: int, model: nn.Module) -> SecondSize:
    """What the settings of a recipe come to for the sizes and shapes of its plan, around `base` pixels.

    Raises:
        UserError: settings that say nothing, or do not go together.
    """
    training, schedule, shapes = recipe.training, plan.schedule, plan.shapes
    _check_said(training)
    second = passes_beside(training, schedule, base)
    if not second:
        return second
    _check_together(recipe, model)
    sizes, size = _all_sizes(training, schedule), second.size
    aspects = [shapes.aspect(group) for group in range(len(shapes.ratios))] if shapes else [SQUARE]
    below = any(second.below(each, aspect) for each in sizes for aspect in aspects)
    if (second.trains or second.teacher == "larger") and not below:
        raise UserError(
            f"the smallest size of this run is {min(sizes)} px, and training.distill = larger, both_sizes and "
            f"consistency are for steps below {size} px: give smaller sizes, or training.second_size = largest"
        )
    if recipe.augment.by_size and any(second.loaded(each) != each for each in sizes):
        raise UserError(
            "augment.by_size gives each size a strength of its own, and a sample that is computed at two sizes "
            "(training.distill, both_sizes, consistency) is one picture at both; leave it out, or use training.distill "
            "= averaged alone"
        )
    return second


def _check_said(training: TrainingSettings) -> None:
    """Refuse what is set and has no effect."""
    shown = {"distill_weight": "training.distill", "distill_temperature": "training.distill"}
    for name, of in {**shown, "consistency_loss": "training.consistency"}.items():
        if getattr(training, name) != getattr(_DEFAULT, name) and not getattr(training, of.removeprefix("training.")):
            raise UserError(f"training.{name} is set without {of}; set that, or leave this out")
    if training.distill and training.distill_weight == constant(0.0):
        raise UserError("training.distill_weight is 0, and a teacher would be paid for nothing; leave out distill")
    larger = training.both_sizes or training.consistency or training.distill in ("larger", "averaged-larger")
    if training.second_size != _DEFAULT.second_size and not larger:
        raise UserError(
            f"training.second_size is {training.second_size}, but nothing is computed there; set training.distill = "
            "larger or averaged-larger, both_sizes or consistency, or leave it out"
        )


def _check_together(recipe: Recipe, model: nn.Module) -> None:
    training = recipe.training
    if training.distill.startswith("averaged"):
        if not training.average_steps:
            raise UserError(
                f"training.distill is {training.distill}, and there are no averaged weights; set "
                "training.average_steps, such as 1"
            )
        if recipe.quantize.aware:
            raise UserError(
                f"training.distill = {training.distill} does not go with quantize.aware, whose ranges the averaged "
                "weights would have to follow; use training.distill = larger"
            )
    if recipe.optimizer.adapt_copies:
        raise UserError(
            "optimizer.adapt_copies measures the gradients of the targets alone, and goes neither with "
            "training.distill nor with both_sizes or consistency; leave it out"
        )
    if training.consistency and any(online_norms(model)):
        raise UserError(
            "training.consistency goes backward through two sizes at once, for which the control variables of online "
            "norms have no common unit; use training.distill or training.both_sizes"
        )
    if training.consistency and recipe.model.norm_by_size and recipe.model.checkpoint_segments:
        raise UserError(
            "training.consistency goes backward through two sizes at once, and model.checkpoint_segments would compute "
            "the first with the norms of the second (model.norm_by_size); leave one of them out"
        )


def check_size_weights(settings: OptimizerSettings, schedule: SizeSchedule, epochs: int) -> None:
    """Raise a `UserError` for weights of sizes that a run of so many epochs does not have, or that come twice."""
    if settings.weigh_sizes and settings.size_weights:
        raise UserError(
            "optimizer.weigh_sizes and optimizer.size_weights both say how sizes are weighed; leave one of them out"
        )
    if not settings.weigh_sizes and not settings.size_weights:
        return
    sizes = schedule.sizes(epochs)
    if settings.weigh_sizes and all(len(schedule.at(span.start).mix.sizes) == 1 for span in schedule.spans(epochs)):
        raise UserError(
            "optimizer.weigh_sizes weighs the sizes of an epoch against each other, and each epoch of this run has "
            "one; leave it out"
        )
    for size in settings.size_weights:
        if not size.isdecimal() or int(size) not in sizes:
            raise UserError(
                f"optimizer.size_weights names the size {size}; expected sizes of this run: "
                f"{', '.join(map(str, sorted(sizes)))}"
            )


def beside_of(second: SecondSize, flops: Callable[[Extent], Flops]) -> Callable[[SizeBatch], int]:
    """FLOPs of what is computed of an image beside its own pass, by its size; `flops` are those of one pass."""
    return lambda part: second.flops(part.size, lambda size: flops(part.aspect.extent(size)), part.aspect)


def image_bytes(recipe: Recipe, model: nn.Module, channels: int, second: SecondSize) -> Callable[[SizeBatch], int]:
    """Bytes that an image of a step of a size leaves in memory, with what is computed of it beside its own pass."""
    of_one = functools.cache(lambda extent: activation_bytes(model, extent, channels))

    def image(part: SizeBatch) -> int:
        own: int = of_one(part.extent)
        if not second.at_both(part.size, part.aspect):
            return own
        other: int = of_one(part.aspect.extent(second.size))
        return own + other if recipe.training.consistency else max(own, other)

    return image
