"""STL-10 (Coates et al., 2011), its labelled images."""

from anysize.data.dataset import DATASETS, DatasetInfo, Split
from anysize.data.formats.torchvision_sets import TorchvisionSet


@DATASETS.register("stl10")
class Stl10(TorchvisionSet):
    """STL-10: 5,000 + 8,000 labelled colour images, 96 x 96, 10 classes (validation is its test set)."""

    defaults = DatasetInfo(
        96, resize="stretch", crop="pad", num_classes=10, train_images=5_000, validation_images=8_000
    )
    torchvision_name = "STL10"
    folder = "stl10_binary"

    def which(self, split: Split) -> dict[str, str]:
        """Choose the labelled images of the split."""
        return {"split": "train" if split == "train" else "test"}
