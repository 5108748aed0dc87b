"""CIFAR-100 (Krizhevsky, 2009)."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource


@DATASETS.register("cifar100")
class Cifar100(DataSet):
    """CIFAR-100: 50,000 + 10,000 colour images, 32 x 32, 100 classes."""

    # Normalised by ImageNet's mean and std, as in the code of Mix & Match.
    defaults = DatasetInfo(
        32, resize="stretch", crop="pad", num_classes=100, train_images=50_000, validation_images=10_000
    )

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "ArraySource":
        """Read torchvision's folder `cifar-100-python` in root."""
        from anysize.data.formats.torchvision_sets import load_torchvision

        return load_torchvision(settings, split, "CIFAR100", "cifar-100-python", {"train": split == "train"})
