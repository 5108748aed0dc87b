"""The base class of the training transforms: pixel operations, lighting, the keys of images, checks of settings."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2

from anysize.data.augment.by_size import is_scheduled
from anysize.data.augment.transform import Transform
from anysize.data.random import Stream, normal, seeded, uniform, uniform_of_few
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch

_FEW = 8  # views of a file, as a rule
_GREY = 128  # AutoAugment fills with it, as the authors' code does
# Principal components of ImageNet's colours (Krizhevsky et al., 2012; values as published with fb.resnet.torch).
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

Operation = Callable[[Any], Any]  # on one tensor (C, H, W) or PIL image
Views = TypeVar("Views", Tensor, list[Image])


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def moved(self, before: tuple[int, int], now: tuple[int, int]) -> "Box":
        """The part of the image when its height and width are `now` and were `before`, in whole pixels.

        >>> Box(10, 4, 21, 8).moved((40, 60), (20, 30))
        Box(top=5, left=2, height=11, width=4)
        """
        top, height = _moved(self.top, self.height, now[0] / before[0])
        left, width = _moved(self.left, self.width, now[1] / before[1])
        return Box(top, left, height, width)


def _moved(start: int, length: int, scale: float) -> tuple[int, int]:
    first = round(start * scale)
    return first, max(1, round((start + length) * scale) - first)


class Augmentation(Transform):
    """Random augmentation that depends on (seed, epoch, sample, copy) alone: what all training transforms share.

    Args:
        preprocessing: base size, normalisation, interpolation; the back end is that of `augment`.
        augment: what to do, with `crop` and `flip` settled (`resolve_augment`).
        seed: of the run.

    Raises:
        UserError: a setting is out of range or does not fit the images.
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int = 0) -> None:
        _check(preprocessing, augment)
        self.preprocessing = dataclasses.replace(preprocessing, backend=augment.backend)
        self.augment = augment
        self.seed = seed
        self._drawn: tuple[object, list[Box]] = None, []
        self._random_resized = v2.RandomResizedCrop(1, augment.scale, augment.ratio)
        self._pixel_ops = _pixel_ops(augment, preprocessing.interpolation)

    def views(self, batch: Batch) -> int:
        return batch.copies

    def finish(self, pixels: Tensor, batch: Batch) -> Tensor:
        """Normalise, then brightness, contrast and lighting.

        Lighting is noise along the principal components of ImageNet's colours, which is defined for values in [0, 1];
        `augment.lighting` is its standard deviation.
        """
        values = super().finish(pixels, batch)
        if self.augment.brightness or self.augment.contrast:
            self._change_light(values, batch)
        if self.augment.lighting:
            alpha = self.augment.lighting * normal(self.seed, batch.epoch, *batch.sample_keys(), 3)
            shift = (alpha * _EIGENVALUES) @ _EIGENVECTORS.T / np.array(self.preprocessing.std)
            values += torch.from_numpy(shift).to(values)[:, :, None, None]
        return values

    def _flips(self, batch: Batch) -> np.ndarray:
        """Of each view whether it is mirrored; with flip_alternates by the draw of the first epoch, then in turn."""
        draw = uniform_of_few if batch.images <= _FEW else uniform
        alternates = self.augment.flip_alternates
        drawn = draw(self.seed, 0 if alternates else batch.epoch, *batch.sample_keys(), Stream.FLIP)
        return np.asarray((drawn < self.augment.flip) ^ (alternates and batch.epoch % 2 == 1))

    def _change_light(self, values: Tensor, batch: Batch) -> None:
        """Shift the values of each view by at most +- brightness, then multiply them by 1 +- at most contrast."""
        streams = np.array([[Stream.BRIGHTNESS], [Stream.CONTRAST]])
        draws = 2 * uniform(self.seed, batch.epoch, *batch.sample_keys(), streams) - 1
        shift, factor = (torch.from_numpy(each).to(values)[:, None, None, None] for each in draws)
        values.add_(shift * self.augment.brightness).mul_(1 + factor * self.augment.contrast)

    def _boxes(self, shape: tuple[int, int], batch: Batch) -> list[Box]:
        """Of each view the part that crop = random-resized takes of an image of this height and width.

        The boxes that were drawn last are kept: `need` and `sample` ask for the same.
        """
        indices, copies = batch.sample_keys()
        ratio = batch.aspect.ratio
        drawn = (batch.epoch, shape, ratio, indices.tobytes(), copies.tobytes())
        if self._drawn[0] != drawn:
            picture, boxes = torch.empty(1).expand(1, *shape), []
            draw = self._random_resized
            if ratio != 1:  # as much wider or higher than the batch's images as it is than squares otherwise
                low, high = self.augment.ratio
                draw = v2.RandomResizedCrop(1, self.augment.scale, (low * ratio, high * ratio))
            for index, copy in zip(indices.tolist(), copies.tolist(), strict=True):
                with seeded(self.seed, batch.epoch, index, copy, Stream.RANDOM_RESIZED):
                    boxes.append(Box(**draw.make_params([picture])))
            self._drawn = drawn, boxes
        return self._drawn[1]

    def _need_of_boxes(self, shape: tuple[int, int], batch: Batch) -> float:
        """The `need` of crop = random-resized."""
        high, wide = batch.sides
        return min(1.0, max(max(high / box.height, wide / box.width) for box in self._boxes(shape, batch)))

    def _operate(self, views: Views, batch: Batch) -> Views:
        """AutoAugment or its like and colour jitter of the views of a batch, (N, C, S, S) or PIL images."""
        for stream, operation in self._pixel_ops:
            views = self._one_by_one(operation, stream, views, batch)
        return views

    def _one_by_one(self, operation: Operation, stream: Stream, views: Views, batch: Batch) -> Views:
        """Apply a library transform, which draws from torch's generator, to each view of a batch."""
        done = []
        for view, index, copy in zip(views, *batch.sample_keys(), strict=True):
            with seeded(self.seed, batch.epoch, index, copy, stream):
                done.append(operation(view))
        return torch.stack(done) if isinstance(views, Tensor) else done


