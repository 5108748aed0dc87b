"""Settings of the task. Imports no torch."""

import dataclasses

from anysize.registry import setting


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The `[task]` section of a recipe."""

    name: str = setting("classification", "what is learned from an image: classification, multilabel or segmentation")
    loss: str = setting(
        "",
        "bce: binary cross-entropy; asymmetric: one that plays easy negatives down (multilabel); empty: the task's own",
        choices=("", "bce", "asymmetric"),
    )
    gamma_negative: float = setting(4.0, "focusing exponent of negatives in the asymmetric loss", low=0, high=100)
    gamma_positive: float = setting(0.0, "focusing exponent of positives in the asymmetric loss", low=0, high=100)
    clip: float = setting(
        0.05, "probability below which a negative costs nothing in the asymmetric loss", low=0, high=1
    )
    label_smoothing: float = setting(0.0, "share of the target spread evenly over all classes", low=0, high=0.999)
    label_smoothing_by_size: dict[str, float] = setting(
        {},
        "size in pixels = multiple of label_smoothing in steps of that size, interpolated between sizes",
        low=0,
        high=1e6,
    )
    label_smoothing_by_epoch: dict[str, float] = setting(
        {},
        "epoch (pass over the images, from 0) = multiple of label_smoothing, interpolated between epochs",
        low=0,
        high=1e6,
    )
    auxiliary_weight: float = setting(
        0.4, "weight of the loss of each auxiliary classifier, in models that have some in training", low=0, high=1000
    )
