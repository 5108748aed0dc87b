"""MNIST (LeCun et al., 1998)."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource


@DATASETS.register("mnist")
class Mnist(DataSet):
    """MNIST: 60,000 + 10,000 handwritten digits, grey, 28 x 28, 10 classes."""

    # Digits are not flipped: a mirrored digit is none, or another one.
    defaults = DatasetInfo(
        28, (0.5,), (0.5,), "stretch", "pad", 0.0, num_classes=10, train_images=60_000, validation_images=10_000
    )

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "ArraySource":
        """Read the IDX files in root (plain or gzipped) or in torchvision's folder `MNIST/raw`."""
        from anysize.data.formats.torchvision_sets import load_idx

        return load_idx(settings, split, "MNIST", tuple("0123456789"))
