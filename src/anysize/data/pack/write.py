"""Pack a data set: `anysize data pack NAME OUT --data.root DIR`.

Images are decoded, shrunk and encoded by threads, since the libraries for it release Python's lock, and written in
their order, part by part. A part is whole when its record is written; a packing that goes on begins behind the last
whole one. The manifest is written last: without it a folder is no pack.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from anysize.data.dataset import DatasetInfo, Split
from anysize.data.pack import format as pack
from anysize.data.pack.encode import Encoded, encode, made_with
from anysize.data.pack.origins import digest_of_source, name_of
from anysize.data.pack.parts import Part, new_shards
from anysize.data.pictures import BadImage
from anysize.data.source import FileSource, Source
from anysize.files import is_left_over, read_regular, remove, replacing
from anysize.machine import usable_cores
from anysize.registry import UserError, counted

MIB = 2**20
_AHEAD = 4  # images a thread has in hand or waits with
_LARGEST_SHARD = 2**31  # bytes: where an image begins is kept in 32 bits


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """How images are packed: which levels, as which pixels (jpeg, raw), JPEGs of which quality, how large a shard may
    become, in MiB, before the next is begun, and whether the training images are laid in random order."""

    levels: tuple[int, ...] = (pack.ORIGINAL, 256, 192, 128, 96)
    pixels: str = "jpeg"
    quality: int = 90
    shard: int = 256
    shuffle: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality is {self.quality}; expected that of JPEGs, from 1 to 100")
        if not 1 <= self.shard <= _LARGEST_SHARD // MIB:
            raise UserError(f"--shard is {self.shard}; expected MiB from 1 to {_LARGEST_SHARD // MIB}")


def pack_splits(
    sources: Mapping[Split, Source],
    name: str,
    targets: str,
    info: DatasetInfo,
    folder: Path,
    options: PackOptions,
    *,
    root: str = "",
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> pack.Manifest:
    """Write a pack, or go on with one that was begun; the folder is held by this process alone.

    Args:
        sources: the splits.
        name: of the data set.
        targets: the kind of its targets.
        info: how it is usually used, whatever its targets are.
        folder: where; it is made.
        options: how.
        root: below which the names of files are kept.
        on_image: called with the number of images that are packed, and of all.

    Raises:
        UserError: the folder holds something else, or was begun of other images or with other options; it cannot be
            written; an image is damaged and the source's policy is to stop.
    """
    first = next(iter(sources.values()))
    exif = isinstance(first, FileSource) and first.exif
    manifest = pack.Manifest(
        name, targets, first.classes, first.channels, exif, info, options.levels, options.pixels, options.quality,
        made_with(), {},
    )  # fmt: skip
    packing = _Packing(manifest, folder, options.shard * MIB, root, sum(map(len, sources.values())), on_image)
    if (folder / pack.MANIFEST).exists():
        return packing.made_before(sources)
    with packing.writing():
        _begin(folder, manifest, options)
    for split, source in sources.items():
        packing.split(split, source)
    return packing.finish()


@dataclasses.dataclass
class _Packing:
    """A packing under way."""

    manifest: pack.Manifest
    folder: Path
    shard: int
    root: str
    total: int
    on_image: Callable[[int, int], None]
    done: int = 0
    """Images that are packed or left out."""
    safe: int = 0
    """Of these, the ones in whole parts."""

    def split(self, split: Split, source: Source) -> None:
        """Pack a split."""
        folder = self.folder / split
        with self.writing():
            folder.mkdir(exist_ok=True)
            for path in filter(is_left_over, folder.glob(".*.tmp")):
                remove(path)
        parts = list(self._whole(folder, source))
        start = parts[-1].end if parts else 0
        self.done = self.safe = self.safe + start
        with contextlib.closing(self._encoded(source, start)) as images:
            while start < len(source):
                with self.writing():
                    part = self._part(folder, source, images, start, len(parts))
                    part.save(folder / _record(len(parts)))
                parts.append(part)
                self.safe += part.end - start
                start = part.end
        if not sum(len(part.kept) for part in parts):
            raise UserError(f"none of the {counted(len(source), 'image')} of {source.name} can be used")
        with self.writing():
            self.manifest.splits[split] = _finish_split(
                folder, source, parts, digest_of_source(source, 0, len(source), self.root)
            )

    def made_before(self, sources: Mapping[Split, Source]) -> pack.Manifest:
        """The manifest of the pack that is there, if it is of these images."""
        there = pack.read_manifest(self.folder)
        held = {split: of_split.source for split, of_split in there.splits.items()}
        now = {split: digest_of_source(source, 0, len(source), self.root) for split, source in sources.items()}
        if dataclasses.replace(there, splits={}) != self.manifest or held != now:
            raise UserError(
                f"{self.folder} is a pack already, of {there.name!r}, of other images or with other options; give "
                "another folder, or remove it first"
            )
        _tidy(self.folder)
        return there

    def finish(self) -> pack.Manifest:
        """Write the manifest, which makes the folder a pack, and remove what was kept to go on with."""
        with self.writing():
            with replacing(self.folder / pack.MANIFEST) as file:
                file.write(self.manifest.as_json())
            _tidy(self.folder)
        return self.manifest

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say what it means where the pack cannot be written."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror or error}): {counted(self.safe, 'image')} of "
                f"{self.total:,} are packed; make room, or put right what else is said there, and give the same "
                "command again, which goes on from there"
            ) from error

    def _whole(self, folder: Path, source: Source) -> Iterator[Part]:
        """The parts that are there already, of this source."""
        start = 0
        for number in itertools.count():
            part = Part.load(folder / _record(number), len(self.manifest.columns))
            if part is None:
                return
            if part.end > len(source) or part.entries != digest_of_source(source, start, part.end, self.root):
                raise UserError(
                    f"{self.folder} was begun with other images than {source.name} has now; give the data that it was "
                    "begun with, or another folder"
                )
            if isinstance(source, FileSource):
                source.bad_files.update(part.bad)
            yield part
            start = part.end

    def _part(
        self, folder: Path, source: Source, images: Iterator[tuple[int, Encoded | BadImage]], start: int, number: int
    ) -> Part:
        """Write the images from `start` on until a shard is large enough."""
        kept: list[int] = []
        names: list[str] = []
        bad: dict[str, str] = {}
        end = start
        with new_shards(folder, self.manifest.columns, number) as shards:
            for index, image in images:
                end = index + 1
                if isinstance(image, BadImage):
                    assert isinstance(source, FileSource)
                    source.report_bad(index, str(image))
                    bad[source.describe(index)] = str(image)
                else:
                    shards.add(image)
                    kept.append(index)
                    names.append(name_of(source, index, self.root))
                self.done += 1
                self.on_image(self.done, self.total)
                if shards.largest >= self.shard:
                    break
        entries = digest_of_source(source, start, end, self.root)
        return Part(np.array(kept, np.int64), shards.rows(), names, bad, end, entries, shards.files())

    def _encoded(self, source: Source, start: int) -> Generator[tuple[int, Encoded | BadImage], None, None]:
        """The images from `start` on in order, made by threads a few ahead."""
        how = self.manifest.columns, self.manifest.pixels, self.manifest.quality
        threads = usable_cores()
        pool = ThreadPoolExecutor(threads)
        waiting: collections.deque[tuple[int, Future[Encoded | BadImage]]] = collections.deque()
        try:
            for index in range(start, len(source)):
                waiting.append((index, pool.submit(encode, source, index, *how)))
                if len(waiting) >= _AHEAD * threads:
                    done, image = waiting.popleft()
                    yield done, image.result()
            while waiting:
                done, image = waiting.popleft()
                yield done, image.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(folder: Path, manifest: pack.Manifest, options: PackOptions) -> None:
    """Note in the folder what is packed and how, or compare it with what was noted when it was begun."""
    held = json.loads(manifest.as_json()) | {"shard": options.shard, "shuffle": options.shuffle}
    path = folder / pack.STATE
    if not path.exists():
        if others := sorted({*os.listdir(folder)} - {".lock", ".owner"}):
            raise UserError(f"{folder} holds other files, such as {others[0]}; give a new folder for the pack")
        with replacing(path) as file:
            file.write(json.dumps(held).encode())
        return
    try:
        begun: dict[str, Any] = json.loads(read_regular(path, 2**28))
        differs = [key for key in held if begun.get(key) != held[key]]
    except (ValueError, RecursionError, AttributeError):
        differs = [pack.STATE]
    if differs:
        raise UserError(
            f"{folder} was begun with another {' and '.join(differs)}; give the command that it was begun with, or "
            "another folder"
        )


def _tidy(folder: Path) -> None:
    """Remove what a packing keeps to go on with."""
    for path in (*folder.glob(f"*/{_record('*')}"), folder / pack.STATE):
        path.unlink(missing_ok=True)


def _record(number: int | str) -> str:
    return f"part-{number:05d}.npz" if isinstance(number, int) else f"part-{number}.npz"


def _finish_split(folder: Path, source: Source, parts: list[Part], entries: str) -> pack.Split:
    """Write the index, the names and the targets of a split; `entries` is a digest of what the source holds."""
    rows, kept = np.concatenate([part.rows for part in parts]), np.concatenate([part.kept for part in parts])
    names = [os.fsencode(name) for part in parts for name in part.names]
    rows["name"] = np.cumsum([len(name) for name in names])
    arrays = {pack.INDEX: rows}
    if isinstance(source.targets, np.ndarray):
        arrays[pack.TARGETS] = source.targets[kept]
    for name, array in arrays.items():
        with replacing(folder / name) as file:
            np.save(file, array, allow_pickle=False)
    with replacing(folder / pack.NAMES) as file:
        file.write(b"".join(names))
    files = {name: held for part in parts for name, held in part.files.items()}
    for name in (*arrays, pack.NAMES):
        files[name] = (os.stat(folder / name).st_size, pack.sha256(folder / name))
    return pack.Split(len(rows), len(parts), pack.digest_of(files), entries, files)
