"""Images to input for training: crop, flip, resize, operations on pixels, normalise, lighting, cutout, erasing.

The order and the two protocols are those of Mix & Match (arXiv 1908.08986, its code's data preprocessing). CIFAR: a
random crop after padding at the base size, then the resize to the batch's size. ImageNet: a random resized crop
straight to the batch's size. Images of one size that lie in memory are cropped, flipped and resized a batch at a time,
but for those that PIL augments (`augment.backend`).
"""

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.operations import Augmentation
from anysize.data.augment.square import Picture, as_tensor, check_shape, needed_scale, resize, take, to_square
from anysize.data.augment.transform import PlainTransform
from anysize.data.random import Stream, seeded, uniform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import SQUARE, Aspect


class TrainTransform(Augmentation, PlainTransform):
    """Random augmentation of images whose targets hold for any part of them.

    Args:
        preprocessing: base size, normalisation, interpolation; how images become square for `crop = "none"`.
        augment, seed: as for `Augmentation`, with the same errors.

    >>> preprocessing = Preprocessing(8, mean=(0.5,), std=(0.5,), resize="stretch")
    >>> transform = TrainTransform(preprocessing, AugmentSettings(crop="pad", flip=0.5))
    >>> images = torch.zeros(10, 8, 8, 1, dtype=torch.uint8)
    >>> batch = Batch(epoch=0, size=6, copies=2, indices=np.array([3, 4, 5]))
    >>> transform.finish(transform.batch(images, batch), batch).shape
    torch.Size([6, 1, 6, 6])
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        super().__init__(preprocessing, augment, seed)
        if augment.crop == "rescale":
            raise UserError("augment.crop rescale is for images with masks; expected pad, random-resized or none")
        self._erasing = v2.RandomErasing(p=1.0, inplace=True)  # 2 to 33% of the area, as all who use it take it

    def prepare(self, images: Tensor) -> Tensor:
        """For `crop = "pad"`: images stored at another size than the base are resized to it once."""
        if self.augment.crop != "pad" or not len(images):
            return images
        stored = (images.shape[1], images.shape[2])
        chunks = [chunk.permute(0, 3, 1, 2) for chunk in torch.split(images, 1024)]
        resized = [self._to_base(chunk, stored).permute(0, 2, 3, 1) for chunk in chunks]
        return torch.cat(resized).contiguous() if resized[0].shape[1:] != images.shape[1:] else images

    def need(self, shape: tuple[int, int], batch: Batch) -> float:
        if self.augment.crop == "random-resized":
            return self._need_of_boxes(shape, batch)
        if self.augment.crop == "none":
            return needed_scale(shape, batch.aspect.extent(batch.size), self.preprocessing)
        return min(1.0, self.preprocessing.image_size / min(shape))  # pad: of the image at the base size

    def check(self, aspect: Aspect) -> None:
        if self.augment.crop == "none":
            check_shape(self.preprocessing, aspect)
        if aspect != SQUARE and self.augment.crop == "pad":
            raise UserError(
                "augment.crop is pad, which cuts squares of the base size; for other shapes (sizes.shape, "
                "sizes.aspect_ratios) set it to random-resized or none"
            )

    def image(self, image: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Tensor:
        self.check(batch.aspect)
        stored = stored or (image.shape[1], image.shape[2])
        picture = image if self.at_once else F.to_pil_image(image)
        if self.augment.crop == "pad":
            picture = self._to_base(picture, stored)
        if isinstance(picture, Image):
            return self._augment_picture(picture, batch, stored)
        return self._augment(picture.permute(1, 2, 0)[None], np.zeros(1, np.int64), batch, stored)

    def batch(self, images: Tensor, batch: Batch) -> Tensor:
        assert self.at_once
        self.check(batch.aspect)
        return self._augment(images, batch.indices, batch, (images.shape[1], images.shape[2]))

    def finish(self, pixels: Tensor, batch: Batch) -> Tensor:
        """Normalise, then lighting, cutout and random erasing."""
        values = super().finish(pixels, batch)
        if self.augment.cutout:
            self._cut_out(values, batch)
        if self.augment.random_erasing:
            self._erase(values, batch)
        return values

    def _places(self, batch: Batch) -> np.ndarray:
        """Of each view where between its first row and its last, and column, a crop lies: (2, N) from 0 to 1."""
        return uniform(self.seed, batch.epoch, *batch.sample_keys(), np.array([[Stream.TOP], [Stream.LEFT]]))

    def _augment(self, images: Tensor, rows: np.ndarray, batch: Batch, stored: tuple[int, int]) -> Tensor:
        """The samples of a batch, which are the images at `rows` of (N, H, W, C), to uint8 (copies * B, C, H, W).

        `stored` is the height and width that the images have in full.
        """
        rows, flip = np.tile(rows, batch.copies), self._flips(batch)
        if self.augment.crop == "pad":
            top, left = self._places(batch)
            pixels = self._pad_crop(images, rows, top, left, flip)
            pixels = resize(pixels, (batch.size, batch.size), self.preprocessing.interpolation)
        elif self.augment.crop == "none":
            extent = batch.aspect.extent(batch.size)
            pixels = to_square(take(images, rows).permute(0, 3, 1, 2), extent, self.preprocessing, stored)
            pixels = torch.where(torch.from_numpy(flip).to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
        else:
            pixels = self._resized_crops(images, rows, flip, batch, stored)
        return self._operate(pixels, batch)

    def _resized_crops(
        self, images: Tensor, rows: np.ndarray, flip: np.ndarray, batch: Batch, stored: tuple[int, int]
    ) -> Tensor:
        """A random resized crop of each of the images at `rows`, which are not copied, mirrored where `flip` says so.

        Each crop is made one piece of memory, channels last, for which torch's resize is fastest, and stays so.
        """
        views = []
        for row, flipped, box in zip(rows.tolist(), flip.tolist(), self._boxes(stored, batch), strict=True):
            top, left, height, width = box.moved(stored, (images.shape[1], images.shape[2]))
            part = images[row, top : top + height, left : left + width].contiguous().permute(2, 0, 1)
            view = resize(part, batch.sides, self.preprocessing.interpolation)
            views.append((F.horizontal_flip(view) if flipped else view).permute(1, 2, 0))
        return torch.stack(views).permute(0, 3, 1, 2)

    def _augment_picture(self, picture: Image, batch: Batch, stored: tuple[int, int]) -> Tensor:
        """The only sample of a batch, a PIL image, to uint8 (copies, C, S, S); the same draws as `_augment`."""
        flip = self._flips(batch)
        views = [picture] * batch.copies
        if self.augment.crop == "pad":
            base, padding = self.preprocessing.image_size, self.augment.padding
            mode = "reflect" if self.augment.padding_mode == "reflect" else "constant"
            padded = F.pad(picture, [padding], padding_mode=mode)
            corners = self._corners(*F.get_size(picture), *self._places(batch))
            views = [F.crop(padded, *corner, base, base) for corner in zip(*corners, strict=True)]
        elif self.augment.crop == "none":
            extent = batch.aspect.extent(batch.size)
            views = [to_square(view, extent, self.preprocessing, stored) for view in views]
        else:
            mode, side = InterpolationMode(self.preprocessing.interpolation), list(batch.sides)
            boxes = [box.moved(stored, (picture.height, picture.width)) for box in self._boxes(stored, batch)]
            views = [F.resized_crop(view, *box, side, mode) for view, box in zip(views, boxes, strict=True)]
        views = [F.horizontal_flip(view) if flipped else view for view, flipped in zip(views, flip, strict=True)]
        if self.augment.crop == "pad":
            views = [resize(view, (batch.size, batch.size), self.preprocessing.interpolation) for view in views]
        return torch.stack([as_tensor(view) for view in self._operate(views, batch)])

    def _corners(self, height: int, width: int, top: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First row and column of each crop of the base size in an image of this size after padding, for draws."""
        places = 2 * self.augment.padding - self.preprocessing.image_size + 1
        return (top * (height + places)).astype(np.int64), (left * (width + places)).astype(np.int64)

    def _pad_crop(
        self, images: Tensor, rows: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray
    ) -> Tensor:
        """Random crop of the base size after padding, then the flip: uint8 (B, C, base, base).

        `top` and `left`, from 0 to 1, say where the crop lies between the first place and the last.

        The images that are to be flipped are put first, so that one call mirrors them all. A row of a crop is then one
        run of bytes in the padded images, and the crops are one gather of such runs, in the right order again.
        """
        base, padding = self.preprocessing.image_size, self.augment.padding
        height, width, channels = images.shape[1:]
        high, wide = height + 2 * padding, width + 2 * padding
        top, left = self._corners(height, width, top, left)
        left = np.where(flip, wide - base - left, left)  # of the mirrored image

        order = np.argsort(~flip, kind="stable")
        flipped = int(flip.sum())
        chosen = take(images, rows[order])
        padded = chosen.new_zeros(len(rows), high, wide, channels)
        inner = padded[:, padding : padding + height, padding : padding + width]
        inner[:flipped] = chosen[:flipped].flip(2)
        inner[flipped:] = chosen[flipped:]
        if self.augment.padding_mode == "reflect":
            _reflect(padded, padding)

        position = np.argsort(order)[:, None]
        start = (position * high + top[:, None] + np.arange(base)) * wide + left[:, None]  # pixels, (B, base)
        runs = padded.as_strided((len(rows) * high * wide - base + 1, base * channels), (channels, 1))
        crops = runs.index_select(0, torch.from_numpy(start.ravel()).to(images.device))
        return crops.view(-1, base, base, channels).permute(0, 3, 1, 2)

    def _to_base(self, images: Picture, stored: tuple[int, int]) -> Picture:
        """Images (..., C, H, W) at the base size: stretched, or the shorter side where evaluation keeps the shape."""
        base = self.preprocessing.image_size
        side = (base, base) if self.preprocessing.resize == "stretch" else base
        return resize(images, side, self.preprocessing.interpolation, stored)

    def _cut_out(self, values: Tensor, batch: Batch) -> None:
        """One square hole at a random centre, clipped by the border, filled with 0: the mean (arXiv 1708.04552)."""
        side = max(1, round(self.augment.cutout * batch.size / self.preprocessing.image_size))
        covered = []
        for stream, length in zip((Stream.CUTOUT_TOP, Stream.CUTOUT_LEFT), batch.sides, strict=True):
            centre = (uniform(self.seed, batch.epoch, *batch.sample_keys(), stream) * length).astype(np.int64)
            start = (centre - side // 2)[:, None]
            covered.append((np.arange(length) >= start) & (np.arange(length) < start + side))
        hole = torch.from_numpy(covered[0][:, None, :, None] & covered[1][:, None, None, :])
        values.masked_fill_(hole.to(values.device), 0.0)

    def _erase(self, values: Tensor, batch: Batch) -> None:
        """A rectangle of random area, shape and place in some of the views, filled with 0 (arXiv 1708.04896)."""
        key = (self.seed, batch.epoch)
        draws = uniform(*key, *batch.sample_keys(), Stream.RANDOM_ERASING)
        for view, draw, index, copy in zip(values, draws, *batch.sample_keys(), strict=True):
            if draw < self.augment.random_erasing:  # else the generator is left alone, which saves most of the time
                with seeded(*key, index, copy, Stream.RANDOM_ERASING):
                    self._erasing(view)


def _reflect(padded: Tensor, padding: int) -> None:
    """Fill the borders of images (N, H, W, C) with what lies inside, mirrored at the first pixel and the last."""
    for side in (padded.transpose(1, 2), padded):  # columns of the rows there are, then rows whole
        last = side.shape[1] - 1 - padding
        for far in range(1, padding + 1):
            side[:, padding - far] = side[:, padding + far]
            side[:, last + far] = side[:, last - far]
