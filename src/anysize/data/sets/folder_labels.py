"""Your own images with several labels each: a CSV file beside them."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, data_root
from anysize.data.settings import DataSettings
from anysize.registry import UserError

if TYPE_CHECKING:
    from anysize.data.source import FileSource

_EXPECTED = "train.csv and validation.csv (or val.csv, or test.csv), or labels.csv alone, beside the images"


@DATASETS.register("folder-labels")
class FolderLabels(DataSet):
    """Your own images with labels in train.csv and validation.csv, or in labels.csv alone.

    The first column is `image`, a path in root or in root/images. Either a second column `labels` lists the labels,
    separated by ';' if any line of the training file has one, or else by '|', or else by ',', or else by spaces; or
    there is a column a class with 0 or 1 (false or true). An image may have no label at all. Without train.csv a tenth
    of labels.csv, chosen by a fixed permutation of its lines, becomes the validation split. classes.txt in root says
    the order of the classes, a name a line; without it they are sorted. The files' names may be any usual ones, as for
    `folder`, and test.csv and `data.val_split` are used as there.

    Images are used as COCO's are: base 224, random resized crop, evaluated whole, stretched to a square.
    """

    defaults = DatasetInfo(224, resize="stretch")
    offers = ("labels",)

    def load(self, settings: DataSettings, split: Split, targets: str = "labels") -> "FileSource":
        """Read the split's file; decodes no image."""
        from anysize.data.formats.label_csv import load_folder_labels

        if settings.areas:
            raise UserError("data.areas is set, but labels in CSV files say nothing of areas of objects; remove it")
        return load_folder_labels(data_root(settings, _EXPECTED), settings, split, _EXPECTED)

    def splits(self, settings: DataSettings) -> str:
        """Which files were taken for which splits."""
        from anysize.data.formats.label_csv import csv_splits

        return csv_splits(data_root(settings, _EXPECTED), settings, _EXPECTED).told("the lines")
