"""MNIST (LeCun et al., 1998)."""

from anysize.data.dataset import DATASETS, DatasetInfo
from anysize.data.formats.torchvision_sets import IdxSet


@DATASETS.register("mnist")
class Mnist(IdxSet):
    """MNIST: 60,000 + 10,000 handwritten digits, grey, 28 x 28, 10 classes."""

    # Digits are not flipped: a mirrored digit is none, or another one.
    defaults = DatasetInfo(
        28, (0.5,), (0.5,), "stretch", "pad", 0.0, num_classes=10, train_images=60_000, validation_images=10_000
    )
    torchvision_name = "MNIST"
    classes = tuple("0123456789")
