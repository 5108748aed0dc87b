"""Your own images: a folder a class."""

from typing import TYPE_CHECKING, ClassVar

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, data_root
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import FileSource

_SMALL = 96  # pixels


@DATASETS.register("folder")
class Folder(DataSet):
    """Your own images as train/CLASS/IMAGE and validation/CLASS/IMAGE, or as CLASS/IMAGE alone.

    Splits have the usual names, in any case: train or training; validation, val, valid or dev; test or testing. The
    test images are taken for validation where there are no others and `data.val_split` is not set; otherwise they are
    for `anysize evaluate RUN --split test`. With `data.val_split` a fixed part of each training class is held out.

    Each split may be a tar archive (train.tar, val.tar), or root one that holds the folders; nothing is unpacked.

    Any image that PIL decodes is converted to RGB; images may lie deeper below the class's folder. Hidden files, what
    systems make, and other names of a file that is taken are left out and named. Without folders of splits, root holds
    the classes itself, and a tenth of each class, chosen by a fixed permutation of the sorted file names, becomes the
    validation split.

    Where the first image is a small square (up to 96 px), images are used as CIFAR's are: its size is the base size,
    random crop after padding, evaluated whole. Otherwise as ImageNet's: base 224, random resized crop, centre crop.
    """

    defaults = DatasetInfo(224)
    expected: ClassVar[str] = "train/CLASS/IMAGE and validation/CLASS/IMAGE (or val, or test), or CLASS/IMAGE"

    def info(self, settings: DataSettings) -> DatasetInfo:
        """Read the header of the first image, which tells small squares from photographs; without a root, defaults."""
        if not settings.root:
            return self.defaults
        from anysize.data.formats.folders import first_image_size

        height, width = first_image_size(data_root(settings, self.expected, archive=True), settings, self.expected)
        if width == height <= _SMALL:
            return DatasetInfo(width, resize="stretch", crop="pad")
        return self.defaults

    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "FileSource":
        """List the files of a split; decodes none."""
        from anysize.data.formats.folders import list_images

        return list_images(data_root(settings, self.expected, archive=True), settings, split, self.expected)

    def splits(self, settings: DataSettings) -> str:
        """Which folders were taken for which splits."""
        from anysize.data.formats.folders import folder_splits

        return folder_splits(data_root(settings, self.expected, archive=True), settings, self.expected).told(
            "each class"
        )
