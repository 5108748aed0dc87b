"""IDX files, the format that MNIST and Fashion-MNIST are published in, plain or gzipped."""

import contextlib
import gzip
import math
import zlib
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from anysize.files import open_regular
from anysize.registry import UserError

_MOST = 2**30  # bytes of a file, unpacked; EMNIST's largest has half of that
_IMAGES = {"train": "train-images-idx3-ubyte", "validation": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "validation": "t10k-labels-idx1-ubyte"}


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes: an array with as many dimensions as the file says.

    Raises a `UserError` for a damaged file and for any other format.
    """
    try:
        with open_regular(path) as file, _unpacked(file, path) as stream:
            head = stream.read(4)
            if head[:3] != b"\0\0\x08":
                raise ValueError(f"it begins with {head.hex(' ')}, expected 00 00 08")
            shape = np.frombuffer(stream.read(4 * head[3]), ">i4", count=head[3]).tolist()
            size = math.prod(shape)
            if min(shape, default=0) < 0 or size > _MOST:
                raise ValueError(f"it states {' x '.join(map(str, shape[:9]))} bytes, expected at most {_MOST:,}")
            data = stream.read(size + 1)  # what is packed beyond may have no end
            if len(data) != size:
                raise ValueError(f"it states {size:,} bytes, and has {'more' if data[size:] else f'{len(data):,}'}")
            return np.frombuffer(data, np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a readable IDX file ({reason}); download it again") from error


def _unpacked(file: BinaryIO, path: Path) -> contextlib.AbstractContextManager["IO[bytes] | gzip.GzipFile"]:
    return gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else contextlib.nullcontext(file)


def read_idx_pair(
    root: Path, split: str, subfolder: str = "", classes: int = 10
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (N, H, W) and labels (N,) of a split ("train" or "validation"), uint8; None when the files are not there.

    Raises a `UserError` for files that do not fit together, or have more than so many classes.

    They are looked for in `root` and in `root/subfolder` (where torchvision puts them), with and without `.gz`.
    """
    folders, files = (root / subfolder, root), (_IMAGES[split], _LABELS[split])
    places = [[folder / f"{file}{end}" for folder in folders for end in ("", ".gz")] for file in files]
    images, labels = (next((path for path in paths if path.exists() and not path.is_dir()), None) for paths in places)
    return _checked(images, labels, classes) if images and labels else None


def _checked(image_file: Path, label_file: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, which have to fit together."""
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or not images.size or labels.shape != images.shape[:1]:
        raise UserError(
            f"{image_file} has values of shape {images.shape}, and {label_file} of shape {labels.shape}; expected (N, "
            "height, width) and (N,)"
        )
    if labels.max() >= classes:
        raise UserError(f"{label_file} has the label {labels.max()}; expected 0 to {classes - 1}")
    return images, labels
