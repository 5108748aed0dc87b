"""Images with masks to input: the same scale, crop and flip for an image and for the classes of its pixels.

Training follows DeepLab's protocol as ELASTIC's authors use it (arXiv 1812.05262): a random scale, padding to at least
the batch's size, a random crop, a flip. Evaluation keeps the whole image, and the mask at its own size.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from anysize.data.augment import joint_geometry as geometry
from anysize.data.augment.operations import Augmentation, Box
from anysize.data.augment.transform import Collated, Sample, Transform, by_view
from anysize.data.random import Stream, uniform
from anysize.data.settings import AugmentSettings
from anysize.data.source import VOID
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch


class JointTransform(Transform):
    """A transform that takes a mask where it takes its image; the views of a batch may have several shapes."""

    def collate(self, samples: Sequence[Sample]) -> Collated:
        """Samples padded to one shape at the right and the bottom: images with the mean, masks with 255."""
        mean = torch.tensor(geometry.mean_colour(self.preprocessing), dtype=torch.uint8)
        return Collated(
            _pad([sample.pixels for sample in samples], mean[:, None, None]),
            _pad([sample.targets for sample in samples], torch.tensor(VOID, dtype=torch.uint8)),
            boxes=np.array([sample.box for sample in samples], dtype=np.int64),
            shapes=np.array([sample.targets.shape[1:] for sample in samples], dtype=np.int64),
        )


class JointTrainTransform(Augmentation, JointTransform):
    """Random augmentation of an image and its mask. S x S stands for a batch's height and width where it has others.

    With `crop = "rescale"` an image of H x W pixels is scaled by a factor, log-uniform in `augment.rescale`, times
    S / own_size, padded to at least S x S, half on both sides, with the mean colour and 255, and cropped at random to
    S x S. "random-resized" is torchvision's RandomResizedCrop. "none" takes the middle S x S of what evaluation sees.
    Then come the flip, colour jitter and lighting.

    Args:
        preprocessing: base size, normalisation, interpolation; resize is "pad" or "stretch".
        augment, seed: as for `Augmentation`, with the same errors, and one for what is not for masks.

    >>> transform = JointTrainTransform(Preprocessing(8, resize="stretch"), AugmentSettings(crop="rescale", flip=0.5))
    >>> image, mask = torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8)
    >>> sample = transform.sample(image, mask, Batch(epoch=0, size=6, copies=2, indices=np.array([5])))
    >>> sample.pixels.shape, sample.targets.shape
    (torch.Size([2, 3, 6, 6]), torch.Size([2, 6, 6]))
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        super().__init__(preprocessing, augment, seed)
        _check_masks(augment)
        _check_resize(self.preprocessing)

    def need(self, shape: tuple[int, int], batch: Batch) -> float:
        if self.augment.crop == "random-resized":
            return self._need_of_boxes(shape, batch)
        factors = uniform(self.seed, batch.epoch, *batch.sample_keys(), Stream.RESCALE).tolist()
        resized = [self._resized(*shape, batch, factor) for factor in factors]
        return min(1.0, max(max(height / shape[0], width / shape[1]) for height, width in resized))

    def sample(self, image: Tensor, target: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Sample:
        """(C, H, W) and (H, W) to `batch.copies` pairs of S x S pixels."""
        streams = [Stream.TOP, Stream.LEFT, Stream.RESCALE]
        draws = uniform(self.seed, batch.epoch, *batch.sample_keys(), np.array(streams)[:, None])
        picture, labels = tv_tensors.Image(image), tv_tensors.Mask(target[None])
        shape = (target.shape[0], target.shape[1])
        boxes = self._boxes(shape, batch) if self.augment.crop == "random-resized" else []
        images, masks = [], []
        for number, ((*corner, factor), flipped) in enumerate(zip(draws.T.tolist(), self._flips(batch), strict=True)):
            if boxes:
                part = boxes[number].moved(shape, (image.shape[1], image.shape[2]))
                view = self._cut_out(picture, part, batch.sides)
                view_labels = self._cut_out(labels, part.moved((image.shape[1], image.shape[2]), shape), batch.sides)
            else:
                place = self._place(*shape, batch, factor, *corner)
                view, view_labels = place(picture), place(labels)
            if flipped:
                view, view_labels = F.horizontal_flip(view), F.horizontal_flip(view_labels)
            images.append(view.as_subclass(Tensor).permute(1, 2, 0))
            masks.append(view_labels.as_subclass(Tensor)[0])
        pixels = _stack(images).permute(0, 3, 1, 2)  # channels last in memory
        pixels = self._operate(pixels, batch)
        return Sample(pixels, _stack(masks), np.array([0, 0, *batch.sides]))

    def _cut_out(self, picture: Tensor, part: Box, sides: tuple[int, int]) -> Tensor:
        return geometry.resized_crop(picture, *part, sides=sides, preprocessing=self.preprocessing)

    def _resized(self, height: int, width: int, batch: Batch, factor: float) -> tuple[int, int]:
        """Height and width to which an image, in full of this height and width, is resized; `factor` from [0, 1)."""
        if self.augment.crop == "none":
            return geometry.eval_size(height, width, batch.size, self.preprocessing, batch.sides)
        low, high = self.augment.rescale
        scale = low * (high / low) ** factor * batch.size / self.preprocessing.own_size
        return geometry.scaled_size(height, width, scale)

    def _place(
        self, height: int, width: int, batch: Batch, factor: float, top: float, left: float
    ) -> Callable[[Tensor], Tensor]:
        """The function that takes a copy's part out of image or mask; `factor`, `top`, `left` come from [0, 1)."""
        resized, (high, wide) = self._resized(height, width, batch, factor), batch.sides
        if self.augment.crop == "none":
            corner = geometry.middle(resized[0], high), geometry.middle(resized[1], wide)
        else:
            corner = geometry.random_start(resized[0], high, top), geometry.random_start(resized[1], wide, left)
        return functools.partial(
            geometry.resize_into_frame, resized=resized, frame=(*corner, high, wide), preprocessing=self.preprocessing,
            interpolation=self.augment.rescale_interpolation,
        )  # fmt: skip


class JointEvalTransform(JointTransform):
    """Deterministic preprocessing of an image whose mask keeps its own size.

    With `own` a batch has the shape of its images, which fill it. Otherwise, with resize "pad" the image is scaled by S
    / own_size, so at the base size not at all, and stands in the middle of a canvas of the mean colour, at least S x S.
    With "stretch" it is resized to S x S. Another mode would cut parts of the image off, and is a `UserError`.

    >>> transform = JointEvalTransform(Preprocessing(8, resize="stretch"))
    >>> image, mask = torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8)
    >>> sample = transform.sample(image, mask, Batch(0, 6, 1, np.arange(1)))
    >>> sample.pixels.shape, sample.targets.shape, sample.box.tolist()
    (torch.Size([1, 3, 6, 6]), torch.Size([1, 9, 7]), [0, 0, 6, 6])
    """

    def __init__(self, preprocessing: Preprocessing, own: bool = False) -> None:
        _check_resize(preprocessing)
        self.preprocessing = dataclasses.replace(preprocessing, resize="stretch") if own else preprocessing

    def sample(self, image: Tensor, target: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Sample:
        """(C, H, W) to its canvas (1, C, h, w); the mask as it is, (1, H, W)."""
        height, width = geometry.eval_size(image.shape[1], image.shape[2], batch.size, self.preprocessing, batch.sides)
        stretched = self.preprocessing.resize == "stretch"
        canvas = (height, width) if stretched else geometry.canvas_size(height, width, batch.size)
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        frame = (-top, -left, *canvas)
        pixels = geometry.resize_into_frame(tv_tensors.Image(image), (height, width), frame, self.preprocessing)
        return Sample(pixels.as_subclass(Tensor)[None], target[None], np.array([top, left, height, width]))


def _pad(parts: Sequence[Tensor], fill: Tensor) -> Tensor:
    """Tensors (V, ..., h, w) to one (V * B, ..., H, W), view by view."""
    height, width = (max(part.shape[side] for part in parts) for side in (-2, -1))
    if all(part.shape[-2:] == (height, width) for part in parts):
        return by_view(parts)
    whole = fill.expand(len(parts[0]), len(parts), *parts[0].shape[1:-2], height, width).clone()
    for number, part in enumerate(parts):
        whole[:, number, ..., : part.shape[-2], : part.shape[-1]] = part
    return whole.flatten(0, 1)


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
    for name in ("cutout", "random_erasing"):
        if value := getattr(augment, name):
            raise UserError(f"augment.{name} is {value}; it is for images with a class: set it to 0 for masks")


def _check_resize(preprocessing: Preprocessing) -> None:
    if preprocessing.resize not in ("pad", "stretch"):
        raise UserError(
            f"data.resize is {preprocessing.resize!r}, which cuts off parts of an image that its mask has; expected "
            "pad or stretch for images with masks"
        )
    if preprocessing.backend != "tensor":
        raise UserError(
            f"augment.backend is {preprocessing.backend!r}, but an image and its mask are resized alike as tensors; "
            "expected tensor for images with masks"
        )
