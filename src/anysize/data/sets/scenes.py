"""Scenes composed of the embedded garments, for labels and masks (see `anysize.data.scenes.compose`)."""

import dataclasses
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, Split
from anysize.data.sets.fashion_mnist import CLASSES
from anysize.data.settings import DataSettings

if TYPE_CHECKING:
    from anysize.data.source import ArraySource

COUNTS: dict[Split, int] = {"train": 4000, "validation": 1000}


@DATASETS.register("scenes")
class Scenes(DataSet):
    """Embedded: 4,000 + 1,000 pictures composed of several garments each, 128 x 128, labels and masks, 10 classes."""

    published = True
    offers = ("labels", "masks")
    defaults = DatasetInfo(
        image_size=128,
        mean=(0.3077, 0.3099, 0.3090),  # of the training scenes
        std=(0.1613, 0.1619, 0.1605),
        resize="stretch",
        crop="pad",
        num_classes=10,
        train_images=COUNTS["train"],
        validation_images=COUNTS["validation"],
        areas=(16.0**2, 48.0**2),  # COCO's, with half the sides
    )

    def info(self, settings: DataSettings) -> DatasetInfo:
        """128 px; with `settings.categories` so many classes."""
        return dataclasses.replace(self.defaults, num_classes=len(settings.categories or CLASSES))

    def load(self, settings: DataSettings, split: Split, targets: str = "labels") -> "ArraySource":
        """Compose the scenes of a split: the first `settings.limit`, or all."""
        import numpy as np
        import torch

        from anysize.data.formats.embedded import refuse_folder
        from anysize.data.formats.file_lists import choose_classes
        from anysize.data.scenes.compose import compose_many
        from anysize.data.source import ArraySource

        refuse_folder(settings)
        classes = choose_classes(settings.categories or CLASSES, CLASSES, "data set 'scenes'")
        kept = [CLASSES.index(name) for name in classes]
        scenes = compose_many(split, min(settings.limit or COUNTS[split], COUNTS[split]))
        images = torch.from_numpy(scenes.images)
        if targets == "masks":
            renumbered = np.zeros(1 + len(CLASSES), np.uint8)
            renumbered[1 + np.array(kept)] = np.arange(1, 1 + len(kept))
            return ArraySource(images, renumbered[scenes.masks], ("background", *classes), f"scenes {split}")
        scene, label, area = scenes.objects.T
        labels = np.zeros((len(images), 3, len(CLASSES)), np.uint8)
        labels[scene, np.digitize(area, settings.areas or self.defaults.areas), label] = 1
        return ArraySource(images, labels[:, :, kept], classes, f"scenes {split}")
