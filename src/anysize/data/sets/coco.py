"""MS-COCO (Lin et al., 2014): several labels an image, and masks."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, data_root
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import FileSource

_EXPECTED = (
    "annotations/instances_train2017.json and instances_val2017.json, train2017/IMAGE and val2017/IMAGE (or 2014)"
)
_IMAGES = {"2014": (82_783, 40_504), "2017": (118_287, 5_000)}
_CLASSES = 80


@DATASETS.register("coco")
class Coco(DataSet):
    """MS-COCO 2017 or 2014, or your own files in its format: labels by object size, and masks, of 80 classes.

    Files: annotations/instances_{train,val}{2017,2014}.json, and images in train2017 or images/train2017 and the
    like. `data.image_set` is the year; by default the one whose files are there, 2017 where both are. Your own files
    may have other usual names of splits, such as instances_valid.json; instances_test.json is for `--split test`. Or
    each split has a folder that holds the images and _annotations.coco.json, as Roboflow writes them.

    All images are used, those without annotations too. Labels: an image holds a class in the row of small, medium or
    large objects by the area in the file (in one row where areas are missing), crowds included; evaluation sees whole
    images, stretched to a square, as in ELASTIC's protocol. Masks: painted from the segmentations (the extra `coco`),
    crowds are void.
    """

    # The number of classes depends on the file, and reading it takes half a minute the first time.
    defaults = DatasetInfo(224, resize="stretch", mask_size=513)
    offers = ("labels", "masks")
    image_sets = ("2017", "2014")

    def info(self, settings: DataSettings) -> DatasetInfo:
        """Add the numbers of classes and images of the published files, unless there is a root with files."""
        if settings.root:
            return self.defaults
        train, validation = _IMAGES.get(settings.image_set or "2017", (0, 0))
        classes = len(settings.categories) or _CLASSES
        return dataclasses.replace(self.defaults, num_classes=classes, train_images=train, validation_images=validation)

    def load(self, settings: DataSettings, split: Split, targets: str = "labels") -> "FileSource":
        """Read the split's annotation file, or its index from the last time; decodes no image."""
        from anysize.data.formats.coco.layout import load_coco

        root = data_root(settings, _EXPECTED)
        return load_coco(root, settings, split, targets, settings.areas or self.defaults.areas)

    def splits(self, settings: DataSettings) -> str:
        """Which files were taken for which splits."""
        from anysize.data.formats.coco.layout import coco_splits

        return coco_splits(data_root(settings, _EXPECTED), settings).told()
