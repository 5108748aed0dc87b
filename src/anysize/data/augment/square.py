"""Images to squares of S pixels, as in evaluation.

Every function takes uint8 images (..., C, H, W), one or a batch, on any device, or a PIL image. Resizing is antialiased
and rounded to whole levels, as torchvision's transforms v2 do it for uint8, or PIL for its images.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.transform import PlainTransform
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch_plan import Batch

Picture = TypeVar("Picture", Tensor, Image)


def take(images: Tensor, rows: np.ndarray) -> Tensor:
    """The images at `rows` (int64): each is copied in one piece, many times faster than by an index."""
    return images.flatten(1).index_select(0, torch.from_numpy(rows).to(images.device)).view(-1, *images.shape[1:])


def resize(
    images: Picture,
    side: int | Sequence[int],
    interpolation: str = "bilinear",
    stored: tuple[int, int] | None = None,
) -> Picture:
    """Resize images: the shorter side to `side`, or to (height, width).

    The longer side comes out as of images of the height and width `stored`, which they are a smaller version of.

    >>> resize(torch.zeros(3, 20, 30, dtype=torch.uint8), 10).shape
    torch.Size([3, 10, 15])
    """
    sides = list(_with_shorter(side, stored or F.get_size(images)) if isinstance(side, int) else side)
    resized: Picture = F.resize(images, sides, InterpolationMode(interpolation), antialias=True)
    return resized


def _with_shorter(side: int, shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image of this shape once its shorter side is `side`, rounded as torchvision does."""
    height, width = shape
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def to_square(
    images: Picture, size: int, preprocessing: Preprocessing, stored: tuple[int, int] | None = None
) -> Picture:
    """Make images square as evaluation does, (..., C, H, W) to (..., C, S, S), by the mode `preprocessing.resize`.

    `stored` is the height and width of the whole images that these are smaller versions of; None: they are whole.

    >>> to_square(torch.zeros(3, 20, 30, dtype=torch.uint8), 14, Preprocessing(image_size=14)).shape
    torch.Size([3, 14, 14])
    """
    if preprocessing.resize == "stretch":
        return resize(images, (size, size), preprocessing.interpolation)
    cropped: Picture = F.center_crop(_before_crop(images, size, preprocessing, stored), [size, size])
    return cropped


def needed_scale(shape: tuple[int, int], size: int, preprocessing: Preprocessing) -> float:
    """The scale, at most 1, at which an image of this height and width gives `to_square` a pixel for each of its own.

    >>> needed_scale((300, 400), 75, Preprocessing(75, resize="stretch"))
    0.25
    """
    if preprocessing.resize == "stretch":
        return min(1.0, size / min(shape))
    side = _resized_side(size, preprocessing)
    return min(1.0, side / min(shape)) if side else 1.0


def to_crops(images: Picture, size: int, preprocessing: Preprocessing, crops: int) -> Tensor:
    """`crops` squares of each image, (crops, ..., C, S, S): the centre; with 5 the corners too; with 10 all mirrored.

    They are cut from the image that the centre crop is cut from. Where evaluation takes the whole image (`stretch`),
    they are cut from it at `int(S / crop_ratio)` pixels. A `UserError` says where the image is smaller than the crops.
    """
    if crops == 1:
        return as_tensor(to_square(images, size, preprocessing))[None]
    if preprocessing.resize == "stretch":
        side = preprocessing.resize_side(size)
        images = resize(images, (side, side), preprocessing.interpolation)
    else:
        images = _before_crop(images, size, preprocessing)
    height, width = F.get_size(images)
    if min(height, width) < size:
        raise UserError(
            f"{crops} crops of {size} px do not fit into an image of {height} x {width} px; evaluate with one crop, or "
            'resize with data.resize = "stretch"'
        )
    cropped = F.five_crop(images, [size, size]) if crops == 5 else F.ten_crop(images, [size, size])
    return torch.stack([as_tensor(crop) for crop in cropped])


def as_tensor(picture: Tensor | Image) -> Tensor:
    """A PIL image as uint8 (C, H, W); a tensor as it is."""
    return F.pil_to_tensor(picture) if isinstance(picture, Image) else picture


def _before_crop(
    images: Picture, size: int, preprocessing: Preprocessing, stored: tuple[int, int] | None = None
) -> Picture:
    side = _resized_side(size, preprocessing)
    return resize(images, side, preprocessing.interpolation, stored) if side else images


def _resized_side(size: int, preprocessing: Preprocessing) -> int:
    """The shorter side before the crop; 0: the image is not resized."""
    if preprocessing.resize == "center-crop":
        return preprocessing.resize_side(size)
    if size == preprocessing.own_size:  # crop-or-pad: as the authors' code, which resizes at other sizes alone
        return 0
    return preprocessing.own_size


class EvalTransform(PlainTransform):
    """Deterministic preprocessing for evaluation, with 1, 5 or 10 crops an image.

    >>> transform = EvalTransform(Preprocessing(image_size=8, resize="stretch"))
    >>> transform.image(torch.zeros(3, 10, 10, dtype=torch.uint8), Batch(0, 6, 1, np.arange(1))).shape
    torch.Size([1, 3, 6, 6])
    """

    def __init__(self, preprocessing: Preprocessing, crops: int = 1) -> None:
        assert crops in (1, 5, 10)
        if preprocessing.resize == "pad":
            raise UserError(
                "data.resize is 'pad', which is for images with masks; expected stretch, center-crop or crop-or-pad"
            )
        self.preprocessing = preprocessing
        self.crops = crops

    def views(self, batch: Batch) -> int:
        return self.crops

    def image(self, image: Tensor, batch: Batch, stored: tuple[int, int] | None = None) -> Tensor:
        picture = image if self.at_once else F.to_pil_image(image)
        return to_crops(picture, batch.size, self.preprocessing, self.crops)

    def batch(self, images: Tensor, batch: Batch) -> Tensor:
        chosen = take(images, batch.indices).permute(0, 3, 1, 2)
        return to_crops(chosen, batch.size, self.preprocessing, self.crops).flatten(0, 1)
