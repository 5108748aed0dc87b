"""Sources of images: an array in memory or files on disk, behind one interface.

A source hands out undamaged uint8 images as they are stored; sizes and augmentation come later.
"""

import abc
import copy
import logging
import os
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from anysize.data.decode import Header, Need, decode_reduced, decode_rgb, decode_with_orientation, read_header
from anysize.data.left_out import LeftOut
from anysize.data.pictures import BadImage, read_picture
from anysize.data.settings import MAX_PIXELS
from anysize.ranks import main_process
from anysize.registry import UserError, printable

logger = logging.getLogger(__name__)

VOID = 255
"""In a mask: a pixel that is neither learned nor counted."""


def stamp_of(path: str) -> str:
    """What changes when a file does: its size and time of modification; empty where it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


class FileTargets(Protocol):
    """Targets that are read when an image is asked for, such as a mask an image."""

    def __len__(self) -> int: ...

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """The target of an image of this height and width. Raises `BadImage`, also where it does not fit the image."""

    def files(self) -> list[str]:
        """The files that the targets are read from."""

    def __getitem__(self, indices: np.ndarray) -> Self:
        """The targets of the images `indices` (int64), in that order."""


class Source(abc.ABC):
    """Images with targets.

    Args:
        targets: a row an image, such as class indices (N,) int64; labels (N, R, classes) uint8, 1 where an image holds
            an object of the class, in R = 3 rows of small, medium and large objects, or in one row where sizes are not
            known; masks (N, H, W) uint8, class numbers and 255. Or an object that reads each target from a file.
        classes: their names.
        name: such as "cifar10 train".
        bad_files: files that were left out, with the reason.

    `left_out` counts and names what is beside the images and was not taken. `channels` is 1 (grey) or 3 (RGB).
    """

    channels: int
    empty: tuple[str, ...] = ()
    """Class folders without an image, which are refused but by those who look at all images."""

    def __init__(
        self,
        targets: np.ndarray | FileTargets,
        classes: tuple[str, ...],
        name: str,
        bad_files: dict[str, str] | None = None,
    ) -> None:
        self.targets = targets
        self.classes = classes
        self.name = name
        self.bad_files = {} if bad_files is None else bad_files
        self.left_out = LeftOut()

    def __len__(self) -> int:
        return len(self.targets)

    @abc.abstractmethod
    def image(self, index: int) -> Tensor:
        """The image as stored, uint8 (C, H, W). Raises `BadImage` for a damaged file."""

    def header(self, index: int) -> Header:
        """Height and width of the image in full, and whether it has no colour. Raises `BadImage`."""
        channels, height, width = self.image(index).shape
        return Header(height, width, channels == 1)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the image in full. Raises `BadImage`."""
        return self.header(index).shape

    def shapes(self) -> np.ndarray | None:
        """Height and width of all images in full, int64 (N, 2), where no file has to be opened for them."""
        return None

    def target(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """The target of an image, which has this height and width. Raises `BadImage` for a damaged file."""
        targets = self.targets
        return torch.as_tensor(targets[index] if isinstance(targets, np.ndarray) else targets.read(index, shape))

    def read(self, index: int, need: Need | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """An image, its target, and the image's height and width in full, which are those of the target.

        Without `need` the image is handed over in full. Raises `BadImage`, also where the two do not fit together.
        """
        image, stored = self.image_for(index, need)
        return image, self.target(index, stored), stored

    def image_for(self, index: int, need: Need | None) -> tuple[Tensor, tuple[int, int]]:
        """An image, uint8 (C, h, w), and its height and width in full, of which h and w are the same share.

        A source that has images at smaller scales may choose any from `need(height, width)` to 1. By default 1.
        """
        image = self.image(index)
        return image, (image.shape[1], image.shape[2])

    forks: bool = True
    """Whether worker processes may be forked from this one; otherwise they are started anew."""

    def ahead(self, indices: Sequence[int], needs: Sequence[Need | None] | None = None) -> None:  # noqa: B027
        """Hear which images this thread reads next, and with which `needs`; by default nothing is done ahead."""

    def remedies(self) -> list[str]:
        """What makes reading these images faster, each a phrase that begins with a verb; by default nothing."""
        return []

    def chunks(self) -> tuple[int, ...]:
        """How many images lie together in each chunk, in their order; by default they lie in none."""
        return ()

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """The file's path, or the image's number in its data set."""

    @abc.abstractmethod
    def subset(self, indices: np.ndarray) -> Self:
        """The images `indices` (int64), in that order."""


class ArraySource(Source):
    """Images of one size held in memory.

    Args:
        images: uint8 (N, H, W, C).
        targets, classes, name, bad_files: as for `Source`; targets are an array.
        origins: what `describe` says of each image: its path, or its number in the data set (default).

    >>> source = ArraySource(torch.zeros(4, 28, 28, 1, dtype=torch.uint8), np.arange(4), tuple("abcd"), "shapes train")
    >>> source.image(2).shape, source.describe(2)
    (torch.Size([1, 28, 28]), 'shapes train image 2')
    """

    targets: np.ndarray

    def __init__(
        self,
        images: Tensor,
        targets: np.ndarray,
        classes: tuple[str, ...],
        name: str,
        origins: Sequence[str] | np.ndarray | None = None,
        bad_files: dict[str, str] | None = None,
    ) -> None:
        assert (images.dtype, images.ndim, len(images)) == (torch.uint8, 4, len(targets))
        super().__init__(np.asarray(targets), classes, name, bad_files)
        self.images = images
        self.channels = int(images.shape[3])
        self.origins = np.arange(len(targets)) if origins is None else np.asarray(origins)

    def image(self, index: int) -> Tensor:
        return self.images[index].permute(2, 0, 1)

    def shapes(self) -> np.ndarray:
        return np.tile(np.array(self.images.shape[1:3], np.int64), (len(self), 1))

    def describe(self, index: int) -> str:
        origin = self.origins[index]
        return str(origin) if isinstance(origin, str) else f"{self.name} image {origin}"

    def subset(self, indices: np.ndarray) -> "ArraySource":
        images, targets = self.images[torch.from_numpy(indices)], self.targets[indices]
        subset = ArraySource(images, targets, self.classes, self.name, self.origins[indices], self.bad_files)
        subset.left_out = self.left_out
        return subset


_EXIF_HINTS = {
    False: "the image carries an EXIF rotation, and its mask is as viewers show it; set data.exif to true",
    True: "the image carries an EXIF rotation, and its mask is as the image is stored; set data.exif to false",
}


class FileSource(Source):
    """Image files, decoded when asked for and converted to RGB.

    Args:
        paths: one file an image; or their names as an array of bytes.
        targets, classes, name, bad_files: as for `Source`.
        on_bad_image: "error": a damaged file stops whoever loads from this source; "skip": it is left out.
        exif: turn images as their EXIF data say.
        max_pixels: an image of more is not decoded.
        scaled: decode JPEGs at 1/2, 1/4 or 1/8 where `read` is told that this is enough.
    """

    channels = 3
    own_files = True
    """Whether each image is a file by itself, and not a part of a larger one."""

    def __init__(
        self,
        paths: Sequence[str] | np.ndarray,
        targets: np.ndarray | FileTargets,
        classes: tuple[str, ...],
        name: str,
        on_bad_image: str = "error",
        bad_files: dict[str, str] | None = None,
        exif: bool = False,
        max_pixels: int = MAX_PIXELS,
        scaled: bool = False,
    ) -> None:
        assert len(paths) == len(targets)
        super().__init__(targets, classes, name, bad_files)
        # One bytes array instead of a list of strings: touching a million Python objects in forked workers would
        # copy their memory page by page.
        self._paths = paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        self.on_bad_image = on_bad_image
        self.exif = exif
        self.max_pixels = max_pixels
        self.scaled = scaled

    def stamp(self, index: int) -> str:
        """What changes when the file does, to remember what was found out about it; empty: nothing tells it."""
        return stamp_of(self.describe(index))

    def sizes(self) -> list[int] | None:
        """Bytes of each file where they are known without asking for them; None: they are not."""
        return None

    def content(self) -> tuple[bytes, int] | None:
        """What decides which images these are, and the bytes of all files, where both are known; None: they are not."""
        return None

    def data(self, index: int) -> bytes:
        """The bytes of the file. Raises `BadImage`."""
        return read_picture(self.describe(index), self.max_pixels)

    def decode(self, index: int) -> np.ndarray:
        """Decode the file: uint8 (H, W, 3). Raises `BadImage`."""
        return decode_rgb(self.data(index), self.exif, self.max_pixels)

    def header(self, index: int) -> Header:
        """As above; no more than the header of the file is decoded."""
        return read_header(self.describe(index) if self.own_files else self.data(index), self.exif, self.max_pixels)

    def image(self, index: int) -> Tensor:
        """Decode the file: uint8 (3, H, W), channels last in memory."""
        return torch.from_numpy(self.decode(index)).permute(2, 0, 1)

    def image_for(self, index: int, need: Need | None) -> tuple[Tensor, tuple[int, int]]:
        if need is None or not self.scaled:
            return super().image_for(index, None)
        pixels, stored = decode_reduced(self.data(index), need, self.exif, self.max_pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1), stored

    def target(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """The target of an image; where it would fit the image on its side, as EXIF has it, the error says so."""
        try:
            return super().target(index, shape)
        except BadImage as error:
            if decode_with_orientation(self.data(index), self.max_pixels)[1] < 5:
                raise
            try:
                super().target(index, shape[::-1])
            except BadImage:
                raise error from None
            raise BadImage(f"{error}; {_EXIF_HINTS[self.exif]}") from error

    def remedies(self) -> list[str]:
        scaled = [] if self.scaled else ["set data.decode to scaled"]
        return [*scaled, "pack the images at several sizes (anysize data pack)"]

    def describe(self, index: int) -> str:
        return os.fsdecode(bytes(self._paths[index]))

    def subset(self, indices: np.ndarray) -> "FileSource":
        subset = copy.copy(self)
        subset._paths, subset.targets = self._paths[indices], self.targets[indices]
        return subset

    def report_bad(self, index: int, reason: str, *, to_all: bool = False) -> None:
        """Note a damaged file, naming it once in the log; with the policy "error", raise a `UserError` instead.

        `to_all`: all processes of the run meet it, so that the main one alone says it.
        """
        path = self.describe(index)
        if self.on_bad_image == "error":
            raise UserError(
                f"{path} cannot be used: {reason}; mend or remove the file, or leave such files out with "
                "--data.on_bad_image skip"
            )
        if path not in self.bad_files:
            self.bad_files[path] = reason
            if main_process() or not to_all:
                logger.warning("%s", printable(f"left out {path}: {reason}"))
