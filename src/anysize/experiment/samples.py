"""What the network sees: training images as they come out of plan, loader and transforms, at every size of a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anysize.data.augment.by_size import mixes
from anysize.data.augment.transform import denormalize
from anysize.data.catalog import DATASETS
from anysize.data.loader import PlanLoader
from anysize.data.spread import spread
from anysize.experiment import build, sizing
from anysize.experiment.loaded import recipe_of
from anysize.experiment.targets import build_task, kind_of
from anysize.experiment.weights import find_weights
from anysize.recipe import Recipe, load_recipe, override
from anysize.recipes import recipe_names
from anysize.registry import UserError, did_you_mean
from anysize.reports.samples_page import SizeSamples, TrainingSamples, View
from anysize.sizes.batch import Batch
from anysize.sizes.batch_plan import BatchPlan, SizeBatch
from anysize.sizes.shapes import Extent
from anysize.tasks.base import task_for
from anysize.training.loop import step_seeds
from anysize.training.step import seed_generators

_AS_THEY_ARE = {"task.label_smoothing": 0.0, "task.label_smoothing_by_size": {}, "task.label_smoothing_by_epoch": {}}
_MOST_SIZES = 16  # a ramp has many, each a few pixels larger than the one before


def recipe_for_data(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe that a recipe's name, its file, the name of a data set or a run folder stands for.

    A name that both a recipe and a data set have, such as folder, is the recipe's. A data set has the task of the first
    targets that it offers, where no task.name is given.

    Raises:
        UserError: it is none of these, or a setting is none.

    >>> recipe_for_data("scenes").task.name, recipe_for_data("quickstart").data.name
    ('multilabel', 'fashion-mini')
    """
    given = overrides or {}
    if name in recipe_names(bases=True) or name.endswith(".toml"):
        return load_recipe(name, given)
    if name in DATASETS:
        recipe = override(Recipe(), {**given, "data.name": name})
        offered = DATASETS[name]().offered(recipe.data)
        return recipe if "task.name" in given else override(recipe, {"task.name": task_for(offered[0])})
    if Path(name).is_dir():
        return recipe_of(name, given)
    hint = did_you_mean(name, [*recipe_names(), *DATASETS])
    raise UserError(f"{name!r} is no recipe, run folder or data set: {hint}")


def training_samples(recipe: Recipe, samples: int = 8) -> TrainingSamples:
    """The first `samples` training images at each size of a recipe, in all their copies, as the network gets them.

    They are those of the first batch of each size, in the first epoch that has it, with the augmentation of that step:
    plan, loader, transforms and, where the recipe has it, mixup or cutmix are those of the training. Beside them stands
    one image at every size.

    Raises:
        UserError: a bad recipe, data that cannot be opened, or no image that can be decoded.
    """
    own = recipe.model.weights and find_weights(recipe.model.weights, recipe.model.name, recipe.model.options)
    # A few images are looked at: the others need not be decoded.
    data = build.build_data(override(recipe, {"data.memory_limit": 0}), own.preprocessing if own else None)
    plan = sizing.build_plan(recipe, len(data.train), shapes=sizing.build_shapes(recipe, data.train))
    seen = _Seen(recipe, data)
    epochs = plan.schedule.epochs_with_all_sizes(recipe.training.epochs, recipe.training.equal_flops)
    firsts = sorted(_first_batches(plan, epochs), key=lambda each: (each.part.size, each.part.aspect, each.step))
    chosen = [firsts[i] for i in spread(len(firsts), _MOST_SIZES).tolist()]
    by_size = [found for first in chosen if (found := seen.samples(first, samples))]
    if not by_size:
        raise UserError("no training image can be decoded: `anysize data check` says why")
    return TrainingSamples(by_size, seen.one_at_every_size(chosen), data.preprocessing, len(firsts), seen.mixed)


class _First(NamedTuple):
    """The first batch of a size: its number among all steps of the run, and the first and last epoch of that size."""

    part: SizeBatch
    step: int
    batch: Batch
    epochs: tuple[int, int]


def _first_batches(plan: BatchPlan, epochs: int) -> list[_First]:
    found: dict[tuple[Extent, int, int], _First] = {}
    steps = 0
    for span in plan.spans(epochs):
        parts = {part.extent: part for part in plan.sizes(span.start)}
        keys = {extent: (extent, part.copies, part.batch_size) for extent, part in parts.items()}
        if any(key not in found for key in keys.values()):
            for number, batch in enumerate(plan.batches(span.start)):
                extent = batch.aspect.extent(batch.size)
                first = _First(parts[extent], steps + number, batch, (span.start + 1, span.stop))
                found.setdefault(keys[extent], first)
        for key in keys.values():
            if key in found:
                found[key] = found[key]._replace(epochs=(found[key].epochs[0], span.stop))
        steps += len(span) * plan.steps(span.start)
    return list(found.values())


class _Seen:
    """Loads batches as the training does, and turns its input into pictures again."""

    def __init__(self, recipe: Recipe, data: build.Data) -> None:
        self.recipe, self.source, self.preprocessing = recipe, data.train, data.preprocessing
        self.kind, self.task = kind_of(recipe), build_task(override(recipe, _AS_THEY_ARE), data.preprocessing)
        self.loader = PlanLoader(data.train, data.transform, reduced=True)
        ways = mixes(recipe.augment)
        self.mixed = f"Samples are mixed among themselves ({' or '.join(ways)})." if ways else ""

    def samples(self, first: _First, count: int) -> SizeSamples | None:
        """The first samples of a batch; None where no image of it can be decoded."""
        batch = first.batch
        if not self.mixed:  # otherwise each is mixed with another one, the first with the last
            batch = batch.at(range(min(count, len(batch.indices))))
        for loaded in self.loader.load([batch]):
            with torch.random.fork_rng(devices=[]):
                seed_generators(next(step_seeds(self.recipe.training.seed, first.step, 1, 0)), torch.device("cpu"))
                images, targets = self.task.mix(loaded.images, loaded.targets, batch.epoch)
            own = len(loaded.indices)
            views = self._views(images, targets)
            copies = [(self.source.describe(index), views[i::own]) for i, index in enumerate(loaded.indices.tolist())]
            part, values = first.part, [images.min(), images.max(), images.mean(), images.std()]
            return SizeSamples(
                part.extent, part.copies, part.batch_size, part.share, first.epochs, copies[:count], *map(float, values)
            )
        return None

    def one_at_every_size(self, firsts: Sequence[_First]) -> list[tuple[Extent, View]]:
        """The first sample of the first of these batches, at the sizes of all, in its own batch's aspect ratio."""
        batch = firsts[0].batch.at([0])
        sizes = sorted({first.part.size for first in firsts})
        wanted = [dataclasses.replace(batch, size=size, copies=1) for size in sizes]
        views = [self._views(loaded.images, loaded.targets)[0] for loaded in self.loader.load(wanted)]
        return [(batch.aspect.extent(size), view) for size, view in zip(sizes, views, strict=False)]

    def _views(self, images: Tensor, targets: Tensor) -> list[View]:
        classes = self.preprocessing.classes
        pixels = denormalize(images, self.preprocessing).permute(0, 2, 3, 1).numpy()
        views = []
        for image, target in zip(pixels, targets.numpy(), strict=True):
            amounts = self.kind.amounts(target, len(classes))
            named = {classes[i]: float(amounts[i]) for i in np.flatnonzero(amounts).tolist()}
            colours = np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[2] == 1 else image
            views.append(View(np.ascontiguousarray(colours), named, self.kind.mask_of(target)))
        return views