def _check(preprocessing: Preprocessing, augment: AugmentSettings) -> None:
    assert not is_scheduled(augment), "to be settled with `augment_at`: see `scheduled.train_transform`"
    assert augment.crop != "auto", "to be settled with `resolve_augment`"
    assert augment.flip >= 0, "to be settled with `resolve_augment`"
    for name in ("scale", "ratio", "rescale"):
        low, high = getattr(augment, name)
        if not 0 < low <= high:
            raise UserError(f"augment.{name} is [{low}, {high}]; expected two positive numbers, the smaller first")
    if augment.scale[1] > 1:
        raise UserError(f"augment.scale is {list(augment.scale)}; expected shares of the image's area, at most 1")
    if augment.rescale_interpolation and augment.crop != "rescale":
        raise UserError(
            f"augment.rescale_interpolation is {augment.rescale_interpolation}, and augment.crop {augment.crop}, which "
            "does not use it; set data.interpolation instead"
        )
    for name, policy in (("magnitude", "randaugment"), ("severity", "augmix")):
        value = getattr(augment, name)
        if value != getattr(AugmentSettings(), name) and augment.autoaugment != policy:
            raise UserError(
                f"augment.{name} is {value}, but augment.autoaugment is {augment.autoaugment!r}, which has none; "
                f"remove it, or choose {policy}"
            )
    if augment.padding_mode != "black" and augment.crop != "pad":
        raise UserError(
            f"augment.padding_mode is {augment.padding_mode}, and augment.crop {augment.crop}, which pads nothing by "
            "it; remove it, or set crop to pad"
        )
    if augment.padding_mode == "reflect" and augment.padding >= preprocessing.image_size:
        raise UserError(
            f"augment.padding is {augment.padding} and augment.padding_mode reflect, but images of "
            f"{preprocessing.image_size} px have no more than {preprocessing.image_size - 1} pixels to mirror; lower it"
        )
    if augment.flip_alternates and augment.flip in (0, 1):
        raise UserError(
            f"augment.flip_alternates is set and augment.flip {augment.flip:g}, so that all images are mirrored in the "
            "same epochs; set flip to a share between 0 and 1, such as 0.5"
        )
    on_tensors = {"augmix"} if augment.backend == "pil" else {"randaugment", "trivialaugment", "augmix"}
    if augment.autoaugment in on_tensors and preprocessing.interpolation not in ("nearest", "bilinear"):
        or_pil = "" if augment.autoaugment == "augmix" else ", or augment.backend to pil"
        raise UserError(
            f"augment.autoaugment is {augment.autoaugment!r}, which turns tensors by nearest or bilinear "
            f"interpolation, not {preprocessing.interpolation}; set data.interpolation to one of these{or_pil}"
        )
    if augment.lighting and preprocessing.channels != 3:
        raise UserError(
            f"augment.lighting is {augment.lighting}, but the images have {preprocessing.channels} channel; its noise "
            "is defined for RGB: set it to 0"
        )


class _AugMix(v2.AugMix):  # type: ignore[misc]  # torchvision has no types
    """torchvision's AugMix, which draws its weights where the image lies: only the CPU's generator is seeded."""

    def _sample_dirichlet(self, params: Tensor) -> Tensor:
        weights: Tensor = super()._sample_dirichlet(params.cpu()).to(params.device)
        return weights


def _policy(augment: AugmentSettings, interpolation: str) -> Operation:
    """The transform that `augment.autoaugment` names.

    What torchvision's reference training calls it with: AutoAugment alone is that of its authors, by nearest pixels.
    """
    mode = v2.InterpolationMode(interpolation)
    operation: Operation
    match augment.autoaugment:
        case "randaugment":
            operation = v2.RandAugment(magnitude=augment.magnitude, interpolation=mode)
        case "trivialaugment":
            operation = v2.TrivialAugmentWide(interpolation=mode)
        case "augmix":
            operation = _AugMix(severity=augment.severity, interpolation=mode)
        case policy:
            operation = v2.AutoAugment(v2.AutoAugmentPolicy(policy), fill=_GREY)
    return operation


def _pixel_ops(augment: AugmentSettings, interpolation: str) -> list[tuple[Stream, Operation]]:
    """The library transforms that work on one image of uint8, each with its stream of random numbers."""
    operations: list[tuple[Stream, Operation]] = []
    if augment.autoaugment:
        operations.append((Stream.AUTOAUGMENT, _policy(augment, interpolation)))
    if strength := augment.color_jitter:  # of brightness, contrast and saturation
        operations.append((Stream.COLOR_JITTER, v2.ColorJitter(strength, strength, strength)))
    return operations
