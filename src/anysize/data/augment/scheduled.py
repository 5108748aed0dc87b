"""Training transforms whose settings follow the size and the epoch of a batch (`anysize.data.augment.by_size`).

They hold a transform for each set of settings that was asked for lately, and hand each batch to its own.
"""

from typing import Any, Protocol

from torch import Tensor

from anysize.data.augment.by_size import augment_at, check_tables, is_scheduled, scheduled_names
from anysize.data.augment.joint import JointTransform
from anysize.data.augment.operations import Augmentation
from anysize.data.augment.transform import PlainTransform, Sample, Transform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import Aspect

_KEPT = 64  # transforms: sizes of an epoch and a few epochs


class _Maker(Protocol):
    """A training transform's class."""

    def __call__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> Any: ...


class _Scheduled(Transform):
    """Hands each batch to the transform with the settings of its size and epoch."""

    def __init__(self, make: _Maker, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        check_tables(augment)
        self._make, self._given, self._seed = make, preprocessing, seed
        self.augment = augment
        self._made: dict[tuple[Any, ...], Any] = {}
        sizes = {int(point[0]) for points in augment.by_size.values() for point in points}
        epochs = {int(point[0]) for points in augment.by_epoch.values() for point in points}
        for size in sizes or {preprocessing.image_size}:  # says now what it does not take
            for epoch in epochs or {0}:
                self.preprocessing = self.transform(size, epoch).preprocessing

    def transform(self, size: int, epoch: int) -> Any:
        """The transform of batches of this size in this epoch."""
        now = augment_at(self.augment, size, epoch)
        key = tuple(getattr(now, name) for name in scheduled_names(self.augment))
        if key not in self._made:
            if len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
            self._made[key] = self._make(self._given, now, self._seed)
        return self._made[key]

    def _of(self, batch: Batch) -> Any:
        return self.transform(batch.size, batch.epoch)

    def views(self, batch: Batch) -> int:
        return batch.copies

    def check(self, aspect: Aspect) -> None:
        self.transform(self.preprocessing.image_size, 0).check(aspect)  # as the crop says, alone

    def need(self, shape: tuple[int, int], batch: Batch) -> float:
        scale: float = self._of(batch).need(shape, batch)
        return scale

    def sample(self, image: Tensor, target: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Sample:
        sample: Sample = self._of(batch).sample(image, target, batch, stored)
        return sample

    def finish(self, pixels: Tensor, batch: Batch) -> Tensor:
        values: Tensor = self._of(batch).finish(pixels, batch)
        return values


class _ScheduledPlain(_Scheduled, PlainTransform):
    """Of images whose targets hold for any part of them."""

    def image(self, image: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Tensor:
        pixels: Tensor = self._of(batch).image(image, batch, stored)
        return pixels

    def prepare(self, images: Tensor) -> Tensor:
        prepared: Tensor = self.transform(self.preprocessing.image_size, 0).prepare(images)  # as the crop says, alone
        return prepared

    def batch(self, images: Tensor, batch: Batch) -> Tensor:
        pixels: Tensor = self._of(batch).batch(images, batch)
        return pixels


class _ScheduledJoint(_Scheduled, JointTransform):
    """Of images with masks."""


def train_transform(
    make: type[Augmentation], preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0
) -> Transform:
    """A training transform of the class `make`, whose settings follow the tables of `augment` where it has some.

    Raises:
        UserError: as the class raises for the settings of any point of the tables, and for tables that do not fit.

    >>> from anysize.data.augment.plain import TrainTransform
    >>> augment = AugmentSettings(crop="pad", flip=0.5, by_size={"cutout": ((14, 0), (28, 8))})
    >>> made = train_transform(TrainTransform, Preprocessing(28, (0.5,), (0.5,), resize="stretch"), augment)
    >>> [made.transform(size, epoch=0).augment.cutout for size in (14, 28)]
    [0, 8]
    """
    if not is_scheduled(augment):
        return make(preprocessing, augment, seed)
    cls: Any = _ScheduledJoint if issubclass(make, JointTransform) else _ScheduledPlain
    made: Transform = cls(make, preprocessing, augment, seed)
    return made
