"""Folders of images and masks: which mask belongs to which image, and which classes there are."""

import contextlib
import functools
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anysize.data.dataset import MissingSplit, Split
from anysize.data.decode import read_header
from anysize.data.exclude import excluded_by
from anysize.data.formats.file_lists import BACKGROUND, in_old_order, mask_source, read_class_names
from anysize.data.formats.listing import EXPECTED, each_once, folders_in, images_below
from anysize.data.formats.mask_files import MASK_EXTENSIONS, read_mask
from anysize.data.formats.places import first_readable
from anysize.data.formats.splits import Splits, find_names
from anysize.data.left_out import LeftOut, warn
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource
from anysize.machine import usable_cores
from anysize.registry import UserError, counted, some_of

logger = logging.getLogger(__name__)

_CLASSES = "classes.txt"
_MANY = 48  # classes whose names nobody has written down


def load_folder_masks(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The images of a split with their masks."""
    splits = mask_splits(root, settings, expected)
    left_out, missing = LeftOut(), dict[str, str]()
    pairs = _pairs(splits, split, left_out, missing)
    names = root / _CLASSES
    if os.path.lexists(names):
        classes, origin = read_class_names(names), str(names)
        in_old_order(classes, settings, origin)  # says what is wrong with data.renamed_classes; the file has the order
    elif settings.mask_values:
        classes = (BACKGROUND, *map(str, range(1, max(2, len(settings.mask_values)))))
        origin = f"{root}, which has no {_CLASSES},"
    else:
        telling = pairs if split == splits.telling else _pairs(splits, splits.telling, LeftOut(), {})
        excluded = excluded_by(settings)
        masks = [mask for image, mask in telling if image not in excluded and mask not in excluded]
        numbers = _numbers(
            tuple(masks), max((os.stat(mask).st_mtime_ns for mask in masks), default=0), settings.max_pixels
        )
        classes = (BACKGROUND, *map(str, range(1, max(2, max(numbers, default=0) + 1))))
        origin = f"the numbering of {root} (it has no {_CLASSES})"
    source = mask_source(pairs, classes, settings, split, origin)
    if not splits.find(split)[1] or split == "train":  # two parts of one folder leave out the same: it is told once
        source.left_out, source.bad_files = left_out, missing
    return source


def first_longer_side(root: Path, settings: DataSettings, expected: str) -> int:
    """The longer side (pixels) of the first readable image, of the training split if it is there, from its header."""
    splits = mask_splits(root, settings, expected)
    excluded = excluded_by(settings)
    images = (image for image, _ in _pairs(splits, splits.telling, LeftOut(), {}) if image not in excluded)
    looks = ((image, functools.partial(read_header, image, max_pixels=settings.max_pixels)) for image in images)
    return max(first_readable(looks, root).shape)


def mask_splits(root: Path, settings: DataSettings, expected: str) -> Splits:
    """Which folder holds which split: SPLIT/images, or images/SPLIT, or root itself with its images and masks."""
    named = find_names(root, _folders(root))
    if "train" in named or not (root / "images").is_dir():
        if not named:
            raise MissingSplit(f"{root} has no folder train (or training), nor images; expected {expected}")
        return Splits(root, named, settings, expected)
    below = find_names(root / "images", _folders(root / "images"))
    if below and below != find_names(root / "masks", _folders(root / "masks")):
        raise UserError(
            f"{root / 'images'} holds folders that are named as splits ({', '.join(below.values())}), and "
            f"{root / 'masks'} not the same; expected them in both, or {expected}"
        )
    return Splits(root / "images" if below else root, below, settings, expected)


def _folders(root: Path) -> list[str]:
    return folders_in(root, LeftOut()) if root.is_dir() else []


def _pairs(splits: Splits, split: Split, left_out: LeftOut, missing: dict[str, str]) -> list[tuple[str, str]]:
    """Images and masks of a split, sorted by name; `missing` takes those that lack the other one, with the reason."""
    folder, part = splits.find(split)
    by_kind = not splits.whole and splits.root.name == "images" and not (folder / "images").is_dir()
    images, masks = (folder, splits.root.parent / "masks" / folder.name) if by_kind else (
        folder / "images", folder / "masks"
    )  # fmt: skip
    pairs = _match(images, masks, left_out, missing, splits.settings)
    chosen = splits.hold_out(pairs, split) if part else pairs
    if not chosen:
        raise UserError(f"{images} has one image; expected two at least: a tenth is held out for validation")
    return chosen


def _match(
    image_folder: Path, mask_folder: Path, left_out: LeftOut, missing: dict[str, str], settings: DataSettings
) -> list[tuple[str, str]]:
    """Each image of a folder with the mask of the same name, up to the ending, in the other."""
    images = _by_stem(image_folder, (), "image", left_out)
    masks = _by_stem(mask_folder, MASK_EXTENSIONS, "mask", left_out)
    for name, path in images.items():
        if name not in masks:
            missing[path] = f"it has no mask; expected {mask_folder / name}.png"
    for name, path in masks.items():
        if name not in images:
            missing[path] = f"it has no image; expected {image_folder / name}.jpg (png, ...)"
    both = sorted(images.keys() & masks.keys())
    excluded = excluded_by(settings)
    if unlisted := [path for path in missing if path not in excluded]:
        first = f"{unlisted[0]} {missing[unlisted[0]].removeprefix('it ')}"
        other = "image" if unlisted[0] in images.values() else "mask"
        if settings.on_bad_image == "error" or not both:
            skip = ", or leave such files out with --data.on_bad_image skip" if both else ""
            raise UserError(f"{first}: add it, or remove the {other}{skip}")
        if settings.on_bad_image == "skip":
            warn(f"left out {counted(len(unlisted), 'file')}: {first}")
    pairs = [(images[name], masks[name]) for name in both]
    once = each_once([image for image, _ in pairs], image_folder, left_out)  # images may share a mask
    return [pairs[i] for i in once]


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
def _numbers(masks: Sequence[str], _changed: int, max_pixels: int) -> list[int]:
    """The class numbers in the masks, but for 255; damaged ones are left to the policy when they are loaded."""
    logger.info("no %s: reading %s training masks for the largest class number", _CLASSES, f"{len(masks):,}")
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = sorted(set().union(*pool.map(functools.partial(_numbers_in, max_pixels=max_pixels), masks)) - {VOID})
    numbers = some_of(list(map(str, found)))
    lacking = len({*range(1, max(found, default=0))} - {*found})  # the background may be missing
    if lacking and len(found) <= _MANY:
        warn(
            f"the training masks hold the class numbers {numbers}, and {lacking} below the largest "
            f"{'do' if lacking > 1 else 'does'} not occur: if these are values that stand for so many classes, set "
            f"--data.mask_values {','.join(map(str, found))}, or name the classes in {_CLASSES}"
        )
    elif len(found) > _MANY:
        warn(
            f"the training masks hold {len(found)} class numbers, {numbers}, as masks of 0 and 255 do that were "
            f"smoothed when they were resized: make them anew with the nearest pixel, or name the classes in {_CLASSES}"
        )
    return found


def _numbers_in(path: str, max_pixels: int) -> set[int]:
    with contextlib.suppress(BadImage):
        return {*np.unique(read_mask(path, max_pixels)).tolist()}
    return set()
