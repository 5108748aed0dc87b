"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import dataclasses

from anysize.data.dataset import DATASETS, DatasetInfo
from anysize.data.formats.torchvision_sets import TorchvisionSet


@DATASETS.register("cifar10")
class Cifar10(TorchvisionSet):
    """CIFAR-10: 50,000 + 10,000 colour images, 32 x 32, 10 classes."""

    # Normalised by ImageNet's mean and std, as in the code of Mix & Match.
    defaults = DatasetInfo(
        32, resize="stretch", crop="pad", num_classes=10, train_images=50_000, validation_images=10_000
    )
    torchvision_name = "CIFAR10"
    folder = "cifar-10-batches-py"


@DATASETS.register("cifar100")
class Cifar100(TorchvisionSet):
    """CIFAR-100: 50,000 + 10,000 colour images, 32 x 32, 100 classes."""

    defaults = dataclasses.replace(Cifar10.defaults, num_classes=100)
    torchvision_name = "CIFAR100"
    folder = "cifar-100-python"
