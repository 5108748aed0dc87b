"""Images with masks to input: the same scale, crop and flip for an image and for the classes of its pixels.

Training follows DeepLab's protocol as ELASTIC's authors use it (arXiv 1812.05262): a random scale, padding to at least
the batch's size, a random crop, a flip. Evaluation keeps the whole image, and the mask at its own size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.evaluation import normalize
from anysize.data.augment.joint_geometry import (
    canvas_size,
    cut,
    eval_size,
    middle,
    random_start,
    resized_crop,
    scaled_size,
)
from anysize.data.augment.operations import Augmentation, add_lighting, one_by_one
from anysize.data.random import Stream, seeded, uniform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch_plan import Batch


class DenseSample(NamedTuple):
    """An image and its mask as a `DenseTransform` hands them over.

    `pixels` is uint8 (V, C, h, w), `masks` uint8 (V, h', w') of class numbers and 255, `box` int64 (4,) says where the
    image lies in `pixels`: top, left, height, width.
    """

    pixels: Tensor
    masks: Tensor
    box: np.ndarray


class DenseTransform(Protocol):
    """What the loader applies to images with masks: `DenseTrainTransform` or `DenseEvalTransform`."""

    preprocessing: Preprocessing

    def views(self, batch: Batch) -> int:
        """Images that come of one sample."""

    def sample(self, image: Tensor, mask: Tensor, index: int, batch: Batch) -> DenseSample:
        """An image (C, H, W) and its mask (H, W), both uint8, to its views."""

    def finish(self, pixels: Tensor, indices: np.ndarray, batch: Batch) -> Tensor:
        """Pixels (V * B, C, h, w) of the samples `indices` to float32 input, channels last in memory."""


class DenseTrainTransform(Augmentation):
    """Random augmentation of an image and its mask that depends on (seed, epoch, sample, copy) alone.

    With `crop = "rescale"` an image of H x W pixels is scaled by a factor, log-uniform in `augment.rescale`, times
    S / own_size, padded to at least S x S, half on both sides, with the mean colour and 255, and cropped at random to
    S x S. "random-resized" is torchvision's RandomResizedCrop. "none" takes the middle S x S of what evaluation sees.
    Then come the flip, colour jitter and lighting.

    Args:
        preprocessing: base size, normalisation, interpolation; resize is "pad" or "stretch".
        augment: what to do, with `crop` and `flip` settled (`resolve_augment`).
        seed: of the run.

    Raises:
        UserError: settings that do not fit together or are not for masks.

    >>> transform = DenseTrainTransform(Preprocessing(8, resize="stretch"), AugmentSettings(crop="rescale", flip=0.5))
    >>> image, mask = torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8)
    >>> sample = transform.sample(image, mask, 5, Batch(epoch=0, size=6, copies=2, indices=np.array([5])))
    >>> sample.pixels.shape, sample.masks.shape
    (torch.Size([2, 3, 6, 6]), torch.Size([2, 6, 6]))
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        super().__init__(preprocessing, augment, seed)
        _check_masks(augment)
        _check_resize(preprocessing)

    def sample(self, image: Tensor, mask: Tensor, index: int, batch: Batch) -> DenseSample:
        """(C, H, W) and (H, W) to `batch.copies` pairs of S x S pixels."""
        streams = np.array([[Stream.RESCALE], [Stream.TOP], [Stream.LEFT], [Stream.FLIP]])
        draws = uniform(self.seed, batch.epoch, index, np.arange(batch.copies), streams)
        picture, labels = tv_tensors.Image(image), tv_tensors.Mask(mask[None])
        images, masks = [], []
        for copy, (factor, top, left, flip) in enumerate(draws.T.tolist()):
            place = self._place(image, index, copy, batch, factor, top, left)
            view, view_labels = place(picture), place(labels)
            if flip < self.augment.flip:
                view, view_labels = F.horizontal_flip(view), F.horizontal_flip(view_labels)
            images.append(view.as_subclass(Tensor).permute(1, 2, 0))
            masks.append(view_labels.as_subclass(Tensor)[0])
        pixels = _stack(images).permute(0, 3, 1, 2)  # channels last in memory
        keys, copies = np.full(batch.copies, index), np.arange(batch.copies)
        for stream, operation in self._pixel_ops:
            pixels = one_by_one(operation, stream, self.seed, pixels, keys, copies, batch.epoch)
        return DenseSample(pixels, _stack(masks), np.array([0, 0, batch.size, batch.size]))

    def finish(self, pixels: Tensor, indices: np.ndarray, batch: Batch) -> Tensor:
        """Normalise, then lighting."""
        values = normalize(pixels, self.preprocessing)
        add_lighting(values, self.augment.lighting, self.preprocessing, self.seed, indices, batch)
        return values

    def _place(
        self, image: Tensor, index: int, copy: int, batch: Batch, factor: float, top: float, left: float
    ) -> Callable[[Tensor], Tensor]:
        """What takes the square of a copy out of image and mask; `factor`, `top` and `left` are drawn from [0, 1)."""
        size = batch.size
        height, width = image.shape[-2:]
        if self.augment.crop == "random-resized":
            with seeded(self.seed, batch.epoch, index, copy, Stream.RANDOM_RESIZED):
                part = self._random_resized.make_params([image])
            return functools.partial(resized_crop, **part, size=size, preprocessing=self.preprocessing)
        if self.augment.crop == "none":
            resized = eval_size(height, width, size, self.preprocessing)
            corner = middle(resized[0], size), middle(resized[1], size)
        else:
            low, high = self.augment.rescale
            resized = scaled_size(height, width, low * (high / low) ** factor * size / self.preprocessing.own_size)
            corner = random_start(resized[0], size, top), random_start(resized[1], size, left)
        return functools.partial(cut, resized=resized, box=(*corner, size, size), preprocessing=self.preprocessing)


