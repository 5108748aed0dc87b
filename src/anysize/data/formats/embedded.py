"""The images in the package: Fashion-MNIST's first of each class (MIT licence, see fashion_mini/NOTICE)."""

import functools
import importlib.resources

import numpy as np
from PIL import Image

from anysize.data.dataset import Split
from anysize.data.settings import DataSettings
from anysize.registry import UserError

SIDE = 28  # pixels


@functools.cache  # each image is a few microseconds to copy, and the mosaic 0.1 s to decode
def read_embedded(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of a split, uint8, decoded once a process: to be read alone."""
    folder = importlib.resources.files("anysize.data") / "fashion_mini"
    with (folder / f"{split}.png").open("rb") as file:
        mosaic = np.asarray(Image.open(file))  # (rows * 28, columns * 28)
    labels = np.frombuffer((folder / f"{split}-labels.bin").read_bytes(), np.uint8)
    tiles = mosaic.reshape(-1, SIDE, mosaic.shape[1] // SIDE, SIDE).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE), labels


def refuse_folder(settings: DataSettings) -> None:
    """Raise a `UserError` for settings that say where a data set lies, of one that is embedded."""
    if settings.root or settings.download:
        raise UserError(
            f"data set {settings.name!r} is embedded in the package and takes no data.root and no data.download; set "
            "data.name to the data set that is meant"
        )
