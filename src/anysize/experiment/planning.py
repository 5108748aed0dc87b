"""`anysize.plan`: what a recipe will cost, known before it starts and without its data."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anysize.data.catalog import build_preprocessing
from anysize.data.source import Source
from anysize.experiment import build, sizing
from anysize.experiment.order import order_in_words
from anysize.experiment.second_passes import beside_of, check_size_weights, image_bytes, second_size
from anysize.experiment.targets import build_task, info_of, open_split, train_transform
from anysize.machine import plainly
from anysize.models.measure.flops import IMAGES
from anysize.models.measure.memory import estimate_memory
from anysize.models.measure.meta import build_on_meta
from anysize.models.named_code import is_code
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe, override
from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import PlanCost, plan_cost
from anysize.sizes.mix import SizeBatch
from anysize.training.length import run_length
from anysize.world import World


@dataclasses.dataclass(frozen=True)
class RunCost:
    """The cost of a run; FLOPs count forward and backward, a multiply-add as two.

    `cost` has the sizes one by one; `steps`, `images`, `flops` and `epochs` are those of the run, which equal_flops
    may end in the middle of an epoch; `flops` includes what optimizer.adapt_copies measures; `ratio` is its FLOPs over
    those of `base_epochs` epochs at the `base` size.
    `memory` is that of one of the `devices`, in bytes. `notes` are sentences on the order of images where it is not all
    of them shuffled together.
    """

    length: int
    epochs: int
    cost: PlanCost
    steps: int
    images: int
    flops: int
    base: int
    base_epochs: int
    memory: int
    devices: int
    total_batch: int
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """FLOPs over those of training at the base size."""
        return self.flops / self.cost.base.total_flops

    def images_per_second(self, tflops: float) -> float:
        """Images that the loader of a device has to give in a second, where the device computes `tflops` TFLOP/s."""
        return tflops * 1e12 * self.images / self.flops

    def hours(self, tflops: float) -> float:
        """Hours of training on devices that each compute `tflops` TFLOP/s, without evaluation."""
        return self.flops / (tflops * 1e12 * self.devices) / 3600


@plainly("planning")
def plan(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    images: int = 0,
    devices: int = 1,
    classes: int = 0,
) -> RunCost:
    """Work out the cost of a recipe. Needs no data where the data set's number of images is known or given.

    Args:
        recipe: a recipe's name, the path of its TOML file, or a `Recipe`.
        overrides: `{"section.field": value}`.
        images: number of training images; 0: the data set's own, or counted in its folder.
        devices: processes that train together, each with a batch of training.batch_size.
        classes: their number, where it and `images` are known already; 0: the data set's own, or found in its folder.

    Raises:
        UserError: a bad recipe, missing data whose number of images is not known, or fewer than 1 device.

    >>> cost = plan("quickstart", {"sizes.mix": "fixed", "training.epochs": 3})
    >>> cost.steps, round(cost.ratio, 3)
    (468, 1.0)
    """
    if devices < 1:
        raise UserError(f"devices is {devices}; expected the number of processes that train together, at least 1")
    resolved = override(recipe, overrides or {}) if isinstance(recipe, Recipe) else load_recipe(str(recipe), overrides)
    length, preprocessing, source = data_of(resolved, images, classes)
    chunks = source.chunks() if source and length == len(source) else ()  # of another number of images there are none
    build_task(resolved, preprocessing)  # says what of the settings is not the task's
    model = model_on_meta(resolved, preprocessing)
    shapes = sizing.build_shapes(resolved, source, length)
    sizing.check_shapes(train_transform(resolved, preprocessing), shapes)
    batches = sizing.build_plan(resolved, length, World(0, devices), chunks=chunks, shapes=shapes)
    flops = build.flops_by_size(model, preprocessing.channels)
    base = preprocessing.image_size
    adapt = resolved.optimizer.adapt_copies
    second = second_size(resolved, batches, base, model)
    beside = beside_of(second, flops)
    run = run_length(batches, resolved.training, base, lambda size: flops(size).total, adapt, beside)
    sizing.check_phases(batches.schedule, len(run.steps))
    check_size_weights(resolved.optimizer, batches.schedule, len(run.steps))
    cost = plan_cost(
        batches, len(run.steps), flops, base, resolved.training.epochs,
        last_steps=run.steps[-1], adapt_copies=adapt, beside=beside,
    )  # fmt: skip
    parts = parts_of_steps(batches, len(run.steps), resolved.training.chunks)
    memory = estimate_memory(
        model, parts, preprocessing.channels, optimizer_slots=optimizer_slots(resolved),
        image_bytes=image_bytes(resolved, model, preprocessing.channels, second),
    )  # fmt: skip
    return RunCost(
        length=length,
        epochs=len(run.steps),
        cost=cost,
        steps=run.total_steps,
        images=cost.images,
        flops=run.flops,
        base=base,
        base_epochs=resolved.training.epochs,
        memory=memory,
        devices=devices,
        total_batch=batches.total_batch,
        notes=tuple(order_in_words(batches, source)) if source else (),
    )


def data_of(recipe: Recipe, images: int = 0, classes: int = 0) -> tuple[int, Preprocessing, Source | None]:
    """The number of training images, how they are fed, and the images where they had to be opened for it."""
    info = info_of(recipe)
    classes = classes or info.num_classes
    length = images or min(recipe.data.limit or info.train_images, info.train_images)
    needed = recipe.data.shuffle_chunks or len(recipe.sizes.aspect_ratios) > 1
    source = open_split(recipe, "train") if not length or not classes or needed else None
    if source:
        length, classes = images or len(source), len(source.classes)
    names = [str(number) for number in range(classes)]
    return length, build_preprocessing(recipe.data, info, sizing.base_size(recipe), names), source


def model_on_meta(recipe: Recipe, preprocessing: Preprocessing) -> nn.Module:
    """The model of a recipe without values; with them if it is somebody's own, and reads values while it computes."""
    made = functools.partial(build.build_model, recipe, preprocessing)
    if recipe.quantize.aware:  # norms are folded to find what is rounded: with values
        return made().to("meta")
    if not is_code(recipe.model.name):
        return build_on_meta(made)
    size, channels = preprocessing.image_size, preprocessing.channels
    try:
        model = build_on_meta(made)
        with torch.no_grad():
            model(torch.empty(IMAGES, channels, size, size, device="meta"))
    except (NotImplementedError, RuntimeError):
        return made()
    return model


def parts_of_steps(batches: BatchPlan, epochs: int, chunks: int) -> set[SizeBatch]:
    """What goes through the network at once in the steps of a run, each batch in so many `chunks`."""
    return {
        dataclasses.replace(part, batch_size=-(-part.batch_size // chunks), share=0.0)
        for span in batches.spans(epochs)
        for part in batches.sizes(span.start)
    }


def optimizer_slots(recipe: Recipe) -> int:
    """Values that the optimizer keeps for a weight."""
    return 2 if any(str(point.value).startswith("adam") for point in recipe.optimizer.name) else 1