class DenseEvalTransform:
    """Deterministic preprocessing of an image whose mask keeps its own size.

    With resize "pad" the image is scaled by S / own_size, so at the base size not at all, and stands in the middle of
    a canvas of the mean colour, at least S x S. With "stretch" it is resized to S x S.

    Raises:
        UserError: another mode of resizing, which would cut parts of the image off.

    >>> transform = DenseEvalTransform(Preprocessing(8, resize="stretch"))
    >>> image, mask = torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8)
    >>> sample = transform.sample(image, mask, 0, Batch(0, 6, 1, np.arange(1)))
    >>> sample.pixels.shape, sample.masks.shape, sample.box.tolist()
    (torch.Size([1, 3, 6, 6]), torch.Size([1, 9, 7]), [0, 0, 6, 6])
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        _check_resize(preprocessing)
        self.preprocessing = preprocessing

    def views(self, batch: Batch) -> int:
        """One."""
        return 1

    def sample(self, image: Tensor, mask: Tensor, index: int, batch: Batch) -> DenseSample:
        """(C, H, W) to its canvas (1, C, h, w); the mask as it is, (1, H, W)."""
        height, width = eval_size(image.shape[1], image.shape[2], batch.size, self.preprocessing)
        canvas = canvas_size(height, width, batch.size)
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        pixels = cut(tv_tensors.Image(image), (height, width), (-top, -left, *canvas), self.preprocessing)
        return DenseSample(pixels.as_subclass(Tensor)[None], mask[None], np.array([top, left, height, width]))

    def finish(self, pixels: Tensor, indices: np.ndarray, batch: Batch) -> Tensor:
        """Normalise."""
        return normalize(pixels, self.preprocessing)


def _stack(views: list[Tensor]) -> Tensor:
    return views[0][None] if len(views) == 1 else torch.stack(views)  # one is usual, and needs no copy


def _check_masks(augment: AugmentSettings) -> None:
    if augment.crop == "pad":
        raise UserError(
            "augment.crop pad is for images with a class; expected rescale, random-resized or none for masks"
        )
    if augment.autoaugment:
        raise UserError(
            f"augment.autoaugment is {augment.autoaugment!r}, but its policies move pixels and would leave the masks "
            "behind; leave it empty for images with masks"
        )
    if augment.cutout:
        raise UserError(f"augment.cutout is {augment.cutout}; it is for images with a class: set it to 0 for masks")


def _check_resize(preprocessing: Preprocessing) -> None:
    if preprocessing.resize not in ("pad", "stretch"):
        raise UserError(
            f"data.resize is {preprocessing.resize!r}, which cuts off parts of an image that its mask has; expected "
            "pad or stretch for images with masks"
        )
