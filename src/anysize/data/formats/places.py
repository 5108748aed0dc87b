"""Where the images of a split lie by class: in folders, in a tar archive, or unsorted with a kit that says the classes.

What is inside of an archive has a path as if that was a folder: `images.tar/train`.
"""

import abc
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.dataset import MissingSplit, Split
from anysize.data.decode import Header
from anysize.data.exclude import excluded_by
from anysize.data.formats.file_lists import file_source
from anysize.data.formats.listing import each_once, folders_in, images_below
from anysize.data.formats.splits import find_names
from anysize.data.formats.tar.devkit import KIT, has_devkit, number_in, validation_classes
from anysize.data.formats.tar.index import ENDING, read_tar_index
from anysize.data.formats.tar.source import TarSource
from anysize.data.left_out import LeftOut
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError

_PACKED = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_PUBLISHED: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}


def archives_in(root: Path) -> dict[Split, str]:
    """The tar archives in a folder that hold splits: train.tar, val.tar and the like, or ILSVRC's."""
    names = [name for name in os.listdir(root) if name.lower().endswith(ENDING) and (root / name).is_file()]
    published = {split: name for split, name in _PUBLISHED.items() if name in names}
    return {**published, **find_names(root, names, ENDING)}


def refuse_packed(root: Path) -> None:
    """Raise a `UserError`, which says how to unpack it, where a folder holds a packed archive of a split."""
    for name in sorted(os.listdir(root)):
        ending = next((each for each in _PACKED if name.lower().endswith(each)), "")
        if ending and (root / name).is_file() and find_names(root, [name], ending):
            read_tar_index(root / name)


def folders_of(root: Path) -> list[str]:
    """The names of the folders in a folder or an archive, sorted, but for those that are left out."""
    if root.is_dir():
        names = folders_in(root, LeftOut())
        return [name for name in names if name != KIT] if has_devkit(root) else names
    archive, folder = _archive_of(root)
    return read_tar_index(archive).folders(folder)[0]


def place_of(path: Path, root: Path) -> "Place":
    """The place of the images of a split; `root` is that of the data, where the kit would be."""
    place = FolderPlace(path) if path.is_dir() else TarPlace(path)
    return KitPlace(place, root) if not place.folders() and has_devkit(root) else place


class Place(abc.ABC):
    """The images of a split by class. What stands for an image here, `source` takes."""

    path: Path

    @abc.abstractmethod
    def folders(self) -> list[str]:
        """The names of the class folders, sorted; maybe none."""

    @abc.abstractmethod
    def beside(self, left_out: LeftOut) -> None:
        """Note what lies beside the classes."""

    @abc.abstractmethod
    def files(self, below: dict[str, list[str]], left_out: LeftOut) -> Sequence[Sequence[Any]]:
        """The images of each class, sorted by name; `below` has the classes, and takes the folders that lie in each."""

    @abc.abstractmethod
    def unsorted(self) -> list[tuple[str, Any]]:
        """The images beside the classes, with their names."""

    @abc.abstractmethod
    def source(
        self,
        groups: Sequence[Sequence[Any]],
        targets: np.ndarray,
        classes: tuple[str, ...],
        settings: DataSettings,
        split: Split,
    ) -> FileSource:
        """The images of the classes as a source."""

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted; a `MissingSplit` where there is none."""
        if names := self.folders():
            return tuple(names)
        what = "class folders; expected CLASS/IMAGE in it"
        if any(number_in(name) for name, _ in self.unsorted()[:1]):
            what += f", or {KIT}.tar.gz beside it, which says the classes of ILSVRC's validation images"
        raise MissingSplit(f"{self.path} holds no {what}")


class FolderPlace(Place):
    """A folder that holds a folder a class. An image is its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folders(self) -> list[str]:
        return folders_of(self.path)

    def beside(self, left_out: LeftOut) -> None:
        folders_in(self.path, left_out)

    def files(self, below: dict[str, list[str]], left_out: LeftOut) -> list[list[str]]:
        """As `Place.files`; a file with several names is taken once, in one class."""
        found = [sorted(images_below(self.path / name, left_out, inner=inner)) for name, inner in below.items()]
        flat = [path for files in found for path in files]
        kept = each_once(flat, self.path, left_out)
        bounds = np.searchsorted(kept, np.cumsum([0, *map(len, found)])).tolist()
        return [[flat[i] for i in kept[start:end]] for start, end in itertools.pairwise(bounds)]

    def unsorted(self) -> list[tuple[str, str]]:
        return [(os.path.basename(path), path) for path in images_below(self.path, LeftOut())]

    def source(
        self,
        groups: Sequence[Sequence[str]],
        targets: np.ndarray,
        classes: tuple[str, ...],
        settings: DataSettings,
        split: Split,
    ) -> FileSource:
        return file_source([*itertools.chain.from_iterable(groups)], targets, classes, settings, split)


