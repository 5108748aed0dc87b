"""The base class of the training transforms: pixel operations, lighting, the keys of images, checks of settings."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from anysize.data.augment.transform import Transform
from anysize.data.random import Stream, normal, seeded
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch_plan import Batch

_GREY = 128  # AutoAugment fills with it, as the authors' code does
# Principal components of ImageNet's colours (Krizhevsky et al., 2012; values as published with fb.resnet.torch).
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Operation = Callable[[Tensor], Tensor]


class Augmentation(Transform):
    """Random augmentation that depends on (seed, epoch, sample, copy) alone: what all training transforms share.

    Args:
        preprocessing: base size, normalisation, interpolation.
        augment: what to do, with `crop` and `flip` settled (`resolve_augment`).
        seed: of the run.

    Raises:
        UserError: a setting is out of range or does not fit the images.
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        _check(preprocessing, augment)
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self._random_resized = v2.RandomResizedCrop(1, augment.scale, augment.ratio)
        self._pixel_ops = _pixel_ops(augment)

    def views(self, batch: Batch) -> int:
        return batch.copies

    def finish(self, pixels: Tensor, indices: np.ndarray, batch: Batch) -> Tensor:
        """Normalise, then lighting: noise along the principal components of ImageNet's colours.

        The noise is defined for values in [0, 1]; `augment.lighting` is its standard deviation.
        """
        values = super().finish(pixels, indices, batch)
        if self.augment.lighting:
            keys, copies = sample_keys(indices, batch)
            alpha = self.augment.lighting * normal(self.seed, batch.epoch, keys, copies, 3)
            shift = (alpha * _EIGENVALUES) @ _EIGENVECTORS.T / np.array(self.preprocessing.std)
            values += torch.from_numpy(shift).to(values)[:, :, None, None]
        return values

    def _operate(self, pixels: Tensor, indices: np.ndarray, copies: np.ndarray, batch: Batch) -> Tensor:
        """AutoAugment and colour jitter of the views (N, C, S, S), which are `copies` of the samples `indices`."""
        for stream, operation in self._pixel_ops:
            pixels = self._one_by_one(operation, stream, pixels, indices, copies, batch.epoch)
        return pixels

    def _one_by_one(
        self, operation: Operation, stream: Stream, images: Tensor, indices: np.ndarray, copies: np.ndarray, epoch: int
    ) -> Tensor:
        """Apply a library transform, which draws from torch's generator, to each image of (N, C, H, W)."""
        done = []
        for image, index, copy in zip(images, indices.tolist(), copies.tolist(), strict=True):
            with seeded(self.seed, epoch, index, copy, stream):
                done.append(operation(image))
        return torch.stack(done)


def _check(preprocessing: Preprocessing, augment: AugmentSettings) -> None:
    assert augment.crop != "auto", "to be settled with `resolve_augment`"
    assert augment.flip >= 0, "to be settled with `resolve_augment`"
    for name in ("scale", "ratio", "rescale"):
        low, high = getattr(augment, name)
        if not 0 < low <= high:
            raise UserError(f"augment.{name} is [{low}, {high}]; expected two positive numbers, the smaller first")
    if augment.scale[1] > 1:
        raise UserError(f"augment.scale is {list(augment.scale)}; expected shares of the image's area, at most 1")
    if augment.lighting and preprocessing.channels != 3:
        raise UserError(
            f"augment.lighting is {augment.lighting}, but the images have {preprocessing.channels} channel; its noise "
            "is defined for RGB: set it to 0"
        )


def sample_keys(indices: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Sample and copy of each image of a batch, (copies * B,): copy by copy.

    >>> [keys.tolist() for keys in sample_keys(np.array([7, 9]), Batch(0, 32, 2, np.array([7, 9])))]
    [[7, 9, 7, 9], [0, 0, 1, 1]]
    """
    return np.tile(indices, batch.copies), np.repeat(np.arange(batch.copies), len(indices))


def _pixel_ops(augment: AugmentSettings) -> list[tuple[Stream, Operation]]:
    """The library transforms that work on one uint8 image (C, S, S), each with its stream of random numbers."""
    operations: list[tuple[Stream, Operation]] = []
    if augment.autoaugment:
        policy = v2.AutoAugmentPolicy(augment.autoaugment)
        operations.append((Stream.AUTOAUGMENT, v2.AutoAugment(policy, fill=_GREY)))
    if strength := augment.color_jitter:  # of brightness, contrast and saturation
        operations.append((Stream.COLOR_JITTER, v2.ColorJitter(strength, strength, strength)))
    return operations
