"""Small image files decoded into memory once, so that training augments whole batches without worker processes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from anysize.data.pictures import BadImage
from anysize.data.source import ArraySource, FileSource
from anysize.machine import usable_cores

SMALL_SIDE = 128  # pixels; decoding larger images costs more than the augmentation, so they stay with the workers
T = TypeVar("T")
_CHUNK = 64  # files a thread decodes in one go


def decode_to_memory(source: FileSource, limit: int) -> ArraySource | None:
    """Decode all files if they are small, of one size, and take at most `limit` MiB; None otherwise.

    None also where targets are read from files: these stay on disk, and their images with them. The decision is made
    while decoding: the first file sets the size, and the first that differs ends the attempt. Damaged files follow the
    source's policy: "error" raises a `UserError`.
    """
    targets = source.targets
    if not isinstance(targets, np.ndarray):
        return None
    images: np.ndarray | None = None  # (N, H, W, 3)
    good: list[int] = []
    for index, pixels in decode_all(len(source), source.decode, source.ahead):
        if isinstance(pixels, BadImage):
            source.report_bad(index, str(pixels), to_all=True)
            continue
        if images is None:
            if max(pixels.shape) > SMALL_SIDE or len(source) * pixels.size > limit * 2**20:
                return None
            images = np.empty((len(source), *pixels.shape), dtype=np.uint8)
        if images.shape[1:] != pixels.shape:
            return None
        images[len(good)] = pixels
        good.append(index)
    if images is None:
        return None
    decoded, origins = torch.from_numpy(images[: len(good)]), [source.describe(i) for i in good]
    held = ArraySource(decoded, targets[good], source.classes, source.name, origins, source.bad_files)
    held.left_out = source.left_out
    return held


def decode_all(
    count: int, read: Callable[[int], T], ahead: Callable[[range], None] = lambda indices: None
) -> Iterator[tuple[int, T | BadImage]]:
    """What `read` makes of each of `count` images in order, or why one cannot be decoded; a few files ahead.

    Threads read them, since decoders release Python's lock. The first is read alone: a caller that needs no more
    than this one has not paid for a whole chunk. `ahead` is told, by the thread that reads them, which are read next.
    """

    def decode(indices: range) -> list[T | BadImage]:
        decoded: list[T | BadImage] = []
        ahead(indices)
        for index in indices:
            try:
                decoded.append(read(index))
            except BadImage as error:
                decoded.append(error)
        return decoded

    threads = usable_cores()
    yield from enumerate(decode(range(min(1, count))))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(1, count, 4 * threads * _CHUNK):
            end = min(start + 4 * threads * _CHUNK, count)
            chunks = [range(first, min(first + _CHUNK, end)) for first in range(start, end, _CHUNK)]
            for indices, images in zip(chunks, pool.map(decode, chunks), strict=True):
                yield from zip(indices, images, strict=True)
