"""Whether all files of a pack are what they were when it was made: `anysize data check pack --data.root PACK`."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anysize.data.left_out import warn
from anysize.data.pack.format import read_manifest, shard_name
from anysize.data.pack.index import what_is_wrong
from anysize.data.pack.source import PackSource
from anysize.registry import UserError, counted


def damaged_files(folder: Path, on_file: Callable[[int, int], None] = lambda done, total: None) -> dict[str, str]:
    """The files of a pack whose content is not what its checksum says, with the reason; all of them are read.

    `on_file` is called with the number of files that were read, and of all. Raises a `UserError` where the folder holds
    no pack, or the manifest is damaged.
    """
    splits = read_manifest(folder).splits
    files = [
        (folder / split / name, held) for split, of_split in splits.items() for name, held in of_split.files.items()
    ]
    found = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wrong = pool.map(lambda each: what_is_wrong(*each), files)
        for done, ((path, _), reason) in enumerate(zip(files, wrong, strict=True), 1):
            if reason:
                found[str(path)] = f"it {reason}"
            on_file(done, len(files))
    return found


def without_cut_shards(source: PackSource) -> PackSource:
    """The images of a split whose shards are there, as long as they were; without reading any.

    Raises:
        UserError: one is not, and the source's policy is to stop.
    """
    of_split, columns = source.manifest.splits[source.split], source.manifest.columns
    names = {shard_name(column, part): part for part in range(of_split.parts) for column in columns}
    paths = [source.pack / source.split / name for name in names]
    with ThreadPoolExecutor(16) as pool:  # a network's file system takes milliseconds for each
        wrong = pool.map(lambda path: what_is_wrong(path, of_split.files.get(path.name), content=False), paths)
        found = {path: reason for path, reason in zip(paths, wrong, strict=True) if reason}
    if not found:
        return source
    path, reason = next(iter(found.items()))
    if source.on_bad_image == "error":
        raise UserError(
            f"{path} {reason}; copy it again, pack again, or leave its images out with --data.on_bad_image skip"
        )
    lost = np.isin(source.index.rows["part"], [names[path.name] for path in found])
    warn(
        f"{source.name}: left out {counted(int(lost.sum()), 'image')} in {counted(len(found), 'file')} of the pack: "
        f"{path} {reason}"
    )
    if lost.all():
        raise UserError(f"{source.name}: no image is left")
    return source.subset(np.flatnonzero(~lost))
