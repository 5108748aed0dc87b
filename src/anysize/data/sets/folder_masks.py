"""Your own images and masks: folders of pairs."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, data_root
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import FileSource

_EXPECTED = "train/images, train/masks, validation/images and validation/masks (or val, or test), or images and masks"


@DATASETS.register("folder-masks")
class FolderMasks(DataSet):
    """Your own images and masks as train/images/NAME.jpg and train/masks/NAME.png, and validation alike.

    A mask has its image's name, up to the ending; both may lie in folders below. It is a palette or grey PNG (or BMP,
    TIFF) whose values are class numbers, 0 for the background, 255 for what is not counted, unless `data.mask_values`
    says which values stand for the classes, such as 0,255. images/train and masks/train are taken, too, and splits may
    have any usual names, as for `folder`. Without folders of splits,
    root holds images and masks itself, and a tenth, chosen by a fixed permutation of the sorted names, becomes the
    validation split. classes.txt in root names the classes, a line each, the background first; without it they are
    numbered up to the largest number in the training masks, which are read for it.
    """

    defaults = DatasetInfo(512, resize="pad", crop="rescale")
    offers = ("masks",)
    mask_files = True

    def info(self, settings: DataSettings) -> DatasetInfo:
        """Base 512, or the longer side of the first image where that is smaller: reads its header where root is set."""
        if not settings.root:
            return self.defaults
        from anysize.data.formats.mask_pairs import first_longer_side

        side = first_longer_side(data_root(settings, _EXPECTED), settings, _EXPECTED)
        return dataclasses.replace(self.defaults, image_size=min(side, self.defaults.image_size))

    def load(self, settings: DataSettings, split: Split, targets: str = "masks") -> "FileSource":
        """List the pairs of a split; decodes no image, and no mask where classes.txt is there."""
        from anysize.data.formats.mask_pairs import load_folder_masks

        return load_folder_masks(data_root(settings, _EXPECTED), settings, split, _EXPECTED)

    def splits(self, settings: DataSettings) -> str:
        """Which folders were taken for which splits."""
        from anysize.data.formats.mask_pairs import mask_splits

        return mask_splits(data_root(settings, _EXPECTED), settings, _EXPECTED).told()
