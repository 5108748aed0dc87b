"""IDX files, the format that MNIST and Fashion-MNIST are published in, plain or gzipped."""

import gzip
from pathlib import Path

import numpy as np

from anysize.registry import UserError

_IMAGES = {"train": "train-images-idx3-ubyte", "validation": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "validation": "t10k-labels-idx1-ubyte"}


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes: an array with as many dimensions as the file says.

    Raises a `UserError` for a damaged file and for any other format.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"it begins with {data[:4].hex(' ')}, expected 00 00 08")
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a readable IDX file ({error}); download it again") from error


def read_idx_pair(root: Path, split: str, subfolder: str = "") -> tuple[np.ndarray, np.ndarray] | None:
    """Images (N, H, W) and labels (N,) of a split ("train" or "validation"), uint8; None when the files are not there.

    They are looked for in `root` and in `root/subfolder` (where torchvision puts them), with and without `.gz`.
    """
    folders, files = (root / subfolder, root), (_IMAGES[split], _LABELS[split])
    places = [[folder / f"{file}{end}" for folder in folders for end in ("", ".gz")] for file in files]
    images, labels = (next((path for path in paths if path.is_file()), None) for paths in places)
    return (read_idx(images), read_idx(labels)) if images and labels else None
