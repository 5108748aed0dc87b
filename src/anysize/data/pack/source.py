"""The images of a pack as a source: read at random, each at the smallest level that has the pixels that are needed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anysize.data.decode import Need, decode_reduced, decode_rgb
from anysize.data.formats.mask_files import check_shape
from anysize.data.pack import format as pack
from anysize.data.pack.encode import as_png
from anysize.data.pack.index import Index
from anysize.data.pack.kept import Kept
from anysize.data.pack.remote import RemoteShards, fetch_index
from anysize.data.pack.shards import Shards
from anysize.data.pack.storage import BLOCKS, Storage
from anysize.data.pictures import BadImage, check_pixels, opened
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource, Source, stamp_of


class PackSource(FileSource):
    """The images of a split of a pack.

    In full an image has the pixels of its largest level. The index, the names and the targets are memory maps, which
    all processes of a machine share.

    Args:
        folder: of the pack.
        manifest: its manifest.
        split: the split.
        settings: of the data: what happens to a damaged image, how many pixels one may have, how much crops may be
            enlarged, and whether JPEGs are decoded at smaller scales than their level where that is enough.
        storage: where the pack is, if in object storage; `folder` keeps its manifest and index then.

    Raises:
        UserError: the index, the names or the targets are missing or damaged.
    """

    own_files = False

    def __init__(
        self, folder: Path, manifest: pack.Manifest, split: str, settings: DataSettings, storage: Storage | None = None
    ) -> None:
        self.split = split
        self.manifest = manifest
        self.channels = manifest.channels
        self.on_bad_image, self.exif, self.max_pixels = settings.on_bad_image, manifest.exif, settings.max_pixels
        self.scaled, self.enlarge = settings.decode == "scaled", settings.enlarge
        self.kept: Kept | None = None
        self.shards = Shards(folder / split, manifest.columns)
        if storage:
            fetch_index(storage, folder, manifest, split)
            if settings.stream_cache:
                sizes = {f"{split}/{name}": size for name, (size, _) in manifest.splits[split].files.items()}
                self.kept = Kept(storage, folder / BLOCKS, sizes, settings.stream_cache * 2**20)
            self.shards = RemoteShards(storage, split, manifest.columns, self.kept)
            self.forks = False
        self.index = Index(folder, manifest, split)
        self.rows = np.arange(len(self.index.rows))
        targets = self.index.targets
        if targets is None:
            targets = PackMasks(self.shards, self.index, self.rows, settings.max_pixels)
        Source.__init__(self, targets, manifest.classes, f"{settings.name} {split}")

    def ahead(self, indices: Sequence[int], needs: Sequence[Need | None] | None = None) -> None:
        """Have the shards fetch these images, each at the level that it is read at, and their masks."""
        if self.forks:
            return
        wanted = []
        for index, need in zip(indices, needs or [None] * len(indices), strict=True):
            row = self._row(index)
            wanted.append((row, self._column_for(row, need)))
            if self.manifest.targets == "masks":
                wanted.append((row, len(self.manifest.columns) - 1))
        self.shards.ahead(wanted)

    def image_for(self, index: int, need: Need | None) -> tuple[Tensor, tuple[int, int]]:
        row = self._row(index)
        if need is None:
            pixels = self._pixels(row, 0)
            return _as_tensor(pixels), (pixels.shape[0], pixels.shape[1])
        height, width = int(row["height"]), int(row["width"])
        scale = need(height, width) / self.enlarge
        column = self._column(row, scale)
        if not (self.scaled and self._is_file(column)):
            pixels = self._pixels(row, column)
            in_full = pixels.shape[0], pixels.shape[1]
        else:
            data = self.shards.read(row, column).tobytes()

            def need_of_level(level_height: int, level_width: int) -> float:
                return min(1.0, scale * max(height / level_height, width / level_width))

            pixels, in_full = decode_reduced(data, need_of_level, self.exif, self.max_pixels)
        # Without the originals the largest level is what there is in full.
        return _as_tensor(pixels[..., : self.channels]), (height, width) if column else in_full

    def shape(self, index: int) -> tuple[int, int]:
        row, largest = self._row(index), self.manifest.levels[0]
        height, width = int(row["height"]), int(row["width"])
        return (height, width) if largest == pack.ORIGINAL else pack.level_size(height, width, largest)

    def shapes(self) -> np.ndarray:
        rows, largest = self.index.rows[self.rows], self.manifest.levels[0]
        stored = np.stack([rows["height"], rows["width"]], 1).astype(np.int64)
        if largest == pack.ORIGINAL:
            return stored
        shorter = stored.min(1, keepdims=True)
        return np.where(shorter <= largest, stored, -(-stored * largest // shorter))

    def decode(self, index: int) -> np.ndarray:
        """An image in full: uint8 (H, W, C). Raises `BadImage`."""
        return self._pixels(self._row(index), 0)

    def data(self, index: int) -> bytes:
        """An image in full as a file: the one that was packed, if the pack has the originals. Raises `BadImage`."""
        row = self._row(index)
        if self._is_file(0):
            return self.shards.read(row, 0).tobytes()
        return as_png(self._pixels(row, 0))

    def target(self, index: int, shape: tuple[int, ...]) -> Tensor:
        targets = self.targets
        return torch.from_numpy(
            np.array(targets[index] if isinstance(targets, np.ndarray) else targets.read(index, shape))
        )

    def file_name(self, index: int) -> str:
        """The name of the image's file, below the folder that was packed."""
        return self.index.name(int(self.rows[index]))

    def describe(self, index: int) -> str:
        return f"{self.shards.where('').rstrip('/')}: {self.file_name(index)}"

    def subset(self, indices: np.ndarray) -> "PackSource":
        subset = copy.copy(self)
        subset.rows, subset.targets = self.rows[indices], self.targets[indices]
        return subset

    def stamp(self, index: int) -> str:
        row = self._row(index)
        shard = pack.shard_name(self.manifest.columns[0], int(row["part"]))
        return stamp_of(self.shards.where(shard)) if self.forks else ""

    def remedies(self) -> list[str]:
        near = [] if self.forks or self.kept else ["keep what is read on the local disk (data.stream_cache)"]
        if self.manifest.pixels == "raw":
            return near
        scaled = [] if self.scaled else ["set data.decode to scaled"]
        return [*near, *scaled, "pack the images as raw pixels (anysize data pack ... --raw)"]

    def chunks(self) -> tuple[int, ...]:
        """The images of each part of the pack: those of a level lie in one shard."""
        parts = self.index.rows["part"][self.rows]
        return tuple(np.diff(np.flatnonzero(np.diff(parts)) + 1, prepend=0, append=len(parts)).tolist())

    def content(self) -> tuple[bytes, int]:
        of_split = self.manifest.splits[self.split]
        return of_split.digest.encode() + self.rows.tobytes(), of_split.bytes

    def _row(self, index: int) -> Any:
        """An image's row of the index, of `format.row_type`."""
        return self.index.rows[self.rows[index]]

    def _column_for(self, row: Any, need: Need | None) -> int:
        """The level that an image is read at."""
        return self._column(row, need(int(row["height"]), int(row["width"])) / self.enlarge) if need else 0

    def _column(self, row: Any, scale: float) -> int:
        """The smallest level of an image that is at least so large a part of it."""
        lengths = row["length"]
        shorter = min(int(row["height"]), int(row["width"]))
        for column in range(len(self.manifest.levels) - 1, 0, -1):
            side = self.manifest.levels[column]
            if lengths[column] and (side >= shorter or side >= scale * shorter):
                return column
        return 0

    def _is_file(self, column: int) -> bool:
        """Whether a level is kept as files, and not as raw pixels."""
        return self.manifest.levels[column] == pack.ORIGINAL or self.manifest.pixels == "jpeg"

    def _pixels(self, row: Any, column: int) -> np.ndarray:
        """An image at a level: uint8 (h, w, C)."""
        if self._is_file(column):
            pixels = decode_rgb(self.shards.read(row, column).tobytes(), self.exif, self.max_pixels)
            return pixels[..., : self.channels]
        height, width = pack.level_size(int(row["height"]), int(row["width"]), self.manifest.levels[column])
        check_pixels(height, width, self.max_pixels)
        # No checksum: it would take as long as all else, and a flipped byte changes no more than its pixel.
        data = self.shards.read(row, column, check=False)
        if data.size != height * width * self.channels:
            raise BadImage(f"its pack says that it has {height} x {width} pixels, and has {data.size:,} bytes of it")
        return data.reshape(height, width, self.channels)

    def __getstate__(self) -> dict[str, Any]:
        mapped = self.targets is self.index.targets  # the index maps them again
        return {**self.__dict__, **({"targets": None} if mapped else {})}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.targets is None:
            self.targets = self.index.targets


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


class PackMasks:
    """The masks in a pack, read when they are asked for."""

    def __init__(self, shards: Shards, index: Index, rows: np.ndarray, max_pixels: int) -> None:
        self._shards, self._index, self._rows, self._max_pixels = shards, index, rows, max_pixels

    def __len__(self) -> int:
        return len(self._rows)

    def files(self) -> list[str]:
        """None beside the pack itself."""
        return []

    def read(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        with opened(self.file(index), self._max_pixels, "its mask in the pack") as image:
            mask = np.array(image)
        check_shape(mask.shape, shape, "in the pack")
        return mask

    def file(self, index: int) -> bytes:
        """A mask as a grey PNG. Raises `BadImage`."""
        return self._shards.read(self._index.rows[self._rows[index]], -1).tobytes()

    def __getitem__(self, indices: np.ndarray) -> "PackMasks":
        return PackMasks(self._shards, self._index, self._rows[indices], self._max_pixels)
