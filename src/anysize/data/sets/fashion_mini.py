"""The embedded data set: Fashion-MNIST's first images of each class (MIT licence, see fashion_mini/NOTICE)."""

import importlib.resources
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split, Targets
from anysize.data.sets.fashion_mnist import CLASSES, MEAN, STD
from anysize.data.settings import DataSettings
from anysize.registry import UserError

if TYPE_CHECKING:
    from anysize.data.source import ArraySource

_SIDE = 28  # pixels


@DATASETS.register("fashion-mini")
class FashionMini(DataSet):
    """Embedded in the package: 10,000 + 2,000 images of Fashion-MNIST, grey, 28 x 28, 10 classes."""

    defaults = DatasetInfo(
        _SIDE, MEAN, STD, "stretch", "pad", num_classes=10, train_images=10_000, validation_images=2_000
    )

    def load(self, settings: DataSettings, split: Split, targets: Targets = "class") -> "ArraySource":
        """Read the mosaic of the split."""
        import numpy as np
        import torch
        from PIL import Image

        from anysize.data.source import ArraySource

        if settings.root or settings.download:
            raise UserError(
                "data set 'fashion-mini' is embedded in the package and takes no data.root and no data.download; set "
                "data.name to the data set that is meant"
            )
        folder = importlib.resources.files("anysize.data") / "fashion_mini"
        with (folder / f"{split}.png").open("rb") as file:
            mosaic = np.asarray(Image.open(file))  # (rows * 28, columns * 28)
        labels = np.frombuffer((folder / f"{split}-labels.bin").read_bytes(), np.uint8)
        tiles = mosaic.reshape(-1, _SIDE, mosaic.shape[1] // _SIDE, _SIDE).swapaxes(1, 2)
        images = torch.from_numpy(np.ascontiguousarray(tiles).reshape(-1, _SIDE, _SIDE, 1))
        return ArraySource(images, labels.astype(np.int64), CLASSES, f"fashion-mini {split}")
