"""What the order of training images is where it is not all of them shuffled together, in sentences."""

import numpy as np

from anysize.data.source import Source
from anysize.registry import counted
from anysize.sizes.batch_plan import BatchPlan


def order_in_words(plan: BatchPlan, images: Source) -> list[str]:
    """How images are shuffled by chunks, and a warning where a step can see few of the classes; else nothing."""
    if not plan.chunks:
        return []
    held = min(plan.chunks_together * plan.parts, len(plan.chunks))
    samples = round(held * len(images) / len(plan.chunks))
    each = f" for each of the {plan.parts} batches in a step" if plan.parts > 1 else ""
    own = min(plan.chunks_together, len(plan.chunks))
    said = [
        f"images are shuffled by chunks (data.shuffle_chunks): {own:,} of {counted(len(plan.chunks), 'chunk')} at a "
        f"time{each}, in all some {samples:,} of {counted(len(images), 'image')}"
    ]
    targets, classes = images.targets, len(images.classes)
    if isinstance(targets, np.ndarray) and targets.ndim == 1:
        ends = np.cumsum(plan.chunks)
        each_has = int(np.median([len(np.unique(part)) for part in np.split(targets, ends[:-1])]))
        if held < len(plan.chunks) and 2 * held * each_has <= classes:
            said.append(
                f"warning: a chunk holds {each_has:,} of {counted(classes, 'class')}, so that a step sees at most "
                f"{held * each_has:,} of them, and training suffers: pack the images in random order (anysize data "
                "pack ... --shuffle), or raise data.shuffle_chunks"
            )
    return said
