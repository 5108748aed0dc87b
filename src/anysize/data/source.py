"""Where images come from: an array in memory or files on disk, behind one protocol.

A source hands out undamaged uint8 images as they are stored; sizes and augmentation come later.
"""

import logging
import os
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from anysize.data.decode import BadImage, decode_rgb
from anysize.registry import UserError

logger = logging.getLogger(__name__)


VOID = 255
"""In a mask: a pixel that is neither learned nor counted."""


class Masks(Protocol):
    """A mask an image, read when it is asked for."""

    def read(self, index: int) -> np.ndarray:
        """Class numbers, uint8 (H, W), 255 where there is none. Raises `BadImage`."""

    def describe(self, index: int) -> str:
        """The file it is read from."""

    def subset(self, indices: np.ndarray) -> Self:
        """The masks of the images `indices` (int64), in that order."""


class Source(Protocol):
    """Images with targets.

    `targets` has a row an image: class indices (N,) int64; or labels (N, R, classes) uint8, 1 where an image holds an
    object of the class, in R = 3 rows of small, medium and large objects, or in one row where sizes are not known; or
    nothing, (N, 0), where targets are masks. `bad_files` names the files that were left out because they could not be
    decoded, with the decoder's message.
    """

    name: str
    targets: np.ndarray
    classes: tuple[str, ...]
    bad_files: dict[str, str]

    def __len__(self) -> int: ...

    @property
    def dense(self) -> bool:
        """Whether each image has a mask, which says what each pixel is."""

    def mask(self, index: int) -> Tensor:
        """The mask of an image, uint8 (H, W): class numbers, 255 where there is none. Raises `BadImage`."""

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
        masks: class numbers, uint8 (N, H, W).

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
        masks: Tensor | None = None,
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
        self.masks = masks

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def dense(self) -> bool:
        """Whether there are masks."""
        return self.masks is not None

    def mask(self, index: int) -> Tensor:
        """The mask, uint8 (H, W)."""
        assert self.masks is not None
        return self.masks[index]

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
            None if self.masks is None else self.masks[torch.from_numpy(indices)],
        )


class FileSource:
    """Image files, decoded when asked for and converted to RGB.

    Args:
        paths: one file an image.
        targets, classes, name: as for `ArraySource`.
        on_bad_image: "error" or "skip": what those who load from this source do about a damaged file.
        masks: a mask an image, where these are the targets.
    """

    channels = 3

    def __init__(
        self,
        paths: Sequence[str],
        targets: np.ndarray,
        classes: tuple[str, ...],
        name: str,
        on_bad_image: str = "error",
        masks: Masks | None = None,
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
        self.masks = masks

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def dense(self) -> bool:
        """Whether there are masks."""
        return self.masks is not None

    def mask(self, index: int) -> Tensor:
        """Read the mask: uint8 (H, W)."""
        assert self.masks is not None
        return torch.from_numpy(self.masks.read(index))

    def image(self, index: int) -> Tensor:
        """Decode the file: uint8 (3, H, W), channels last in memory."""
        return torch.from_numpy(decode_rgb(self.describe(index))).permute(2, 0, 1)

    def describe(self, index: int) -> str:
        """The file's path."""
        return os.fsdecode(bytes(self._paths[index]))

    def subset(self, indices: np.ndarray) -> "FileSource":
        """The files `indices`, in that order."""
        paths = [self.describe(i) for i in indices]
        masks = None if self.masks is None else self.masks.subset(indices)
        subset = FileSource(paths, self.targets[indices], self.classes, self.name, self.on_bad_image, masks)
        subset.bad_files = self.bad_files
        return subset

    def report_bad(self, index: int, reason: str) -> None:
        """Note a damaged file, naming it once in the log; with the policy "error", raise a `UserError` instead."""
        path = self.describe(index)
        if self.on_bad_image == "error":
            raise UserError(
                f"{path} cannot be used: {reason}; mend or remove the file, or leave out damaged images with "
                "--data.on_bad_image skip"
            )
        if path not in self.bad_files:
            self.bad_files[path] = reason
            logger.warning("left out %s: %s", path, reason)


def read_with_mask(source: Source, index: int) -> tuple[Tensor, Tensor]:
    """An image (C, H, W) and its mask (H, W), both uint8. Raises `BadImage` where they differ in height or width."""
    image, mask = source.image(index), source.mask(index)
    check_sizes(source, index, tuple(image.shape[1:]), tuple(mask.shape))
    return image, mask


def check_sizes(source: Source, index: int, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raise `BadImage` where an image and its mask, each (height, width), differ."""
    if image != mask:
        masks = source.masks if isinstance(source, FileSource) else None
        file = f" {masks.describe(index)}" if masks else ""
        raise BadImage(
            f"its mask{file} has {mask[0]} x {mask[1]} pixels and the image {image[0]} x {image[1]} (height x width); "
            "expected the same"
        )


def first_of_each_class(targets: np.ndarray, limit: int) -> np.ndarray:
    """Indices (sorted) of the first `limit` images, spread evenly over the classes where each image has one class.

    >>> first_of_each_class(np.array([0, 0, 0, 0, 1, 1, 2]), limit=5).tolist()
    [0, 1, 4, 5, 6]
    """
    if targets.ndim > 1:
        return np.arange(min(limit, len(targets)))
    by_class = np.argsort(targets, kind="stable")
    _, starts, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(targets), dtype=np.int64)  # how many of its class come before an image
    rank[by_class] = np.arange(len(targets)) - np.repeat(starts, counts)
    return np.sort(np.lexsort((targets, rank))[:limit])
