"""Image files without targets, as a run's network takes them: to predict for, or to calibrate with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from anysize.data.formats.listing import EXPECTED, each_once, images_below
from anysize.data.left_out import LeftOut, warn_of
from anysize.data.source import FileSource
from anysize.experiment.targets import kind_of
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe
from anysize.registry import UserError


class _GreyFiles(FileSource):
    """Image files for a network of one channel."""

    channels = 1

    def image(self, index: int) -> Tensor:
        grey: Tensor = rgb_to_grayscale(super().image(index))
        return grey


def image_files(recipe: Recipe, preprocessing: Preprocessing, paths: list[str]) -> FileSource:
    """Image files as the recipe's network takes them, with unknown targets; none of them is looked at."""
    source = _GreyFiles if preprocessing.channels == 1 else FileSource
    targets = kind_of(recipe).unknown(len(paths))
    policy, exif, limit = recipe.data.on_bad_image, recipe.data.exif, recipe.data.max_pixels
    return source(paths, targets, preprocessing.classes, "images", policy, exif=exif, max_pixels=limit)


def given_files(
    recipe: Recipe, preprocessing: Preprocessing, paths: list[str], overrides: Mapping[str, Any] | None
) -> FileSource:
    """`image_files` that are named one by one: damaged ones are left out, unless `overrides` have data.on_bad_image."""
    source = image_files(recipe, preprocessing, paths)
    if "data.on_bad_image" not in (overrides or {}):
        source.on_bad_image = "skip"  # one file of many is no reason to leave out the others
    return source


def images_in(folder: Path) -> list[str]:
    """The image files in a folder and below it, sorted.

    Raises:
        UserError: it is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of images")
    left_out = LeftOut()
    found = sorted(images_below(folder, left_out))
    paths = [found[i] for i in each_once(found, folder, left_out)]
    if not paths:
        there = f"; left out: {left_out}" if left_out else ""
        raise UserError(f"{folder} holds no image; expected {EXPECTED}{there}")
    warn_of(left_out, str(folder))
    return paths
