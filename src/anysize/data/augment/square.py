"""Images to squares of S pixels, or to another shape, as in evaluation.

Every function takes uint8 images (..., C, H, W), one or a batch, on any device, or a PIL image. Resizing is antialiased
and rounded to whole levels, as torchvision's transforms v2 do it for uint8, or PIL for its images.
"""

import dataclasses
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
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import SQUARE, Aspect, Extent, in_pixels, sides_of

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
    images: Picture, size: Extent, preprocessing: Preprocessing, stored: tuple[int, int] | None = None
) -> Picture:
    """Make images square as evaluation does, (..., C, H, W) to (..., C, S, S), by the mode `preprocessing.resize`.

    A `size` of two numbers is height and width: "center-crop" cuts them out of an image that covers them. `stored` is
    the height and width of the whole images that these are smaller versions of; None: they are whole.

    >>> to_square(torch.zeros(3, 20, 30, dtype=torch.uint8), 14, Preprocessing(image_size=14)).shape
    torch.Size([3, 14, 14])
    """
    if preprocessing.resize == "stretch":
        return resize(images, sides_of(size), preprocessing.interpolation)
    cropped: Picture = F.center_crop(_before_crop(images, size, preprocessing, stored), list(sides_of(size)))
    return cropped


def needed_scale(shape: tuple[int, int], size: Extent, preprocessing: Preprocessing) -> float:
    """The scale, at most 1, at which an image of this height and width gives `to_square` a pixel for each of its own.

    >>> needed_scale((300, 400), 75, Preprocessing(75, resize="stretch"))
    0.25
    """
    if preprocessing.resize == "stretch" or not isinstance(size, int):
        sides = sides_of(size)
        if preprocessing.resize != "stretch":
            sides = _to_cover(shape, sides, preprocessing)
        return min(1.0, max(sides[0] / shape[0], sides[1] / shape[1]))
    side = _resized_side(size, preprocessing)
    return min(1.0, side / min(shape)) if side else 1.0


def to_crops(images: Picture, size: Extent, preprocessing: Preprocessing, crops: int) -> Tensor:
    """`crops` squares of each image, (crops, ..., C, S, S): the centre; with 5 the corners too; with 10 all mirrored.

    A `size` of two numbers is height and width. They are cut from the image that the centre crop is cut from. Where
    evaluation takes the whole image (`stretch`), they are cut from it at `int(S / crop_ratio)` pixels. A `UserError`
    says where the image is smaller than the crops.
    """
    if crops == 1:
        return as_tensor(to_square(images, size, preprocessing))[None]
    if preprocessing.resize == "stretch":
        sides = [preprocessing.resize_side(side) for side in sides_of(size)]
        images = resize(images, sides, preprocessing.interpolation)
    else:
        images = _before_crop(images, size, preprocessing)
    (height, width), own = F.get_size(images), list(sides_of(size))
    if height < own[0] or width < own[1]:
        raise UserError(
            f"{crops} crops of {in_pixels(size)} do not fit into an image of {height} x {width} px; evaluate with one "
            'crop, or resize with data.resize = "stretch"'
        )
    cropped = F.five_crop(images, own) if crops == 5 else F.ten_crop(images, own)
    return torch.stack([as_tensor(crop) for crop in cropped])


def as_tensor(picture: Tensor | Image) -> Tensor:
    """A PIL image as uint8 (C, H, W); a tensor as it is."""
    return F.pil_to_tensor(picture) if isinstance(picture, Image) else picture


def _before_crop(
    images: Picture, size: Extent, preprocessing: Preprocessing, stored: tuple[int, int] | None = None
) -> Picture:
    if not isinstance(size, int):
        sides = _to_cover(stored or F.get_size(images), size, preprocessing)
        return resize(images, sides, preprocessing.interpolation)
    side = _resized_side(size, preprocessing)
    return resize(images, side, preprocessing.interpolation, stored) if side else images


def _to_cover(shape: Sequence[int], sides: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width to which an image of this shape is resized so that it covers these sides over the crop ratio."""
    height, width = (preprocessing.resize_side(side) for side in sides)
    if height * shape[1] >= width * shape[0]:  # its width then has room to spare
        return height, max(width, int(height * shape[1] / shape[0]))
    return max(height, int(width * shape[0] / shape[1])), width


def check_shape(preprocessing: Preprocessing, aspect: Aspect) -> None:
    """Raise a `UserError` where images that are not square are asked for, and `preprocessing` knows none."""
    if aspect != SQUARE and preprocessing.resize == "crop-or-pad":
        raise UserError(
            "data.resize is crop-or-pad, which cuts squares out of images at their own size; for other shapes "
            "(sizes.shape, sizes.aspect_ratios) set it to center-crop or stretch"
        )


def _resized_side(size: int, preprocessing: Preprocessing) -> int:
    """The shorter side before the crop; 0: the image is not resized."""
    if preprocessing.resize == "center-crop":
        return preprocessing.resize_side(size)
    if size == preprocessing.own_size:  # crop-or-pad: as the authors' code, which resizes at other sizes alone
        return 0
    return preprocessing.own_size


class EvalTransform(PlainTransform):
    """Deterministic preprocessing for evaluation, with 1, 5 or 10 crops an image.

    With `own` a batch has the shape of its images, which are shown as a whole, whatever `preprocessing.resize` says.

    >>> transform = EvalTransform(Preprocessing(image_size=8, resize="stretch"))
    >>> transform.image(torch.zeros(3, 10, 10, dtype=torch.uint8), Batch(0, 6, 1, np.arange(1))).shape
    torch.Size([1, 3, 6, 6])
    """

    def __init__(self, preprocessing: Preprocessing, crops: int = 1, own: bool = False) -> None:
        assert crops in (1, 5, 10)
        if own and crops > 1:
            raise UserError(
                f"evaluation.crops is {crops}, but at their own shape (evaluation.shape) images are shown as a whole; "
                "set evaluation.shape to square, or crops to 1"
            )
        if own:
            preprocessing = dataclasses.replace(preprocessing, resize="stretch")
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
        return to_crops(picture, self._extent(batch), self.preprocessing, self.crops)

    def batch(self, images: Tensor, batch: Batch) -> Tensor:
        chosen = take(images, batch.indices).permute(0, 3, 1, 2)
        return to_crops(chosen, self._extent(batch), self.preprocessing, self.crops).flatten(0, 1)

    def _extent(self, batch: Batch) -> Extent:
        check_shape(self.preprocessing, batch.aspect)
        return batch.aspect.extent(batch.size)
