"""Any number of labels an image: targets are uint8 (N, R, classes) of 0 and 1, R rows by the size of objects."""

import numpy as np

from anysize.data.doubts import Doubts, of_labels
from anysize.data.kinds.base import TARGET_KINDS, TargetKind
from anysize.data.source import Source


@TARGET_KINDS.register("labels")
class Labels(TargetKind):
    """Each image has any number of labels, in rows of small, medium and large objects, or in one row."""

    in_words = "labels"
    settings = ("data.areas",)

    def classes_in(self, target: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(target.any(axis=0))

    def amounts(self, target: np.ndarray, count: int) -> np.ndarray:
        return np.asarray(target.max(axis=0), dtype=np.float64)

    def doubts(self, source: Source, counts: np.ndarray, images: int) -> Doubts:
        return of_labels(source.classes, counts, images)

    def first_doubts(self, source: Source) -> Doubts:
        assert isinstance(source.targets, np.ndarray)
        return of_labels(source.classes, source.targets.any(1).sum(0), len(source))

    def unknown(self, images: int) -> np.ndarray:
        return np.zeros((images, 1, 1), dtype=np.uint8)
