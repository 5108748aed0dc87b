"""ImageNet (ILSVRC 2012) as folders, or as downloaded."""

from anysize.data.dataset import DATASETS, DatasetInfo
from anysize.data.sets.folder import Folder
from anysize.data.settings import DataSettings


@DATASETS.register("imagenet")
class ImageNet(Folder):
    """ImageNet (ILSVRC 2012): 1,281,167 + 50,000 colour images, 1,000 classes, in folders or tars.

    Root holds train/CLASS and val/CLASS, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as downloaded: they
    are not unpacked. The validation images of the latter, and those of a `val` folder without class folders, get their
    classes from ILSVRC2012_devkit_t12.tar.gz (or the unpacked folder) in root, which needs the extra `imagenet`.
    """

    defaults = DatasetInfo(224, num_classes=1000, train_images=1_281_167, validation_images=50_000)
    expected = (
        "train/CLASS/IMAGE and val/CLASS/IMAGE, or ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz"
    )

    def info(self, settings: DataSettings) -> DatasetInfo:
        """The defaults; no file is read."""
        return self.defaults
