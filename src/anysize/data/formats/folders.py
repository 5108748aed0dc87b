"""Image folders: which files belong to which class and split."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from anysize.data.dataset import Split
from anysize.data.decode import image_extensions
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError

_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "test")}
_HELD_OUT = 0.1  # of each class, where there is no validation folder


def list_images(root: Path, settings: DataSettings, split: Split) -> FileSource:
    """The files of a split with their classes, sorted by class and path.

    Raises:
        UserError: no folder for the split, no classes, an empty class, or other classes in validation than in training.
    """
    folder, whole = _split_folder(root, split)
    classes = _classes(folder)
    if not whole and split == "validation" and classes != (expected := _classes(_split_folder(root, "train")[0])):
        odd = sorted(set(classes) ^ set(expected))
        raise UserError(
            f"{folder} has other classes than the train folder beside it: {', '.join(odd[:5])} in only one of them; "
            "expected the same class folders in both"
        )
    paths: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        files = sorted(images_below(folder / name))
        if whole:
            files = hold_out(files, split)
        if not files:
            raise UserError(
                f"class {name!r} has no {'second ' if whole else ''}image in {folder / name}; expected files ending in "
                f"{' '.join(image_extensions())}: add some, or remove the folder"
            )
        paths += files
        targets += [target] * len(files)
    return FileSource(
        paths, np.array(targets, dtype=np.int64), classes, f"{settings.name} {split}", settings.on_bad_image
    )


def first_image_size(root: Path) -> tuple[int, int]:
    """Width and height of the first readable image of the training split, from its header.

    Raises:
        UserError: no image at all can be read.
    """
    folder, _ = _split_folder(root, "train")
    for name in _classes(folder):
        for path in images_below(folder / name):
            try:
                with Image.open(path) as image:
                    return image.size
            except OSError:  # damaged: the policy applies when it is loaded
                continue
    raise UserError(f"{folder} holds no readable image in its class folders; expected CLASS/IMAGE")


def _split_folder(root: Path, split: Split) -> tuple[Path, bool]:
    """The folder with a split's classes, and whether it holds all images because there is no `train` folder."""
    if not (root / "train").is_dir():
        if any((root / name).is_dir() for name in _FOLDERS["validation"]):
            raise UserError(f"{root} has no folder 'train' beside its validation folder; expected train/CLASS/IMAGE")
        return root, True
    for name in _FOLDERS[split]:
        if (root / name).is_dir():
            return root / name, False
    raise UserError(f"{root} has a folder 'train' but none named {' or '.join(_FOLDERS[split])}; add one")


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder} holds no class folders; expected CLASS/IMAGE in it")
    return tuple(names)


def images_below(folder: Path, endings: tuple[str, ...] = ()) -> Iterator[str]:
    """Image files in a folder and below it; hidden ones are left alone. In no particular order between folders.

    `endings` are those that are taken, in lower case; by default all that are taken for images.
    """
    endings = endings or image_extensions()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield os.path.join(parent, name)


def hold_out(files: list[str], split: Split) -> list[str]:
    """A fixed tenth of the files, such as those of a class, (at least one) for validation, or the others."""
    count = max(1, round(_HELD_OUT * len(files)))
    held_out = set(np.random.default_rng(0).permutation(len(files))[:count].tolist())
    return [file for i, file in enumerate(files) if (i in held_out) == (split == "validation")]
