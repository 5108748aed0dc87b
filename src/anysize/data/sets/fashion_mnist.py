"""Fashion-MNIST (Xiao et al., arXiv 1708.07747)."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MEAN, STD = (0.2860,), (0.3530,)  # of the training set


@DATASETS.register("fashion-mnist")
class FashionMnist(DataSet):
    """Fashion-MNIST: 60,000 + 10,000 grey images, 28 x 28, 10 classes."""

    defaults = DatasetInfo(
        28, MEAN, STD, "stretch", "pad", num_classes=10, train_images=60_000, validation_images=10_000
    )

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "ArraySource":
        """Read the IDX files in root (plain or gzipped) or in torchvision's folder `FashionMNIST/raw`."""
        from anysize.data.formats.torchvision_sets import load_idx

        return load_idx(settings, split, "FashionMNIST", CLASSES)
