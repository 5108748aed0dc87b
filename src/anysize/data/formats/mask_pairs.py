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
from anysize.data.formats.folders import find_split, first_readable, hold_out, telling_split
from anysize.data.formats.listing import EXPECTED, each_once, images_below
from anysize.data.formats.mask_files import MASK_EXTENSIONS, read_mask
from anysize.data.left_out import LeftOut
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource
from anysize.registry import UserError, some_of

logger = logging.getLogger(__name__)

_CLASSES = "classes.txt"


def load_folder_masks(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The images of a split with their masks."""
    left_out = LeftOut()
    pairs = _pairs(root, split, expected, left_out)
    names = root / _CLASSES
    if names.is_file():
        classes, origin = read_class_names(names), str(names)
    elif settings.mask_values:
        classes = (BACKGROUND, *map(str, range(1, max(2, len(settings.mask_values)))))
        origin = f"{root}, which has no {_CLASSES},"
    else:
        masks = [mask for _, mask in (pairs if split == _telling(root) else _pairs(root, _telling(root), expected))]
        numbers = _numbers(tuple(masks), max(os.stat(mask).st_mtime_ns for mask in masks))
        classes = (BACKGROUND, *map(str, range(1, max(2, max(numbers, default=0) + 1))))
        origin = f"the numbering of {root} (it has no {_CLASSES})"
    source = mask_source(pairs, classes, settings, split, origin)
    if not _whole(root) or split == "train":  # the two splits of a whole folder leave out the same: it is told once
        source.left_out = left_out
    return source


def first_longer_side(root: Path, expected: str) -> int:
    """The longer side (pixels) of the first readable image, of the training split if it is there, from its header."""
    return max(first_readable((image for image, _ in _pairs(root, _telling(root), expected)), root))


def _telling(root: Path) -> Split:
    return "train" if _whole(root) else telling_split(root)


def _whole(root: Path) -> bool:
    """Whether root holds images and masks itself."""
    return (root / "images").is_dir() and not (root / "train").is_dir()


def _pairs(root: Path, split: Split, expected: str, left_out: LeftOut | None = None) -> list[tuple[str, str]]:
    """Images and masks of a split, sorted by name."""
    left_out = LeftOut() if left_out is None else left_out
    if not _whole(root):
        return _match(find_split(root, split, expected), left_out)
    chosen = hold_out(_match(root, left_out), split)
    if not chosen:
        raise UserError(f"{root / 'images'} has one image; expected two at least: a tenth is held out for validation")
    return chosen


def _match(folder: Path, left_out: LeftOut) -> list[tuple[str, str]]:
    """Each image of `folder/images` with the mask of the same name, up to the ending, in `folder/masks`."""
    images = _by_stem(folder / "images", (), "image", left_out)
    masks = _by_stem(folder / "masks", MASK_EXTENSIONS, "mask", left_out)
    for name, path in images.items():
        if name not in masks:
            raise UserError(f"{path} has no mask; expected {folder / 'masks' / name}.png: add it, or remove the image")
    for name, path in masks.items():
        if name not in images:
            raise UserError(
                f"{path} has no image; expected {folder / 'images' / name}.jpg (png, ...): add it, or remove the mask"
            )
    pairs = [(images[name], masks[name]) for name in sorted(images)]
    return [pairs[i] for i in each_once([image for image, _ in pairs], folder, left_out)]  # images may share a mask


def _by_stem(folder: Path, endings: tuple[str, ...], kind: str, left_out: LeftOut) -> dict[str, str]:
    """Files below a folder by their path in it without the ending."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one with {kind}s, beside it the other of images and masks")
    found: dict[str, str] = {}
    for path in images_below(folder, left_out, endings):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise UserError(f"{found[stem]} and {path} have one name; expected one {kind} of each name: remove one")
        found[stem] = path
    if not found:
        there = f"; left out: {left_out}" if left_out else ""
        wanted = f"files ending in {' '.join(endings)}" if endings else EXPECTED
        raise UserError(f"{folder} holds no {kind}s; expected {wanted}{there}")
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
