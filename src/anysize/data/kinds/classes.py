"""One class an image: targets are class indices (N,) int64."""

import numpy as np

from anysize.data.doubts import Doubts, of_classes
from anysize.data.kinds.base import TARGET_KINDS, TargetKind
from anysize.data.source import Source


@TARGET_KINDS.register("class")
class OneClass(TargetKind):
    """Each image has one class."""

    in_words = "one class an image"
    one_class = True

    def first(self, source: Source, limit: int) -> Source:
        """The first `limit` images, spread evenly over the classes; 0: all."""
        targets = source.targets
        assert isinstance(targets, np.ndarray)
        return source.subset(first_of_each_class(targets, limit)) if limit else source

    def classes_in(self, target: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(np.arange(count) == target)

    def amounts(self, target: np.ndarray, count: int) -> np.ndarray:
        return target.astype(np.float64) if target.ndim else super().amounts(target, count)

    def doubts(self, source: Source, counts: np.ndarray, images: int) -> Doubts:
        return of_classes(source.classes, counts)

    def first_doubts(self, source: Source) -> Doubts:
        assert isinstance(source.targets, np.ndarray)
        return of_classes(source.classes, np.bincount(source.targets, minlength=len(source.classes)))

    def unknown(self, images: int) -> np.ndarray:
        return np.zeros(images, dtype=np.int64)


def first_of_each_class(targets: np.ndarray, limit: int) -> np.ndarray:
    """Indices (sorted) of the first `limit` images, spread evenly over their classes (N,).

    >>> first_of_each_class(np.array([0, 0, 0, 0, 1, 1, 2]), limit=5).tolist()
    [0, 1, 4, 5, 6]
    """
    by_class = np.argsort(targets, kind="stable")
    _, starts, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(targets), dtype=np.int64)  # how many of its class come before an image
    rank[by_class] = np.arange(len(targets)) - np.repeat(starts, counts)
    return np.sort(np.lexsort((targets, rank))[:limit])
