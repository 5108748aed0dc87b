"""Folders of images and masks: which mask belongs to which image, and which classes there are."""

import functools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anysize.data.dataset import Split
from anysize.data.decode import BadImage
from anysize.data.formats.folders import hold_out, images_below
from anysize.data.formats.mask_files import MASK_EXTENSIONS, read_mask
from anysize.data.formats.mask_sources import BACKGROUND, mask_source, read_class_names
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource
from anysize.registry import UserError

logger = logging.getLogger(__name__)

_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "test")}
_CLASSES = "classes.txt"


class _Pairs(NamedTuple):
    """Images and masks of a split, sorted by name."""

    images: list[str]
    masks: list[str]


def load_folder_masks(root: Path, settings: DataSettings, split: Split) -> FileSource:
    """The images of a split with their masks.

    Raises:
        UserError: folders are missing, an image has no mask or a mask no image, or the names of the classes are wrong.
    """
    pairs = _pairs(root, split)
    names = root / _CLASSES
    if names.is_file():
        return mask_source(*pairs, read_class_names(names), settings, split, str(names))
    training = pairs if split == "train" else _pairs(root, "train")
    largest = _largest_number(tuple(training.masks), max(os.stat(mask).st_mtime_ns for mask in training.masks))
    classes = (BACKGROUND, *map(str, range(1, max(2, largest + 1))))
    return mask_source(*pairs, classes, settings, split, f"the numbering of {root} (it has no {_CLASSES})")


def first_longer_side(root: Path) -> int:
    """The longer side (pixels) of the first readable training image, from its header.

    Raises:
        UserError: no image at all can be read, or the folders are not as expected.
    """
    pairs = _pairs(root, "train")
    for path in pairs.images:
        try:
            with Image.open(path) as image:
                return max(image.size)
        except OSError:  # damaged: the policy applies when it is loaded
            continue
    raise UserError(f"none of the {len(pairs.images)} training images in {root} can be read")


def _pairs(root: Path, split: Split) -> _Pairs:
    whole = (root / "images").is_dir() and not (root / "train").is_dir()
    folder = root if whole else _split_folder(root, split)
    pairs = _match(folder)
    if not whole:
        return pairs
    chosen = hold_out(list(map(str, range(len(pairs.images)))), split)
    if not chosen:
        raise UserError(f"{folder / 'images'} has one image; expected two at least: a tenth is held out for validation")
    return _Pairs([pairs.images[int(i)] for i in chosen], [pairs.masks[int(i)] for i in chosen])


def _split_folder(root: Path, split: Split) -> Path:
    names = _FOLDERS[split]
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{root} has no folder {' or '.join(names)}; expected train and validation (or val, or test), each with the "
        "folders images and masks, or images and masks alone"
    )


def _match(folder: Path) -> _Pairs:
    """Each image of `folder/images` with the mask of the same name, up to the ending, in `folder/masks`.

    Raises:
        UserError: a folder is missing or empty, a name is without its image or mask, or stands for two files.
    """
    images = _by_stem(folder / "images", (), "image")
    masks = _by_stem(folder / "masks", MASK_EXTENSIONS, "mask")
    for name, path in images.items():
        if name not in masks:
            raise UserError(f"{path} has no mask; expected {folder / 'masks' / name}.png: add it, or remove the image")
    for name, path in masks.items():
        if name not in images:
            raise UserError(
                f"{path} has no image; expected {folder / 'images' / name}.jpg (png, ...): add it, or remove the mask"
            )
    names = sorted(images)
    return _Pairs([images[name] for name in names], [masks[name] for name in names])


def _by_stem(folder: Path, endings: tuple[str, ...], kind: str) -> dict[str, str]:
    """Files below a folder by their path in it without the ending."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with {kind}s, beside it the other of images and masks")
    found: dict[str, str] = {}
    for path in images_below(folder, endings):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise UserError(f"{found[stem]} and {path} have one name; expected one {kind} of each name: remove one")
        found[stem] = path
    if not found:
        raise UserError(f"{folder} holds no {kind}s; expected files ending in {' '.join(endings) or 'jpg, png, ...'}")
    return found


@functools.lru_cache(maxsize=4)  # training and validation ask for the same
def _largest_number(masks: Sequence[str], _changed: int) -> int:
    """The largest class number in the masks, but for 255; damaged ones are left to the policy when they are loaded."""
    logger.info("no %s: reading %s training masks for the largest class number", _CLASSES, f"{len(masks):,}")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return max(pool.map(_largest_in, masks))


def _largest_in(path: str) -> int:
    try:
        mask = read_mask(path)
    except BadImage:
        return 0
    numbers = mask[mask != VOID]
    return int(numbers.max()) if numbers.size else 0
