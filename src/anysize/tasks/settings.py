"""Settings of the task. Imports no torch."""

import dataclasses

from anysize.registry import setting


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The `[task]` section of a recipe."""

    name: str = setting("classification", "what is learned from an image")
    label_smoothing: float = setting(0.0, "share of the target spread evenly over all classes", low=0, high=0.999)
    auxiliary_weight: float = setting(
        0.4, "weight of the loss of each auxiliary classifier, in models that have some in training", low=0
    )
