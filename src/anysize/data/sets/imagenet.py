"""ImageNet (ILSVRC 2012) as folders."""

from anysize.data.dataset import DATASETS, DatasetInfo
from anysize.data.sets.folder import Folder
from anysize.data.settings import DataSettings


@DATASETS.register("imagenet")
class ImageNet(Folder):
    """ImageNet (ILSVRC 2012): 1,281,167 + 50,000 colour images in train/CLASS and val/CLASS, 1,000 classes."""

    defaults = DatasetInfo(224, num_classes=1000, train_images=1_281_167, validation_images=50_000)
    expected = "train/CLASS/IMAGE and val/CLASS/IMAGE"

    def info(self, settings: DataSettings) -> DatasetInfo:
        """The defaults; no file is read."""
        return self.defaults
