"""A mask an image: targets are uint8 (H, W) of each image, the class of each pixel, 255 where there is none."""

import dataclasses

import numpy as np
from torch import Tensor

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.augment.scheduled import train_transform
from anysize.data.augment.transform import Transform
from anysize.data.dataset import DataSet, DatasetInfo
from anysize.data.doubts import Doubts, of_masks
from anysize.data.kinds.base import TARGET_KINDS, TargetKind
from anysize.data.loader import LoadedBatch
from anysize.data.pictures import BadImage
from anysize.data.settings import AugmentSettings
from anysize.data.source import VOID, Source
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

_FEW = 50  # images whose masks are all read before a training begins


@TARGET_KINDS.register("masks")
class Masks(TargetKind):
    """Each pixel has a class. It matters where an object lies, so that images keep their shapes."""

    in_words = "masks"
    one_shape = False
    evaluation_batch = 1  # outputs are as large as images

    def info(self, info: DatasetInfo, dataset: DataSet) -> DatasetInfo:
        """Images are padded and rescaled; a data set that counts its labels has the background besides."""
        if info.num_classes and "labels" in dataset.offers:
            info = dataclasses.replace(info, num_classes=info.num_classes + 1)
        return dataclasses.replace(info, image_size=info.mask_size or info.image_size, crop="rescale", resize="pad")

    def train_transform(self, preprocessing: Preprocessing, augment: AugmentSettings, seed: int) -> Transform:
        return train_transform(JointTrainTransform, preprocessing, augment, seed)

    def eval_transform(self, preprocessing: Preprocessing, crops: int, copies: int, own: bool = False) -> Transform:
        for key, value in (("crops", crops), ("copies", copies)):
            if value != 1:
                raise UserError(
                    f"evaluation.{key} is {value}, but the outputs for images with masks are not averaged over {key}; "
                    "expected 1: evaluation.scales and evaluation.flip average over scales and mirrored images"
                )
        return JointEvalTransform(preprocessing, own)

    def target_of(self, batch: LoadedBatch, row: int) -> Tensor:
        """The mask without its padding."""
        assert batch.shapes is not None
        height, width = batch.shapes[row]
        return batch.targets[row, :height, :width]

    def classes_in(self, target: np.ndarray, count: int) -> np.ndarray:
        return np.isin(np.arange(count), target[target != VOID])

    def amounts(self, target: np.ndarray, count: int) -> np.ndarray:
        return np.bincount(target[target != VOID], minlength=count)[:count].astype(np.float64)

    def mask_of(self, target: np.ndarray) -> np.ndarray | None:
        return target

    def doubts(self, source: Source, counts: np.ndarray, images: int) -> Doubts:
        cause = getattr(source.targets, "cause", None) if (counts > 0).sum() < 2 else None
        return of_masks(source.classes, counts, cause() if cause else "")

    def first_doubts(self, source: Source) -> Doubts:
        """What the first masks tell, in a fixed order: until there are two classes, of a few images all of them."""
        counts, damaged = np.zeros(len(source.classes), dtype=np.int64), 0
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            try:
                counts += self.classes_in(source.read(index)[1].numpy(), len(counts))
            except BadImage:  # which is said when it is its turn to be trained on
                damaged += 1
            if (counts > 0).all() or ((counts > 0).sum() > 1 and len(source) > _FEW):
                return Doubts()
        return Doubts() if damaged == len(source) else self.doubts(source, counts, len(source) - damaged)

    def unknown(self, images: int) -> "VoidMasks":
        return VoidMasks(images)


@dataclasses.dataclass
class VoidMasks:
    """Stands for the masks of images that have none: all pixels are void, so that images keep their shapes."""

    images: int

    def __len__(self) -> int:
        return self.images

    def files(self) -> list[str]:
        return []

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, VOID, np.uint8)

    def __getitem__(self, indices: np.ndarray) -> "VoidMasks":
        return VoidMasks(len(indices))
