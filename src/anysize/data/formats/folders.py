"""Image folders: which files belong to which class and split."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from anysize.data.dataset import MissingSplit, Split
from anysize.data.decode import image_extensions
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
    paths: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        files = there = sorted(images_below(folder / name))
        if whole:
            files = hold_out(files, split)
        if not files:
            raise UserError(
                f"class {name!r} has no {'second ' if there else ''}image in {folder / name}; expected files ending in "
                f"{' '.join(image_extensions())}: add some, or remove the folder"
            )
        paths += files
        targets += [target] * len(files)
    return FileSource(paths, np.array(targets, np.int64), classes, f"{settings.name} {split}", settings.on_bad_image)


def first_image_size(root: Path, expected: str) -> tuple[int, int]:
    """Width and height of the first readable image, of the training split if it is there, from its header."""
    folder, classes = _class_folders(root, telling_split(root), expected)
    return first_readable((path for name in classes for path in images_below(folder / name)), folder)


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
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
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


def images_below(folder: Path, endings: tuple[str, ...] = ()) -> Iterator[str]:
    """Image files in a folder and below it, in no particular order between folders; hidden ones are left alone.

    Files with these `endings` (in lower case) are taken, by default all that image files have.
    """
    endings = endings or image_extensions()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield os.path.join(parent, name)


def hold_out(items: Sequence[_T], split: Split) -> list[_T]:
    """A fixed tenth of the items (at least one), such as the files of a class, for validation, or the others."""
    count = max(1, round(_HELD_OUT * len(items)))
    held_out = set(np.random.default_rng(0).permutation(len(items))[:count].tolist())
    return [item for i, item in enumerate(items) if (i in held_out) == (split == "validation")]
