"""The largest batch with which a recipe fits into memory, at all sizes of its mixture.

    found = find_batch("quickstart")
    found.batch_size, found.left

On a GPU by trying the largest step, on a CPU by the memory that it is computed to take: Linux promises a process more
than there is, and kills it when it uses it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from anysize.experiment import build, sizing
from anysize.experiment.planning import data_of, model_on_meta, optimizer_slots, parts_of_steps
from anysize.experiment.second_passes import computes_more, image_bytes
from anysize.experiment.together import resolve
from anysize.machine import free_memory, plainly
from anysize.models.measure.largest_batch import black_pass, fits_into_memory, give_back, largest_that_fits
from anysize.models.measure.memory import estimate_memory
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, override
from anysize.registry import UserError
from anysize.sizes.mix import SizeBatch
from anysize.sizes.second_size import SecondSize
from anysize.sizes.shapes import Shapes, pixels_of, sides_of
from anysize.training.guards import check_precision
from anysize.world import World, autocast, pick_device

SPARED = 0.2
"""The share of a CPU's free memory that is left for workspaces, gradients in flight, loaders and others."""


@dataclasses.dataclass(frozen=True)
class FoundBatch:
    """The largest training.batch_size, with the images of the largest step and their size in pixels.

    `memory` are the bytes that training takes at this step, `free` what there was before, `left` what is left; `tried`
    says whether it was tried or computed, and `all_images` that the data have no more images.
    """

    batch_size: int
    images: int
    size: int
    memory: int
    free: int
    tried: bool
    all_images: bool

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self.free - self.memory


@plainly("looking for the largest batch")
def find_batch(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    images: int = 0,
    on_try: Callable[[int], object] = lambda batch: None,
) -> FoundBatch:
    """Find the largest training.batch_size of a recipe whose steps fit into memory, at all sizes of all its phases.

    Args:
        recipe, overrides: as `train` takes them; of a run folder its recipe. Its batch size and training.micro_batches
            do not count, its training.chunks do.
        images: number of training images, instead of the data set's own: no batch is larger.
        on_try: is called with each batch size before it is tried.

    Raises:
        UserError: a bad recipe, or not even one sample fits; a phase of sizes has a batch of its own.

    >>> found = find_batch("quickstart-fixed", {"training.device": "cpu"}, images=50)
    >>> found.batch_size, found.size, found.all_images
    (50, 28, True)
    """
    resolved = resolve(recipe, overrides)
    if any(phase.batch_size for phase in resolved.sizes.phases):
        raise UserError(
            "a phase of sizes has a batch_size of its own, which the largest training.batch_size says nothing about; "
            "leave it out"
        )
    if computes_more(resolved.training):
        raise UserError(
            "the steps of this recipe compute more of their samples than one pass (training.distill, both_sizes or "
            "consistency), which a search for the largest batch does not try; leave these out"
        )
    device = pick_device(resolved.training.device)
    check_precision(resolved.training.precision, device)
    length, preprocessing, source = data_of(resolved, images)
    shapes = sizing.build_shapes(resolved, source, length)
    parts = functools.partial(_parts, resolved, length, shapes)

    tried = device.type != "cpu"
    if tried:
        fits, taken, free = _by_trying(resolved, preprocessing, parts, device)
    else:
        fits, taken, free = _by_computing(resolved, preprocessing, parts)

    def told(batch: int) -> bool:
        on_try(batch)
        return fits(batch)

    batch = largest_that_fits(told, length)
    if not batch:
        raise UserError(
            f"not even a batch of one sample fits into the {free / 2**30:.1f} GiB that are free: use smaller images, a "
            "smaller network, or model.checkpoint_segments"
        )
    part = _largest(parts(batch))
    return FoundBatch(batch, part.batch_size * part.copies, part.size, taken(batch), free, tried, batch == length)


def _parts(recipe: Recipe, length: int, shapes: Shapes | None, batch: int) -> set[SizeBatch]:
    """What goes through the network at once in the steps of a run with this batch; no step has more than all images."""
    changed = override(recipe, {"training.batch_size": batch, "training.limit_steps": 0, "training.overfit_batches": 0})
    plan = sizing.build_plan(changed, length, World(), shapes=shapes)
    chunks = recipe.training.chunks
    epochs = plan.schedule.epochs_with_all_sizes(recipe.training.epochs, recipe.training.equal_flops)
    parts = parts_of_steps(plan, epochs, chunks)
    return {dataclasses.replace(part, batch_size=min(part.batch_size, -(-length // chunks))) for part in parts}


def _largest(parts: set[SizeBatch]) -> SizeBatch:
    """Of these the one with the most pixels."""
    return max(parts, key=lambda part: part.batch_size * part.copies * pixels_of(part.extent))


_Measure = tuple[Callable[[int], bool], Callable[[int], int], int]
"""Whether a batch fits, the bytes that it takes, and the bytes that are free."""
_Parts = Callable[[int], set[SizeBatch]]
"""What goes through the network at once, by the batch size."""


def _by_computing(recipe: Recipe, preprocessing: Preprocessing, parts: _Parts) -> _Measure:
    free = free_memory()
    if free is None:
        raise UserError("this system does not tell how much memory is free; look for the largest batch on Linux")
    model, channels = model_on_meta(recipe, preprocessing), preprocessing.channels
    of_image = image_bytes(recipe, model, channels, SecondSize(0))

    @functools.cache
    def taken(batch: int) -> int:
        slots = optimizer_slots(recipe)
        return estimate_memory(model, parts(batch), channels, optimizer_slots=slots, image_bytes=of_image)

    return (lambda batch: taken(batch) <= (1 - SPARED) * free), taken, free


def _by_trying(recipe: Recipe, preprocessing: Preprocessing, parts: _Parts, device: torch.device) -> _Measure:
    module = torch.get_device_module(device)
    give_back(device)
    free = int(module.mem_get_info(device)[0])
    model = build.build_model(recipe, preprocessing).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    precision = "float32" if recipe.training.precision == "auto" else recipe.training.precision
    peaks: dict[int, int] = {}

    def fits(batch: int) -> bool:
        module.reset_peak_memory_stats(device)
        order = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
        part = _largest(parts(batch))
        shape = (part.batch_size * part.copies, preprocessing.channels, *sides_of(part.extent))

        def step() -> None:
            slots = [torch.empty_like(each) for each in trained for _ in range(optimizer_slots(recipe))]
            black_pass(model, shape, device, functools.partial(autocast, device, precision), order)
            del slots  # until here: what the optimizer keeps of each weight takes room beside a step

        good = fits_into_memory(model, step)
        peaks[batch] = int(module.max_memory_reserved(device))
        give_back(device)
        return good

    return fits, peaks.__getitem__, free
