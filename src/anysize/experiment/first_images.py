"""First weights that follow from training images: for models that have a method `start_from_images`.

A model knows nothing of data, and the data nothing of models. One that wants to see images before its first step (a
whitening first layer, norms that start with statistics) has a method

    def start_from_images(self, images: Tensor) -> None    # (N, C, H, W), normalised, at the base size

which a new training calls once. Its weights then are in every checkpoint: a run that goes on, or one that starts from
weights, does not call it again.
"""

import torch

from anysize.data.loader import PlanLoader
from anysize.experiment.prepare import Prepared
from anysize.experiment.targets import kind_of
from anysize.registry import UserError, counted
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule

IMAGES = 5000
_BATCH = 500


def start_from_images(prepared: Prepared, images: int = IMAGES) -> None:
    """Show the model of a run that begins its first training images, if it asks for them; its notes tell of it.

    They are the first of a shuffle that follows from the seed, as in evaluation: at the base size, without
    augmentation. Process 0 looks at them, and all have the weights that come of it.

    Raises:
        UserError: none of them can be read.
    """
    model, world = prepared.model, prepared.world
    start = getattr(model, "start_from_images", None)
    if start is None or prepared.recipe.model.weights:
        return
    found: tuple[dict[str, torch.Tensor], int] | None = None
    with world.together():
        if world.main:
            seen = first_images(prepared, images)
            start(seen)
            found = {name: value.cpu() for name, value in model.state_dict().items()}, len(seen)
    state, count = world.share(found)
    if not world.main:
        model.load_state_dict(state)
    prepared.notes.append(f"first weights follow from {counted(count, 'training image')} (start_from_images)")


def first_images(prepared: Prepared, images: int) -> torch.Tensor:
    """The first training images (N, C, H, W) of a shuffle by the seed, on the run's device."""
    data, recipe = prepared.data, prepared.recipe
    length, base = len(data.train), data.preprocessing.image_size
    schedule = SizeSchedule.constant(SizeMix.fixed(base))
    plan = BatchPlan(length, schedule, min(_BATCH, length), seed=recipe.training.seed, drop_last=False)
    batches = plan.batches(epoch=0)[: -(-images // _BATCH)]
    transform = kind_of(recipe).eval_transform(data.preprocessing, 1, 1)
    loader = PlanLoader(data.train, transform, device=prepared.device, workers=recipe.data.workers)
    loaded = [batch.images for batch in loader.load(batches)]
    if not loaded:
        raise UserError(f"none of the first {images:,} training images can be read; see the warnings")
    return torch.cat(loaded)[:images]
