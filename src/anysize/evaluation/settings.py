"""Settings of evaluation. Imports no torch."""

import dataclasses

from anysize.registry import setting
from anysize.sizes.mix import LARGEST_BASE


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """The `[evaluation]` section of a recipe: validation during training, and `anysize evaluate` afterwards."""

    batch_size: int = setting(
        0, "images a step at the base size; 0: four times training.batch_size, for segmentation once", low=0, high=10**6
    )
    averaged: bool = setting(True, "use the averaged weights where the run keeps some (training.average_steps)")
    calibrate: bool = setting(
        True,
        "validation during training calibrates a copy of the model where the run mixes sizes, unless "
        "model.norm_by_size keeps norms for them; false: never",
    )
    calibration_images: int = setting(
        4096, "training images that calibrate the norms for a size; 0: all", low=0, high=10**9
    )
    calibration_strength: str = setting(
        "chosen",
        "how much of a calibration is taken: chosen: by size and by part of the network, what is better on held-out "
        "training images than the network as it is, or nothing; full: all of it, as the paper does",
        choices=("chosen", "full"),
    )
    judging_images: int = setting(
        2048,
        "training images, held out from those that calibrate, that choose how much of a calibration is taken; at most "
        "a quarter of all",
        low=2,
        high=10**7,
    )
    copies: int = setting(
        1, "augmented copies of each image whose outputs are averaged; 1: the image as it is", low=1, high=1000
    )
    crops: str = setting("1", "crops of each image whose outputs are averaged: 1, 5 or 10", choices=("1", "5", "10"))
    scales: tuple[float, ...] = setting(
        (1.0,), "scales of each image whose outputs are averaged (segmentation)", low=0.01, high=100
    )
    flip: bool = setting(False, "average with the outputs for the mirrored image")
    translate: int = setting(
        0,
        "average, half and half, with the mean outputs for the image moved by so many pixels up and to the left, and "
        "down and to the right (classification, multilabel); 0: none",
        low=0,
        high=LARGEST_BASE,
    )
    window: int = setting(
        0,
        "side in pixels, at the base size, of the windows that large images are cut into; 0: whole (segmentation)",
        low=0,
        high=LARGEST_BASE,
    )
    shape: str = setting(
        "auto",
        "the shape of images: square; own: the whole image at its own aspect ratio, with as many pixels as the square "
        "has; auto: own where sizes.aspect_ratios groups training images (masks with data.resize pad keep their shape "
        "as it is), that of sizes.shape where it is set, else square",
        choices=("auto", "square", "own"),
    )
    overlap: float = setting(1 / 3, "share of a window that the next one covers again", low=0, high=0.9)
    pictures: int = setting(
        16, "predictions shown in the report: of 256 fixed images the worst; 0: none", low=0, high=256
    )
