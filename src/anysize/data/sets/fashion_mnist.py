"""Fashion-MNIST (Xiao et al., arXiv 1708.07747), and its first images of each class, which the package holds."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split
from anysize.data.formats.torchvision_sets import IdxSet
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@DATASETS.register("fashion-mnist")
class FashionMnist(IdxSet):
    """Fashion-MNIST: 60,000 + 10,000 grey images, 28 x 28, 10 classes."""

    # Mean and standard deviation are those of the training set.
    defaults = DatasetInfo(
        28, (0.2860,), (0.3530,), "stretch", "pad", num_classes=10, train_images=60_000, validation_images=10_000
    )
    torchvision_name = "FashionMNIST"
    classes = CLASSES


@DATASETS.register("fashion-mini")
class FashionMini(DataSet):
    """Embedded in the package: 10,000 + 2,000 images of Fashion-MNIST, grey, 28 x 28, 10 classes."""

    published = True
    defaults = dataclasses.replace(FashionMnist.defaults, train_images=10_000, validation_images=2_000)

    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "ArraySource":
        """Read the mosaic of the split."""
        import numpy as np
        import torch

        from anysize.data.formats.embedded import read_embedded, refuse_folder
        from anysize.data.source import ArraySource

        refuse_folder(settings)
        images, labels = read_embedded(split)
        pixels = torch.from_numpy(images).unsqueeze(3)  # (N, 28, 28, 1)
        return ArraySource(pixels, labels.astype(np.int64), CLASSES, f"fashion-mini {split}")
