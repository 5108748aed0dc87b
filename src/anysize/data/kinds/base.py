"""The base class of the kinds of targets. A new kind is one new file that registers itself in `TARGET_KINDS`.

A data set says by name which kinds it `offers`, and a task which one it learns (`Task.targets`).
"""

import abc
import functools
import importlib
import pkgutil
from typing import ClassVar

import numpy as np
from torch import Tensor

import anysize.data.kinds
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.scheduled import train_transform
from anysize.data.augment.square import EvalTransform
from anysize.data.augment.transform import Transform
from anysize.data.dataset import DataSet, DatasetInfo
from anysize.data.doubts import Doubts
from anysize.data.loader import LoadedBatch
from anysize.data.settings import AugmentSettings
from anysize.data.source import FileTargets, Source
from anysize.preprocessing import Preprocessing
from anysize.registry import Registry


class TargetKind(abc.ABC):
    """A kind of targets, and what depends on it. By default a target holds for any part of the image, also mirrored."""

    in_words: ClassVar[str]
    """The name of such targets in messages, such as "labels"."""
    one_class: ClassVar[bool] = False
    """Whether each image has exactly one class."""
    one_shape: ClassVar[bool] = True
    """Whether the images of a batch in evaluation have one shape."""
    evaluation_batch: ClassVar[int] = 4
    """Images a step in evaluation, as a multiple of those in training: without gradients more fit into memory."""
    settings: ClassVar[tuple[str, ...]] = ()
    """The recipe's settings that are read with the targets, besides those of the task."""

    def info(self, info: DatasetInfo, dataset: DataSet) -> DatasetInfo:
        """Change what is usual for a data set to what is usual with these targets."""
        return info

    def train_transform(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int) -> Transform:
        """Augmentation. Raises a `UserError` for settings that do not fit."""
        return train_transform(TrainTransform, preprocessing, augment, seed)

    def eval_transform(self, preprocessing: Preprocessing, crops: int, copies: int, own: bool = False) -> Transform:
        """Preprocessing for evaluation in so many crops, or augmented copies, or with `own` at an image's own shape.

        Raises a `UserError` as above.
        """
        return EvalTransform(preprocessing, crops, own)

    def first(self, source: Source, limit: int) -> Source:
        """The first `limit` images; 0: all."""
        return source.subset(np.arange(min(limit, len(source)))) if limit else source

    def target_of(self, batch: LoadedBatch, row: int) -> Tensor:
        """The target of one image of a batch, as `Task.show` takes it."""
        return batch.targets[row]

    @abc.abstractmethod
    def classes_in(self, target: np.ndarray, count: int) -> np.ndarray:
        """Tell which of the `count` classes an image with this target has: bool (count,)."""

    def amounts(self, target: np.ndarray, count: int) -> np.ndarray:
        """How much an image with this target, perhaps a mixed one, has of each of the `count` classes: (count,).

        1 or 0, a share where images are mixed, or pixels.
        """
        return self.classes_in(target, count).astype(np.float64)

    def mask_of(self, target: np.ndarray) -> np.ndarray | None:
        """The class of each pixel, uint8 (H, W); None: the target does not tell it."""
        return None

    def doubts(self, source: Source, counts: np.ndarray, images: int) -> Doubts:
        """What is odd about a split: so many of its `images` have each class, (classes,). None that are known of."""
        return Doubts()

    def first_doubts(self, source: Source) -> Doubts:
        """The `doubts` that can be told soon, before a training begins."""
        return Doubts()

    @abc.abstractmethod
    def unknown(self, images: int) -> np.ndarray | FileTargets:
        """Stand-ins for the targets of so many images of which nothing is known, as in `predict`."""


TARGET_KINDS: Registry[TargetKind] = Registry("kind of targets")


@functools.cache
def create_kind(name: str) -> TargetKind:
    """A kind of targets by name.

    >>> create_kind("masks").one_shape
    False
    """
    for module in pkgutil.iter_modules(anysize.data.kinds.__path__):
        importlib.import_module(f"anysize.data.kinds.{module.name}")
    return TARGET_KINDS[name]()