class TarPlace(Place):
    """An archive, or a folder in one, that holds a folder a class. An image is its row in the archive's index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive, self.folder = _archive_of(path)
        self.index = read_tar_index(self.archive)

    def folders(self) -> list[str]:
        return self.index.folders(self.folder)[0]

    def beside(self, left_out: LeftOut) -> None:
        for reason, count in self.index.left_out.counts.items():
            left_out.counts[reason] = left_out.counts.get(reason, 0) + count
            left_out.names.setdefault(reason, []).extend(self.index.left_out.names[reason])
        for name, _ in self.unsorted():
            left_out.add("beside the folders", f"{self.archive}: {name}")

    def files(self, below: dict[str, list[str]], left_out: LeftOut) -> list[range]:
        found = []
        for name, inner in below.items():
            folder = os.fsencode(name) if not self.folder else self.folder + b"/" + os.fsencode(name)
            first, last = self.index.below(folder)
            if self.index.deeper(folder):
                inner += self.index.folders(folder)[0]
            found.append(range(first, last))
        return found

    def unsorted(self) -> list[tuple[str, int]]:
        rows = self.index.folders(self.folder)[1]
        return [(os.path.basename(os.fsdecode(self.index.names[row])), row) for row in rows]

    def source(
        self,
        groups: Sequence[Sequence[int]],
        targets: np.ndarray,
        classes: tuple[str, ...],
        settings: DataSettings,
        split: Split,
    ) -> TarSource:
        name, rows = f"{settings.name} {split}", np.concatenate([np.array(rows, np.int64) for rows in groups])
        return TarSource(self.index, rows, targets, classes, str(self.archive), name, settings)


class KitPlace(Place):
    """ILSVRC's validation images side by side, in a folder or an archive, whose numbers tell the classes."""

    def __init__(self, place: FolderPlace | TarPlace, root: Path) -> None:
        self.place, self.path = place, place.path
        wnids = validation_classes(root)
        self.by_class: dict[str, list[Any]] = {}
        self.others: list[str] = []
        for name, image in sorted(place.unsorted()):
            if 0 < (number := number_in(name)) <= len(wnids):
                self.by_class.setdefault(wnids[number - 1], []).append(image)
            else:
                self.others.append(f"{place.path}: {name}")

    def folders(self) -> list[str]:
        return sorted(self.by_class)

    def beside(self, left_out: LeftOut) -> None:
        for name in self.others:
            left_out.add("without the number of a validation image", name)

    def files(self, below: dict[str, list[str]], left_out: LeftOut) -> list[list[Any]]:
        return [self.by_class[name] for name in below]

    def unsorted(self) -> list[tuple[str, Any]]:
        return []

    def source(
        self,
        groups: Sequence[Sequence[Any]],
        targets: np.ndarray,
        classes: tuple[str, ...],
        settings: DataSettings,
        split: Split,
    ) -> FileSource:
        return self.place.source(groups, targets, classes, settings, split)


def first_header(place: Place, settings: DataSettings) -> Header:
    """The header of the first image, but for those that `data.exclude` lists, that can be read."""
    excluded = excluded_by(settings)

    def images() -> Iterator[tuple[str, Callable[[], Header]]]:
        for name in place.classes():  # one after the other: the first mostly has it
            groups = place.files({name: []}, LeftOut())
            source = place.source(groups, np.zeros(sum(map(len, groups)), np.int64), (name,), settings, "train")
            yield from ((source.describe(i), functools.partial(source.header, i)) for i in range(len(source)))

    return first_readable((each for each in images() if each[0] not in excluded), place.path)


def first_readable(images: Iterable[tuple[str, Callable[[], Header]]], folder: Path) -> Header:
    """The header of the first image that can be read, or a `UserError` if none can.

    Args:
        images: the name of each, and what looks at its header.
        folder: where they lie, for the message.
    """
    why = ""
    for name, look in images:
        try:
            return look()  # the policy applies when it is loaded
        except BadImage as error:
            why = why or f": of {name}, {error}"
    raise UserError(f"{folder} holds no image that can be read{why}; expected at least one")


def _archive_of(path: Path) -> tuple[Path, bytes]:
    """The archive that a path leads to or into, and the folder in it."""
    for parent in (path, *path.parents):
        if parent.is_file():
            return parent, os.fsencode(path.relative_to(parent).as_posix()) if parent != path else b""
    raise UserError(f"{path} is neither a folder nor in a tar archive")
