"""What a run needs before its first step, built and checked: data, model, plan, length."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anysize.data.dataset import Split
from anysize.data.left_out import LeftOut
from anysize.data.source import Source
from anysize.experiment import build, sizing
from anysize.experiment.order import order_in_words
from anysize.experiment.second_passes import beside_of, check_size_weights, second_size
from anysize.experiment.targets import open_sources
from anysize.experiment.weights import describe_input, find_weights, for_classes
from anysize.norms.by_size.model import norm_by_size
from anysize.preprocessing import Preprocessing
from anysize.quantize.aware import check_reached
from anysize.recipe import Recipe, override
from anysize.registry import UserError, counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.second_size import SecondSize
from anysize.training.allocator import keep_freed_memory
from anysize.training.checkpoint.files import DamagedCheckpoint, read_state
from anysize.training.checkpoint.store import checkpoint_to_resume, with_remedy
from anysize.training.guards import check_precision
from anysize.training.length import RunLength, run_length
from anysize.training.optimizer import regime_at, stretch, too_fast_for_weights
from anysize.training.precision import choose_precision
from anysize.training.settings import OptimizerSettings, TrainingSettings
from anysize.world import World, pick_device

_FEW_STEPS = 100  # a longer run's warm-up has more steps than its first


@dataclasses.dataclass
class Prepared:
    """A recipe's data, model and plan, before anything is trained.

    `training` are its settings with as many chunks as make the parts of a batch no larger than the recipe has them.
    """

    recipe: Recipe
    training: TrainingSettings
    world: World
    device: torch.device
    data: build.Data
    validation: Source
    model: torch.nn.Module
    plan: BatchPlan
    length: RunLength
    notes: list[str]
    """Sentences on where the first weights came from, and on what is not as usual."""
    second: SecondSize
    identity: Mapping[str, Any]
    """Of the images, as `identity_of` tells it."""
    weights: str
    """The digest of the first weights, as `digest_of_weights` tells it."""
    norm_sizes: list[int]
    """The image sizes that the model keeps norms for; empty: its norms are plain."""


def prepare(
    recipe: Recipe,
    resumed: Mapping[str, Any] | None = None,
    world: World | None = None,
    *,
    allow_changes: bool = False,
    sources: Mapping[Split, Source] | None = None,
    identity: Mapping[str, Any] | None = None,
    digest: str = "",
) -> Prepared:
    """Build and check all that a run needs, so that what is wrong is said before the first step.

    `resumed` is the state of a run that goes on: its weights are in its checkpoint, and model.weights is not read. Its
    total batch stands, shared by the processes that there are now, unless `allow_changes`. `sources` are the images of
    both splits and `identity` what they are, where that is known already; `digest` is that of model.weights now.
    """
    world, resumed = world or World(), resumed or {}
    device = pick_device(recipe.training.device)
    check_precision(recipe.training.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if recipe.model.partial_weights and not recipe.model.weights:
        raise UserError("model.partial_weights is set without model.weights; say where the weights come from")
    weights = None
    own_input = None
    if recipe.model.weights and resumed:
        own_input = Preprocessing.from_dict(resumed["preprocessing"])
    elif recipe.model.weights:
        base = sizing.base_size(recipe)
        weights = find_weights(recipe.model.weights, recipe.model.name, recipe.model.options, size=base)
        own_input = weights.preprocessing
    sources = sources or open_sources(recipe)
    data = build.build_data(recipe, own_input, sources["train"])
    if weights:
        weights = for_classes(weights, build.model_spec(recipe, data.preprocessing), data.train.classes, recipe.data)
    model = build.build_model(recipe, data.preprocessing, weights)
    together = 0 if allow_changes else resumed.get("batches_a_step", 0)
    shapes = sizing.build_shapes(recipe, data.train)
    plan = sizing.build_plan(recipe, len(data.train), world, together, data.train.chunks(), shapes)
    sizing.check_shapes(data.transform, shapes)
    chunks = -(-recipe.training.chunks * plan.parts // world.size)
    training = dataclasses.replace(recipe.training, chunks=chunks)
    if recipe.quantize.aware:
        check_reached(model, data.preprocessing.image_size, data.preprocessing.channels)
    flops = build.flops_by_size(model, data.preprocessing.channels)
    base, adapt = data.preprocessing.image_size, recipe.optimizer.adapt_copies
    second = second_size(recipe, plan, base, model)
    length = run_length(plan, training, base, lambda size: flops(size).total, adapt, beside_of(second, flops))
    sizing.check_phases(plan.schedule, len(length.steps))
    check_size_weights(recipe.optimizer, plan.schedule, len(length.steps))
    norm_sizes = sizing.training_sizes(plan, len(length.steps)) if recipe.model.norm_by_size else []
    if norm_sizes:
        norm_by_size(model, norm_sizes, recipe.model.norm_by_size_affine)
    notes = [*weights.notes, describe_input(weights, data.preprocessing)] if weights else []
    if len(norm_sizes) == 1:
        notes.append(
            f"all images of the run are at {norm_sizes[0]} px, so that model.norm_by_size keeps one norm as without it"
        )
    if weights and (lr := too_fast_for_weights(stretch(recipe.optimizer, recipe.training.epochs), plan.total_batch)):
        notes.insert(
            0,
            f"the learning rate, at its largest {lr:.3g}, is one for training from scratch, which undoes much of what "
            "the weights have learnt; the recipe finetune has rates for them (anysize train finetune), or lower "
            "optimizer.lr",
        )
    if _never_learns(stretch(recipe.optimizer, recipe.training.epochs), length, plan.total_batch):
        notes.insert(
            0,
            f"warning: the learning rate is 0 in all of the run ({counted(length.total_steps, 'step')}), so that "
            "nothing is learnt: give optimizer.lr, optimizer.warmup_epochs 0, or more steps (training.epochs, or a "
            "smaller training.batch_size)",
        )
    notes += order_in_words(plan, data.train)
    validation = sources["validation"]
    if count := recipe.training.overfit_batches:
        validation = data.train.subset(sizing.images_of(plan))
        validation.left_out = LeftOut()  # which is told of the training images
        notes.append(
            f"every epoch trains the same {counted(min(count, plan.steps(0)), 'batch')} without augmentation, and "
            f"validation is on their {counted(len(validation), 'image')} (training.overfit_batches)"
        )
    return Prepared(
        recipe,
        training,
        world,
        device,
        data,
        validation,
        model.to(device),
        plan,
        length,
        notes,
        second,
        identity or {},
        resumed.get("weights", "") or digest,
        norm_sizes,
    )


def _never_learns(settings: OptimizerSettings, length: RunLength, batch: int) -> bool:
    """Whether the learning rate is 0 at every step of a short run, as where its only step is the first of warm-up."""
    if length.total_steps > _FEW_STEPS:
        return False
    steps = ((epoch, step) for epoch, count in enumerate(length.steps) for step in range(count))
    return not any(regime_at(settings, length.regime_epoch(*each), batch)[1]["lr"] for each in steps)


def settle_precision(prepared: Prepared) -> Prepared:
    """With the precision that `auto` comes to on the main process in the recipe, and said."""
    recipe, world = prepared.recipe, prepared.world
    if recipe.training.precision != "auto":
        return prepared
    with world.together():
        chosen = choose_precision(
            prepared.model, prepared.plan, prepared.length, prepared.training, prepared.data.preprocessing.channels,
            prepared.device,
        )  # fmt: skip
    precision, why = world.share(chosen)
    recipe = override(recipe, {"training.precision": precision})
    training = dataclasses.replace(prepared.training, precision=precision)
    return dataclasses.replace(prepared, recipe=recipe, training=training, notes=[*prepared.notes, why])


def resumed_state(checkpoints: Path, resume_from: str) -> dict[str, Any] | None:
    """What the checkpoint of a run that is to go on says; None: the run starts."""
    path = checkpoint_to_resume(checkpoints, resume_from)
    if path is None:
        return None
    try:
        return read_state(path, "preprocessing")
    except DamagedCheckpoint as error:
        raise with_remedy(path, error) from None
