"""The embedded data set: Fashion-MNIST's first images of each class."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, Split
from anysize.data.sets.fashion_mnist import CLASSES, FashionMnist
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource


@DATASETS.register("fashion-mini")
class FashionMini(DataSet):
    """Embedded in the package: 10,000 + 2,000 images of Fashion-MNIST, grey, 28 x 28, 10 classes."""

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
