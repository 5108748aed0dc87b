"""Image folders: which files belong to which class and split."""

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from anysize.data.dataset import MissingSplit, Split
from anysize.data.formats.listing import EXPECTED, each_once, folders_in, images_below
from anysize.data.left_out import LeftOut
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError

_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "val", "test")}
_HELD_OUT = 0.1  # of each class, where there is no validation folder
_T = TypeVar("_T")


def list_images(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The files of a split with their classes, sorted by class and path.

    Raises a `UserError` where validation has other classes than training, or a class no image.
    """
    folder, classes = _class_folders(root, split, expected)
    training = classes if split == telling_split(root) else _class_folders(root, "train", expected)[1]
    if classes != training:
        odd = sorted(set(classes) ^ set(training))
        raise UserError(
            f"{folder} has other classes than the train folder beside it: {', '.join(odd[:5])} in only one of them; "
            "expected the same class folders in both"
        )
    whole = folder == root
    left_out = LeftOut()
    folders_in(folder, left_out)
    paths: list[str] = []
    targets: list[int] = []
    for target, (name, found) in enumerate(zip(classes, _files_of(folder, classes, left_out), strict=True)):
        own = hold_out(found, split) if whole else found
        if not own:
            there = f"; left out: {left_out}" if left_out else ""
            raise UserError(
                f"class {name!r} has no {'second ' if found else ''}image in {folder / name}; expected "
                f"{EXPECTED}: add some, or remove the folder{there}"
            )
        paths += own
        targets += [target] * len(own)
    labels, name = np.array(targets, np.int64), f"{settings.name} {split}"
    source = FileSource(paths, labels, classes, name, settings.on_bad_image, exif=settings.exif)
    if not whole or split == "train":  # the two splits of a whole folder leave out the same: it is told once
        source.left_out = left_out
    return source


def _files_of(folder: Path, classes: Sequence[str], left_out: LeftOut) -> list[list[str]]:
    """The image files of each class, sorted; a file with several names is taken once, in one class."""
    found = [sorted(images_below(folder / name, left_out)) for name in classes]
    flat = [path for files in found for path in files]
    kept = each_once(flat, folder, left_out)
    bounds = np.searchsorted(kept, np.cumsum([0, *map(len, found)])).tolist()
    return [[flat[i] for i in kept[start:end]] for start, end in itertools.pairwise(bounds)]


def first_image_size(root: Path, expected: str) -> tuple[int, int]:
    """Width and height of the first readable image, of the training split if it is there, from its header."""
    folder, classes = _class_folders(root, telling_split(root), expected)
    return first_readable((path for name in classes for path in images_below(folder / name, LeftOut())), folder)


def first_readable(paths: Iterable[str], folder: Path) -> tuple[int, int]:
    """Width and height of the first of these images in `folder` that can be read, or a `UserError` if none can."""
    for path in paths:
        with contextlib.suppress(OSError), Image.open(path) as image:  # the policy applies when it is loaded
            return image.size
    raise UserError(f"{folder} holds no image that can be read; expected at least one")


def _class_folders(root: Path, split: Split, expected: str) -> tuple[Path, tuple[str, ...]]:
    """The folder with a split's classes, which is root itself where it holds all images, and the classes."""
    splits = any((root / name).is_dir() for names in _NAMES.values() for name in names)
    folder = find_split(root, split, expected) if splits else root
    names = folders_in(folder, LeftOut())
    if not names:
        raise UserError(f"{folder} holds no class folders; expected CLASS/IMAGE in it")
    return folder, tuple(names)


def telling_split(root: Path, ending: str = "") -> Split:
    """The split that tells the classes and the kind of images: training, or validation where that alone is there."""
    there = {split: any((root / (name + ending)).exists() for name in names) for split, names in _NAMES.items()}
    return "validation" if there["validation"] and not there["train"] else "train"


def find_split(root: Path, split: Split, expected: str, ending: str = "") -> Path:
    """The folder of a split, or its file with this ending: the first of the usual names that is there.

    Where there is none, the `MissingSplit` says that root should hold what is `expected`.
    """
    names = [name + ending for name in _NAMES[split]]
    for name in names:
        if (root / name).exists():
            return root / name
    raise MissingSplit(f"{root} has no {'' if ending else 'folder '}{' or '.join(names)}; expected {expected}")


def hold_out(items: Sequence[_T], split: Split) -> list[_T]:
    """A fixed tenth of the items (at least one), such as the files of a class, for validation, or the others."""
    count = max(1, round(_HELD_OUT * len(items)))
    held_out = set(np.random.default_rng(0).permutation(len(items))[:count].tolist())
    return [item for i, item in enumerate(items) if (i in held_out) == (split == "validation")]
