"""Looking at images one by one, in parallel: whether each can be used, its shape, its classes, and what it looks like.

Two images with one digest are the same file; two whose difference hashes have few different bits look alike. What was
found out about a file is remembered until the file changes.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from anysize.data.decode import decode_with_orientation, decoder
from anysize.data.kinds.base import TargetKind
from anysize.data.pictures import BadImage, TooLarge, check_pixels
from anysize.data.preload import decode_all
from anysize.data.remembered import Remembered
from anysize.data.source import FileSource, Source, stamp_of

VERSION = f"1 {PIL.__version__} {decoder()}"
"""Of what is remembered; another decoder may read other files."""


class Look(NamedTuple):
    """What a look at an image tells.

    `height` and `width` are as it is used, `orientation` is its EXIF data's, `digest` is of the bytes of its file,
    `alike` is its `difference_hash`, `classes` are the numbers of those that it has.
    """

    height: int
    width: int
    orientation: int
    digest: int
    alike: int
    classes: tuple[int, ...]


class _Found(NamedTuple):
    """What is remembered of a file; `fault` says why it cannot be decoded."""

    fault: str
    height: int
    width: int
    orientation: int
    digest: int
    alike: int


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits that say where an image (H, W, C), uint8, gets brighter from left to right, at 9 x 8 pixels.

    Images that were scaled, or compressed again, differ in few bits. Source: the dHash of the library imagehash.

    >>> ramp = np.arange(90, dtype=np.uint8).reshape(1, 90, 1).repeat(80, 0)
    >>> difference_hash(ramp) == 2**64 - 1, difference_hash(ramp[:, ::-1])
    (True, 0)
    """
    image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
    small = np.asarray(image.resize((9, 8), Image.Resampling.BOX).convert("L"))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def look_at(source: Source, kind: TargetKind, known: Remembered, about: str) -> Iterator[tuple[int, Look | BadImage]]:
    """Each image of a source in order, with what is seen of it and its target, or why it cannot be used.

    `about` holds all settings that change what is seen of a target that lies in a file.
    """
    files = source
    if not isinstance(files, FileSource):
        yield from ((index, _look_in_memory(source, kind, index)) for index in range(len(source)))
        return
    masks = [] if isinstance(files.targets, np.ndarray) else files.targets.files()

    def look(index: int) -> Look:
        found = _found(files, index, known)
        if found.fault:
            raise BadImage(found.fault)
        check_pixels(found.height, found.width, files.max_pixels)
        turned = files.exif and found.orientation >= 5
        height, width = (found.width, found.height) if turned else (found.height, found.width)
        name, stamp = f"{files.describe(index)}\0{about}", ""
        if masks:  # one an image, or one file for all
            stamp = " ".join((files.stamp(index), stamp_of(masks[index if len(masks) == len(files) else 0])))
        if stamp and (kept := known.get(name, stamp)) is not None:
            classes = tuple(json.loads(kept))
        else:
            classes = _classes(files, kind, index, (height, width))
            if stamp:
                known.put(name, stamp, json.dumps(classes).encode())
        return Look(height, width, found.orientation, found.digest, found.alike, classes)

    yield from decode_all(len(files), look, files.ahead)


def _found(files: FileSource, index: int, known: Remembered) -> _Found:
    """What is known of a file, or is seen now. It is not remembered that a file cannot be read, or is too large."""
    name, stamp = files.describe(index), files.stamp(index)
    if stamp and (kept := known.get(name, stamp)):
        return _Found(*json.loads(kept))
    data = files.data(index)
    digest = _digest(data)
    try:
        pixels, orientation = decode_with_orientation(data, files.max_pixels)
        found = _Found("", pixels.shape[0], pixels.shape[1], orientation, digest, difference_hash(pixels))
    except TooLarge:
        raise
    except BadImage as error:
        found = _Found(str(error), 0, 0, 1, digest, 0)
    if stamp:
        known.put(name, stamp, json.dumps(found).encode())
    return found


def _look_in_memory(source: Source, kind: TargetKind, index: int) -> Look | BadImage:
    try:
        pixels = np.ascontiguousarray(source.image(index).permute(1, 2, 0).numpy())
        height, width = pixels.shape[:2]
        classes = _classes(source, kind, index, (height, width))
    except BadImage as error:
        return error
    return Look(height, width, 1, _digest(pixels.tobytes()), difference_hash(pixels), classes)


def _classes(source: Source, kind: TargetKind, index: int, shape: tuple[int, int]) -> tuple[int, ...]:
    there = kind.classes_in(source.target(index, shape).numpy(), len(source.classes))
    return tuple(np.flatnonzero(there).tolist())


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
