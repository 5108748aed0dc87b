"""ImageNet (ILSVRC 2012) as folders."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets, data_root
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import FileSource


@DATASETS.register("imagenet")
class ImageNet(DataSet):
    """ImageNet (ILSVRC 2012): 1,281,167 + 50,000 colour images in train/CLASS and val/CLASS, 1,000 classes."""

    defaults = DatasetInfo(224, num_classes=1000, train_images=1_281_167, validation_images=50_000)

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "FileSource":
        """List the files of a split; decodes none."""
        from anysize.data.formats.folders import list_images

        return list_images(data_root(settings, "train/CLASS/IMAGE and val/CLASS/IMAGE"), settings, split)
