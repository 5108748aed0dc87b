"""Settings of the image sizes. Imports no torch."""

import dataclasses

from anysize.registry import setting
from anysize.sizes.mix import BUDGETS, LARGEST_BASE, NAMED
from anysize.sizes.shapes import MOST_RATIOS

MOVING = ("window", "points")  # mixtures whose weights move with the epochs
TAKERS = {
    "sizes": ("uniform", "window"),
    "weights": ("custom",),
    "points": ("points",),
    "spread": ("window",),
    "even": ("window",),
}
"""Which mixtures take a setting that is not for all of them."""


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """One `[[sizes.phases]]`: from its epoch on, a mixture, one size, or a ramp of sizes."""

    epoch: int = setting(0, "first epoch of the phase, counted from 0", low=0, high=10**6)
    mix: str = setting("", "a mixture by name, as `sizes.mix`; leave empty for size or start/stop")
    size: int = setting(0, "one fixed image size in pixels", low=0, high=LARGEST_BASE)
    start: int = setting(0, "first image size of a ramp, in pixels", low=0, high=LARGEST_BASE)
    stop: int = setting(0, "last image size of a ramp, reached in its last epoch", low=0, high=LARGEST_BASE)
    epochs: int = setting(
        0,
        "epochs over which a ramp, or the weights of window and points, move; 0: to the next phase, or to "
        "training.epochs (window and points: to the end of the run)",
        low=0,
        high=10**6,
    )
    multiple: int = setting(4, "sizes of a ramp are multiples of this many pixels", low=1, high=LARGEST_BASE)
    budget: str = setting("", "what a ramp or a fixed size fills its budget with", choices=BUDGETS)
    batch_size: int = setting(
        0, "batch size of the phase (at the base size); 0: training.batch_size", low=0, high=10**6
    )
    copies: int = setting(0, "augmented copies a sample in this phase; 0: training.copies", low=0, high=1000)


@dataclasses.dataclass(frozen=True)
class WeightPoint:
    """One of `sizes.points`: the weights of sizes at a point of progress."""

    at: float = setting(0.0, "share of the way from the first epoch to the last", low=0, high=1)
    weights: dict[str, float] = setting({}, "size = share of the images; others have none", low=0, high=1e6)


@dataclasses.dataclass(frozen=True)
class SizeSettings:
    """The `[sizes]` section of a recipe (Mix & Match, arXiv 1908.08986)."""

    mix: str = setting(
        "fixed",
        "fixed: every image at the base size; B+, D+, B+D+: the paper's mixtures, the budget of small sizes spent on "
        "larger batches, more copies a sample, or both; uniform: each of sizes.sizes alike; custom: sizes.weights; "
        "window: a bell of weights that moves from the first of sizes.sizes to the last; points: sizes.points",
        choices=("fixed", "uniform", "custom", *MOVING, *NAMED),
    )
    base: int = setting(0, "base image size in pixels; 0: the data set's own", low=0, high=LARGEST_BASE)
    trained_base: int = setting(
        0,
        "the base size that model.weights were trained around, where this run adapts them to another one: with "
        "data.resize crop-or-pad and pad, images are then shown as the weights know them; 0: sizes.base",
        low=0,
        high=LARGEST_BASE,
    )
    sizes: tuple[int, ...] = setting((), "image sizes for mix = uniform and window", low=1, high=LARGEST_BASE)
    weights: dict[str, float] = setting({}, "size = share of the images, for mix = custom", low=1e-6, high=1e6)
    points: tuple[WeightPoint, ...] = setting(
        (), "weights of sizes at points of progress for mix = points, on straight lines between them: {at, weights}"
    )
    spread: float = setting(
        0.65, "standard deviation of the bell of mix = window, in steps from one size to the next", low=0.01, high=1000
    )
    even: float = setting(0.1, "share of the images that mix = window spreads evenly over its sizes", low=0, high=1)
    budget: str = setting("", "what uniform, custom, window and points fill their budget with", choices=BUDGETS)
    shape: str = setting(
        "",
        "HEIGHTxWIDTH of all images at the base size, such as 192x256, which other sizes scale; sizes.base is then the "
        "side of the square of equal area; empty: square",
    )
    aspect_ratios: tuple[float, ...] = setting(
        (),
        "width over height of a few shapes, such as 0.75,1,1.333: a batch has images of one shape, and each image is "
        "in the group of the nearest; empty: all are square",
        low=1 / MOST_RATIOS,
        high=MOST_RATIOS,
    )
    multiple: int = setting(
        8, "sides of images that are not square are multiples of so many pixels", low=1, high=LARGEST_BASE
    )
    phases: tuple[PhaseSettings, ...] = setting(
        (), "[[sizes.phases]]: other sizes from given epochs (passes over the images) on; mix holds until the first"
    )
