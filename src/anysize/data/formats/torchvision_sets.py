"""The data sets that torchvision knows, as arrays in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anysize.data.dataset import Split, data_root
from anysize.data.formats.idx import read_idx_pair
from anysize.data.settings import DataSettings
from anysize.data.source import ArraySource
from anysize.registry import UserError


def load_idx(settings: DataSettings, split: Split, torchvision_name: str, classes: Sequence[str]) -> ArraySource:
    """MNIST or Fashion-MNIST from IDX files in root or in torchvision's layout; downloaded when asked for.

    Raises:
        UserError: the files are not there.
    """
    expected = (
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same of t10k (here or in "
        f"{torchvision_name}/raw)"
    )
    root = data_root(settings, expected, downloadable=True)
    pair = read_idx_pair(root, split, f"{torchvision_name}/raw")
    if pair is None and settings.download:
        _torchvision(settings, torchvision_name, root, train=split == "train")
        pair = read_idx_pair(root, split, f"{torchvision_name}/raw")
    if pair is None:
        raise UserError(
            f"{root} does not hold {settings.name!r}; expected {expected} in it; --data.download true fetches them"
        )
    images, labels = pair
    pixels = torch.from_numpy(images.copy()).unsqueeze(3)  # (N, H, W, 1)
    return ArraySource(pixels, labels.astype(np.int64), tuple(classes), f"{settings.name} {split}")


def load_torchvision(
    settings: DataSettings, split: Split, name: str, folder: str, which: dict[str, Any]
) -> ArraySource:
    """A torchvision data set that holds its images in memory; torchvision checks the files' published checksums.

    `which` are the arguments that choose the split.

    Raises:
        UserError: the files are not there, or their checksums differ.
    """
    root = data_root(settings, f"torchvision's folder {folder}", downloadable=True)
    dataset = _torchvision(settings, name, root, **which)
    # STL-10 is stored (N, C, H, W), the others (N, H, W, C).
    images = dataset.data if dataset.data.shape[3] == 3 else dataset.data.transpose(0, 2, 3, 1)
    targets = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return ArraySource(
        torch.from_numpy(np.ascontiguousarray(images)),
        np.asarray(targets, dtype=np.int64),
        tuple(dataset.classes),
        f"{settings.name} {split}",
    )


def _torchvision(settings: DataSettings, name: str, root: object, **arguments: Any) -> Any:
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, name)(root, download=settings.download, **arguments)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        if settings.download:
            raise UserError(f"downloading {settings.name!r} into {root} failed: {error}") from error
        raise UserError(
            f"{root} does not hold {settings.name!r} as torchvision stores it, or its files are damaged ({error}); "
            "--data.download true fetches it"
        ) from error
