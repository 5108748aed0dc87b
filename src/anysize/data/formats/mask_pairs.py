"""Folders of images and masks: which mask belongs to which image, and which classes there are."""

import contextlib
import functools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anysize.data.dataset import Split
from anysize.data.decode import BadImage
from anysize.data.formats.file_lists import BACKGROUND, mask_source, read_class_names
from anysize.data.formats.folders import find_split, first_readable, hold_out, images_below, telling_split
from anysize.data.formats.mask_files import MASK_EXTENSIONS, read_mask
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource
from anysize.registry import UserError, some_of

logger = logging.getLogger(__name__)

_CLASSES = "classes.txt"


def load_folder_masks(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The images of a split with their masks."""
    pairs = _pairs(root, split, expected)
    names = root / _CLASSES
    if names.is_file():
        return mask_source(pairs, read_class_names(names), settings, split, str(names))
    if settings.mask_values:
        classes = (BACKGROUND, *map(str, range(1, max(2, len(settings.mask_values)))))
        return mask_source(pairs, classes, settings, split, f"{root}, which has no {_CLASSES},")
    masks = [mask for _, mask in (pairs if split == _telling(root) else _pairs(root, _telling(root), expected))]
    numbers = _numbers(tuple(masks), max(os.stat(mask).st_mtime_ns for mask in masks))
    classes = (BACKGROUND, *map(str, range(1, max(2, max(numbers, default=0) + 1))))
    return mask_source(pairs, classes, settings, split, f"the numbering of {root} (it has no {_CLASSES})")


def first_longer_side(root: Path, expected: str) -> int:
    """The longer side (pixels) of the first readable image, of the training split if it is there, from its header."""
    return max(first_readable((image for image, _ in _pairs(root, _telling(root), expected)), root))


def _telling(root: Path) -> Split:
    return "train" if _whole(root) else telling_split(root)


def _whole(root: Path) -> bool:
    """Whether root holds images and masks itself."""
    return (root / "images").is_dir() and not (root / "train").is_dir()


def _pairs(root: Path, split: Split, expected: str) -> list[tuple[str, str]]:
    """Images and masks of a split, sorted by name."""
    if not _whole(root):
        return _match(find_split(root, split, expected))
    chosen = hold_out(_match(root), split)
    if not chosen:
        raise UserError(f"{root / 'images'} has one image; expected two at least: a tenth is held out for validation")
    return chosen


def _match(folder: Path) -> list[tuple[str, str]]:
    """Each image of `folder/images` with the mask of the same name, up to the ending, in `folder/masks`."""
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
    return [(images[name], masks[name]) for name in sorted(images)]


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
def _numbers(masks: Sequence[str], _changed: int) -> list[int]:
    """The class numbers in the masks, but for 255; damaged ones are left to the policy when they are loaded."""
    logger.info("no %s: reading %s training masks for the largest class number", _CLASSES, f"{len(masks):,}")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = sorted(set().union(*pool.map(_numbers_in, masks)) - {VOID})
    lacking = max(found, default=0) + 1 - len(found)
    if lacking > 1:  # the background may be missing
        logger.warning(
            "the training masks hold the class numbers %s, and %d below the largest do not occur: if these are values "
            "that stand for so many classes, set --data.mask_values %s, or name the classes in %s",
            some_of(list(map(str, found))), lacking, ",".join(map(str, found)), _CLASSES,
        )  # fmt: skip
    return found


def _numbers_in(path: str) -> set[int]:
    with contextlib.suppress(BadImage):
        return {*np.unique(read_mask(path)).tolist()}
    return set()
