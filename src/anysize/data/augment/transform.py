"""The base classes of the transforms, which turn images and targets into the pixels of a batch and then into input."""

import abc
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anysize.preprocessing import Preprocessing
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import Aspect


class Sample(NamedTuple):
    """An image with its target as a transform hands them over, in V views: augmented copies, or crops.

    `pixels` is uint8 (V, C, h, w), `targets` (V, ...). Where images keep their shapes, `box`, int64 (4,), says where
    the image lies in `pixels`: top, left, height, width.
    """

    pixels: Tensor
    targets: Tensor
    box: np.ndarray | None = None


class Collated(NamedTuple):
    """The samples of a batch, view by view: uint8 pixels (V * B, C, H, W), targets (V * B, ...).

    `boxes` and `shapes` are as in `LoadedBatch`.
    """

    pixels: Tensor
    targets: Tensor
    boxes: np.ndarray | None = None
    shapes: np.ndarray | None = None


class Transform(abc.ABC):
    """A transform, of which the loader applies `sample` to each image, then `collate` and `finish` to each batch."""

    preprocessing: Preprocessing

    def views(self, batch: Batch) -> int:
        """Images that come of one sample: augmented copies, or crops; by default one."""
        return 1

    def check(self, aspect: Aspect) -> None:  # noqa: B027
        """Raise a `UserError` where images of this aspect ratio cannot be made; by default all can."""

    def need(self, shape: tuple[int, int], batch: Batch) -> float:
        """The scale of an image of this height and width, at most 1, at which each view still gets a pixel for a pixel.

        `batch` has this sample alone. By default 1: the image in full.
        """
        return 1.0

    @abc.abstractmethod
    def sample(self, image: Tensor, target: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Sample:
        """An image, uint8 (C, H, W), and its target, to its views; `batch` has this sample alone.

        `stored` is the height and width of the image in full, which are those of its target; None: it is in full.
        """

    def collate(self, samples: Sequence[Sample]) -> Collated:
        """At least one sample, all of one shape unless a subclass brings them to one; channels last in memory."""
        pixels = by_view([each.pixels.permute(0, 2, 3, 1) for each in samples]).permute(0, 3, 1, 2)
        return Collated(pixels, by_view([each.targets for each in samples]))

    def finish(self, pixels: Tensor, batch: Batch) -> Tensor:
        """Pixels (V * B, C, H, W) of the samples of `batch` to float32 input, channels last in memory."""
        return normalize(pixels, self.preprocessing)


class PlainTransform(Transform):
    """A transform that leaves targets as they are, since they hold for each view of an image.

    Images that are stored alike go through `batch` together, files through `image` one by one; both give the same
    pixels. With the back end "pil" all images go one by one.
    """

    @property
    def at_once(self) -> bool:
        """Whether images that are stored alike may go through `batch`."""
        return self.preprocessing.backend == "tensor"

    def sample(self, image: Tensor, target: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Sample:
        """The views of the image, each with its target."""
        pixels = self.image(image, batch, stored)
        return Sample(pixels, target.expand(len(pixels), *target.shape))

    @abc.abstractmethod
    def image(self, image: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Tensor:
        """An image (C, H, W), the only one of `batch`, to its views (V, C, S, S), uint8; `stored` as in `sample`."""

    def prepare(self, images: Tensor) -> Tensor:
        """Do to the stored images (N, H, W, C) what can be done once and for all; by default nothing."""
        return images

    @abc.abstractmethod
    def batch(self, images: Tensor, batch: Batch) -> Tensor:
        """The samples of a batch, of the prepared images (N, H, W, C), to uint8 (V * B, C, S, S), view by view."""


def by_view(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (V, ...) of B samples to one (V * B, ...): the first view of all samples, then the second of all.

    >>> by_view([torch.tensor([1, 10]), torch.tensor([2, 20]), torch.tensor([3, 30])])
    tensor([ 1,  2,  3, 10, 20, 30])
    """
    return torch.stack(list(parts), 1).flatten(0, 1)


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (N, C, H, W) to float32 `(pixels / 255 - mean) / std`, channels last in memory.

    >>> normalize(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), Preprocessing(2, (0.5,), (0.25,))).flatten()
    tensor([-2., -2., -2., -2.])
    """
    nhwc = pixels.permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = nhwc.shape
    # A row of the image is one vector, so that the inner loop runs over W * C values rather than over the channels.
    scale, shift = _scale_and_shift(preprocessing, width, pixels.device)
    rows = nhwc.view(count * height, width * channels).float()
    values = torch.addcmul(shift, rows, scale, out=rows)
    return values.view(count, height, width, channels).permute(0, 3, 1, 2)


def denormalize(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Input (N, C, H, W) back to uint8 for people, the inverse of `normalize`: values beyond black and white are cut.

    >>> preprocessing = Preprocessing(2, (0.5,), (0.25,))
    >>> denormalize(normalize(torch.full((1, 1, 1, 1), 77, dtype=torch.uint8), preprocessing), preprocessing).item()
    77
    """
    mean, std = (torch.tensor(each).to(values)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return (255 * (values * std + mean)).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _scale_and_shift(preprocessing: Preprocessing, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(preprocessing.mean).double(), torch.tensor(preprocessing.std).double()
    scale, shift = 1 / (255 * std), -mean / std
    return scale.float().repeat(width).to(device), shift.float().repeat(width).to(device)
