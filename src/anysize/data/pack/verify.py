"""Whether all files of a pack are what they were when it was made: `anysize data check pack --data.root PACK`."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anysize.data.left_out import warn
from anysize.data.pack.format import Manifest, read_manifest, shard_name, wrong_size
from anysize.data.pack.index import Index, what_is_wrong
from anysize.data.pack.remote import RemoteShards, fetch_index
from anysize.data.pack.shards import Shards
from anysize.data.pack.source import PackSource
from anysize.data.pack.storage import Storage
from anysize.data.pictures import BadImage
from anysize.machine import usable_cores
from anysize.registry import UserError, counted, some_of


def damaged_files(
    folder: Path,
    on_file: Callable[[int, int], None] = lambda done, total: None,
    storage: Storage | None = None,
) -> dict[str, str]:
    """The files of a pack whose content is not what its checksum says, with the reason; all of them are read.

    Of a shard that was changed the images are named whose bytes were. `on_file` is called with the number of files that
    were read, and of all. Of a pack in object storage, `folder` is where its manifest is kept. Raises a `UserError`
    where the folder holds no pack, or the manifest is damaged.
    """
    manifest = read_manifest(folder)
    files = [(split, name) for split, of_split in manifest.splits.items() for name in of_split.files]
    found = {}

    def look(file: tuple[str, str]) -> str:
        split, name = file
        expected = manifest.splits[split].files[name]
        if storage:
            reason = _wrong_there(storage, f"{split}/{name}", expected)
        else:
            reason = what_is_wrong(folder / split / name, expected)
        return reason and f"it {reason}{_changed_images(folder, storage, manifest, split, name)}"

    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, ((split, name), reason) in enumerate(zip(files, pool.map(look, files), strict=True), 1):
            if reason:
                found[f"{storage.url if storage else folder}/{split}/{name}"] = reason
            on_file(done, len(files))
    return found


def _wrong_there(storage: Storage, name: str, expected: tuple[int, str]) -> str:
    """What a file in object storage is not as the manifest has it; it is read whole."""
    if why := wrong_size(storage.size(name), expected):
        return why
    digest = hashlib.sha256()
    for piece in storage.pieces(name, expected[0]):
        digest.update(piece)
    return "" if digest.hexdigest() == expected[1] else "was changed: it has another checksum than pack.json says"


def _changed_images(folder: Path, storage: Storage | None, manifest: Manifest, split: str, name: str) -> str:
    """Which images of a shard have other bytes than when they were packed; empty where that cannot be told."""
    columns = manifest.columns
    of_shards = {shard_name(column, p): (i, p) for i, column in enumerate(columns) for p in _parts(manifest, split)}
    column, part = of_shards.get(name, (0, -1))
    try:
        if storage:
            fetch_index(storage, folder, manifest, split)
        index = Index(folder, manifest, split)
    except UserError:
        return ""
    shards = RemoteShards(storage, split, columns) if storage else Shards(folder / split, columns)
    names = []
    for row in np.flatnonzero(index.rows["part"] == part).tolist():
        try:
            shards.read(index.rows[row], column)
        except BadImage:
            names.append(index.name(row))
    return f" ({some_of(names, 4)})" if names else ""


def _parts(manifest: Manifest, split: str) -> range:
    return range(manifest.splits[split].parts)


def without_cut_shards(source: PackSource) -> PackSource:
    """The images of a split whose shards are there, as long as they were; without reading any.

    Raises:
        UserError: one is not, and the source's policy is to stop.
    """
    of_split, columns = source.manifest.splits[source.split], source.manifest.columns
    names = {shard_name(column, part): part for part in _parts(source.manifest, source.split) for column in columns}
    found = source.shards.wrong_sizes({name: of_split.files.get(name) for name in names})
    if not found:
        return source
    name, reason = next(iter(found.items()))
    path = source.shards.where(name)
    lost = np.isin(source.index.rows["part"], [names[name] for name in found])
    if lost.all():
        raise UserError(f"{path} {reason}, and no image of {source.name} is left; copy the pack again, or pack again")
    if source.on_bad_image == "error":
        raise UserError(
            f"{path} {reason}; copy it again, pack again, or leave its images out with --data.on_bad_image skip"
        )
    if source.on_bad_image == "skip":
        warn(
            f"{source.name}: left out {counted(int(lost.sum()), 'image')} in {counted(len(found), 'file')} of the "
            f"pack: {path} {reason}"
        )
    return source.subset(np.flatnonzero(~lost))
