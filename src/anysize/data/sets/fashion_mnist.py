"""Fashion-MNIST (Xiao et al., arXiv 1708.07747)."""

from anysize.data.dataset import DATASETS, DatasetInfo
from anysize.data.formats.torchvision_sets import IdxSet

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
