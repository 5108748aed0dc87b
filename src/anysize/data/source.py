"""Where images come from: an array in memory or files on disk, behind one protocol.

A source hands out undamaged uint8 images as they are stored; sizes and augmentation come later.
"""

import functools
import io
import logging
import os
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from anysize.registry import UserError

try:
    import simplejpeg
except ImportError:  # the extra `jpeg`; PIL gives the same pixels, somewhat slower
    simplejpeg = None

logger = logging.getLogger(__name__)


class BadImage(Exception):
    """An image that cannot be decoded; the message is the decoder's."""


class Source(Protocol):
    """Images with targets.

    `targets` has a row an image: class indices (N,) for classification. `bad_files` names the files that were left
    out because they could not be decoded, with the decoder's message.
    """

    name: str
    targets: np.ndarray
    classes: tuple[str, ...]
    bad_files: dict[str, str]

    def __len__(self) -> int: ...

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""

    def image(self, index: int) -> Tensor:
        """The image as stored, uint8 (C, H, W). Raises `BadImage` for a damaged file."""

    def describe(self, index: int) -> str:
        """The file's path, or the image's number in its data set."""

    def subset(self, indices: np.ndarray) -> Self:
        """The images `indices` (int64), in that order."""


class ArraySource:
    """Images of one size held in memory.

    Args:
        images: uint8 (N, H, W, C).
        targets: int64 (N,), or a row an image.
        classes: their names.
        name: such as "cifar10 train".
        origins: what `describe` says of each image: its path, or its number in the data set (default).
        bad_files: files that were left out, with the reason.

    >>> source = ArraySource(torch.zeros(4, 28, 28, 1, dtype=torch.uint8), np.arange(4), tuple("abcd"), "shapes train")
    >>> source.image(2).shape, source.describe(2)
    (torch.Size([1, 28, 28]), 'shapes train image 2')
    """

    def __init__(
        self,
        images: Tensor,
        targets: np.ndarray,
        classes: tuple[str, ...],
        name: str,
        origins: Sequence[str] | np.ndarray | None = None,
        bad_files: dict[str, str] | None = None,
    ) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        assert len(images) == len(targets)
        self.images = images
        self.targets = np.asarray(targets)
        self.classes = classes
        self.name = name
        self.origins = np.arange(len(targets)) if origins is None else np.asarray(origins)
        self.bad_files = bad_files or {}

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.images.shape[3])

    def image(self, index: int) -> Tensor:
        """The image, uint8 (C, H, W)."""
        return self.images[index].permute(2, 0, 1)

    def describe(self, index: int) -> str:
        """Which image this is, in a message."""
        origin = self.origins[index]
        return str(origin) if isinstance(origin, str) else f"{self.name} image {origin}"

    def subset(self, indices: np.ndarray) -> "ArraySource":
        """The images `indices`, in that order."""
        return ArraySource(
            self.images[torch.from_numpy(indices)],
            self.targets[indices],
            self.classes,
            self.name,
            self.origins[indices],
            self.bad_files,
        )


class FileSource:
    """Image files, decoded when asked for and converted to RGB.

    Args:
        paths: one file an image.
        targets, classes, name: as for `ArraySource`.
        on_bad_image: "error" or "skip": what those who load from this source do about a damaged file.
    """

    channels = 3

    def __init__(
        self,
        paths: Sequence[str],
        targets: np.ndarray,
        classes: tuple[str, ...],
        name: str,
        on_bad_image: str = "error",
    ) -> None:
        assert len(paths) == len(targets)
        # One bytes array instead of a list of strings: touching a million Python objects in forked workers would
        # copy their memory page by page.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self.targets = np.asarray(targets)
        self.classes = classes
        self.name = name
        self.on_bad_image = on_bad_image
        self.bad_files: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def image(self, index: int) -> Tensor:
        """Decode the file: uint8 (3, H, W), channels last in memory."""
        return torch.from_numpy(decode_rgb(self.describe(index))).permute(2, 0, 1)

    def describe(self, index: int) -> str:
        """The file's path."""
        return os.fsdecode(bytes(self._paths[index]))

    def subset(self, indices: np.ndarray) -> "FileSource":
        """The files `indices`, in that order."""
        paths = [self.describe(i) for i in indices]
        return FileSource(paths, self.targets[indices], self.classes, self.name, self.on_bad_image)

    def report_bad(self, index: int, reason: str) -> None:
        """Note a damaged file, naming it once in the log; with the policy "error", raise a `UserError` instead."""
        path = self.describe(index)
        if self.on_bad_image == "error":
            raise UserError(
                f"{path} cannot be decoded ({reason}); remove the file, or leave out damaged images with "
                "--data.on_bad_image skip"
            )
        if path not in self.bad_files:
            self.bad_files[path] = reason
            logger.warning("left out %s: it cannot be decoded (%s)", path, reason)


def decode_rgb(path: str) -> np.ndarray:
    """Decode an image file to RGB: uint8 (H, W, 3). EXIF rotation is not applied, as in torchvision's ImageFolder.

    JPEGs go through simplejpeg where it is installed; its pixels equal PIL's. Raises `BadImage`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image if image.mode == "RGB" else _to_rgb(image))
    except UnidentifiedImageError as error:
        raise BadImage("it is in no image format that PIL knows") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise BadImage(f"{type(error).__name__}: {error}".replace("\n", " ")) from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The pixels of a JPEG; None where PIL has to decide: no JPEG, CMYK (converted differently), or damaged."""
    if simplejpeg is None or data[:3] != b"\xff\xd8\xff":
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:
        pass
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    # A palette with transparency is defined for RGBA alone; PIL warns when it goes to RGB in one step.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def first_of_each_class(targets: np.ndarray, limit: int) -> np.ndarray:
    """Indices (sorted) of the first `limit` images, spread evenly over the classes.

    >>> first_of_each_class(np.array([0, 0, 0, 0, 1, 1, 2]), limit=5).tolist()
    [0, 1, 4, 5, 6]
    """
    by_class = np.argsort(targets, kind="stable")
    _, starts, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(targets), dtype=np.int64)  # how many of its class come before an image
    rank[by_class] = np.arange(len(targets)) - np.repeat(starts, counts)
    return np.sort(np.lexsort((targets, rank))[:limit])


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """Endings of the files that are taken for images, in lower case."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)
