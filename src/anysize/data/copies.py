"""Images that are in a data set more than once: with one content, alike to the eye, or one file under two names."""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from anysize.data.source import FileSource, Source
from anysize.registry import some_of

BITS = 64
"""Of a difference hash."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prints:
    """What tells the images of a split apart: numbers of images in `source`, (N,), and uint64 (N,) of each.

    `digests` are of their files, `alike` are difference hashes, `classes` are digests of the classes they have.
    """

    split: str
    source: Source
    indices: np.ndarray
    digests: np.ndarray
    alike: np.ndarray
    classes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Copies:
    """Images that are one image: the split and the name of each, those that measure before those that teach.

    `differ`: not all of them have the same classes.
    """

    images: tuple[tuple[str, str], ...]
    differ: bool

    @property
    def across(self) -> bool:
        """Whether they lie in several splits, so that what is learnt is measured, too."""
        return len({split for split, _ in self.images}) > 1

    @property
    def surplus(self) -> list[str]:
        """The names of all but the first; of it, too, if it teaches and the others contradict it.

        >>> Copies((("validation", "a.jpg"), ("train", "b.jpg")), differ=True).surplus
        ['b.jpg']
        """
        kept = 0 if self.differ and self.images[0][0] == "train" else 1
        return [name for _, name in self.images[kept:]]


def same_content(splits: Sequence[Prints]) -> list[Copies]:
    """Images whose files have the same bytes, in all splits."""
    every = _Every(splits)
    order = np.lexsort((every.rank, every.digests))
    return every.groups(_runs(every.digests, order))


def look_alike(splits: Sequence[Prints], bits: int) -> list[Copies]:
    """Images of other bytes whose difference hashes differ in at most so many of 64 bits, or are linked by such.

    Hashes that are so near have one of `bits` + 1 parts in common: only those that have are compared. Images of one
    content stand for one, and so do not count here.
    """
    every = _Every(splits)
    order = np.lexsort((every.rank, every.digests))
    one_each = order[np.flatnonzero(np.diff(every.digests[order], prepend=~every.digests[order][:1]))]
    hashes, place = np.unique(every.alike[one_each], return_inverse=True)
    linked = np.arange(len(hashes))
    edges = np.linspace(0, BITS, bits + 2).astype(int).tolist()
    for low, high in itertools.pairwise(edges):
        part = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        by_part = np.argsort(part, kind="stable")
        first = np.arange(len(hashes) - 1)
        for distance in itertools.count(1):
            first = first[first + distance < len(hashes)]
            first = first[part[by_part[first]] == part[by_part[first + distance]]]
            if not len(first):
                break
            one, other = by_part[first], by_part[first + distance]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= bits
            for a, b in zip(one[near].tolist(), other[near].tolist(), strict=True):
                linked[_root(linked, a)] = _root(linked, b)
    group = np.array([_root(linked, i) for i in range(len(hashes))], np.int64)[place]
    return every.groups(one_each[run] for run in _runs(group, np.lexsort((every.rank[one_each], group))))


def shared_images(train: Source, validation: Source) -> str:
    """What to warn of where files of the validation images are training images, too; empty where none are.

    Links are followed. Whether hard links lead to one file is looked at where a validation file has several names.

    >>> first, second = (FileSource([name], np.zeros(1), ("cat",), name="") for name in ("a.png", "b.png"))
    >>> shared_images(first, second)
    ''
    """
    if not all(isinstance(source, FileSource) and source.own_files for source in (train, validation)):
        return ""
    trained, others = ([source.describe(i) for i in range(len(source))] for source in (train, validation))
    real = functools.cache(os.path.realpath)
    places = {os.path.join(real(os.path.dirname(path)), os.path.basename(path)) for path in trained}
    shared = [path for path in others if os.path.realpath(path) in places]
    numbers = {path: _number(path) for path in others}
    if any(numbers.values()):
        there = {number for path in trained if (number := _number(path))}
        shared += [path for path, number in numbers.items() if number in there and path not in shared]
    if not shared:
        return ""
    count = "1 is a training image" if len(shared) == 1 else f"{len(shared):,} are training images"
    return f"validation images: {count}, too ({some_of(shared, 2)}), so that the figures say little of new images"


class _Every:
    """The images of all splits in one row."""

    def __init__(self, splits: Sequence[Prints]) -> None:
        self.splits = splits
        self.split = np.repeat(np.arange(len(splits)), [len(each.indices) for each in splits])
        self.digests = np.concatenate([each.digests for each in splits])
        self.alike = np.concatenate([each.alike for each in splits])
        self._classes = np.concatenate([each.classes for each in splits])
        self._indices = np.concatenate([each.indices for each in splits])
        names = [each.split for each in splits]
        self.rank = np.array([("test", "validation", "train").index(name) for name in names], np.int64)[self.split]

    def groups(self, found: Iterator[np.ndarray]) -> list[Copies]:
        """Groups of images as they are told of, in order."""
        sorted_groups = sorted((group.tolist() for group in found), key=lambda group: (self.rank[group[0]], group[0]))
        return [self._copies(group) for group in sorted_groups]

    def _copies(self, group: list[int]) -> Copies:
        images = ((self.splits[self.split[i]], int(self._indices[i])) for i in group)
        names = tuple((each.split, each.source.describe(index)) for each, index in images)
        return Copies(names, len(np.unique(self._classes[group])) > 1)


def _runs(values: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of `order` in which all have one value, and there are at least two."""
    starts = np.flatnonzero(np.diff(values[order])) + 1
    for start, end in itertools.pairwise([0, *starts.tolist(), len(order)]):
        if end - start > 1:
            yield order[start:end]


def _root(linked: np.ndarray, i: int) -> int:
    while linked[i] != i:
        linked[i] = linked[linked[i]]
        i = int(linked[i])
    return i


def _number(path: str) -> tuple[int, int] | None:
    """What tells a file that has several hard links; None for others."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if status.st_nlink > 1:
            return status.st_dev, status.st_ino
    return None
