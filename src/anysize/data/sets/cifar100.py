"""CIFAR-100 (Krizhevsky, 2009)."""

import dataclasses

from anysize.data.dataset import DATASETS
from anysize.data.formats.torchvision_sets import TorchvisionSet
from anysize.data.sets.cifar10 import Cifar10


@DATASETS.register("cifar100")
class Cifar100(TorchvisionSet):
    """CIFAR-100: 50,000 + 10,000 colour images, 32 x 32, 100 classes."""

    defaults = dataclasses.replace(Cifar10.defaults, num_classes=100)
    torchvision_name = "CIFAR100"
    folder = "cifar-100-python"
