"""STL-10 (Coates et al., 2011), its labelled images."""

from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource


@DATASETS.register("stl10")
class Stl10(DataSet):
    """STL-10: 5,000 + 8,000 labelled colour images, 96 x 96, 10 classes (validation is its test set)."""

    defaults = DatasetInfo(
        96, resize="stretch", crop="pad", num_classes=10, train_images=5_000, validation_images=8_000
    )

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "ArraySource":
        """Read torchvision's folder `stl10_binary` in root."""
        from anysize.data.formats.torchvision_sets import load_torchvision

        which = {"split": "train" if split == "train" else "test"}
        return load_torchvision(settings, split, "STL10", "stl10_binary", which)
