"""PASCAL VOC (Everingham et al., 2010): semantic segmentation."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, data_root
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import FileSource

_EXPECTED = "VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation"
_TRAIN_IMAGES = {"": 1464, "train": 1464, "trainval": 2913, "train_aug": 10_582}  # of VOC 2012


@DATASETS.register("voc")
class Voc(DataSet):
    """PASCAL VOC 2012 (or another year): 1,464 + 1,449 colour images with masks, 20 classes and background.

    Root is the folder that holds VOCdevkit, VOCdevkit itself, or the folder of a year; of several years 2012 is taken.
    Images are JPEGImages/NAME.jpg, or with another ending. Masks are SegmentationClass/NAME.png, palette PNGs with 255
    along the borders of objects, which is not counted.

    `data.image_set` is the list of training images: train (usual), trainval, which holds the validation images too, or
    train_aug, the 10,582 images of the augmented training set: ImageSets/Segmentation/train_aug.txt (or trainaug.txt)
    with masks in SegmentationClassAug, or list/train_aug.txt with the paths of image and mask in each line. Validation
    is val always (your own may be valid.txt and the like), and test.txt is for `anysize evaluate RUN --split test`.
    Your own images in this layout may have other classes: classes.txt beside JPEGImages names them, a line each, the
    background first.
    """

    defaults = DatasetInfo(513, resize="pad", crop="rescale", num_classes=21, train_images=1464, validation_images=1449)
    offers = ("masks",)
    mask_files = True
    image_sets = ("train", "train_aug", "trainval")

    def info(self, settings: DataSettings) -> DatasetInfo:
        """Base 513; reads the lists where root is set, otherwise the numbers are those of VOC 2012."""
        info = dataclasses.replace(self.defaults, train_images=_TRAIN_IMAGES.get(settings.image_set, 0))
        if settings.root:
            from anysize.data.formats.voc_lists import class_names, count_images, find_year

            year = find_year(data_root(settings, _EXPECTED))
            train, validation = count_images(year, settings)
            classes = len(class_names(year)[0])
            info = dataclasses.replace(info, num_classes=classes, train_images=train, validation_images=validation)
        return dataclasses.replace(info, num_classes=1 + len(settings.categories)) if settings.categories else info

    def load(self, settings: DataSettings, split: Split, targets: str = "masks") -> "FileSource":
        """Read the split's list; decodes no image."""
        from anysize.data.formats.voc_lists import load_voc

        return load_voc(data_root(settings, _EXPECTED), settings, split)

    def splits(self, settings: DataSettings) -> str:
        """Which lists were taken for which splits."""
        from anysize.data.formats.voc_lists import find_year, voc_splits

        return voc_splits(find_year(data_root(settings, _EXPECTED)), settings).told("the lines")
