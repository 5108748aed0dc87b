"""Pack a data set, and give the files of a pack back: the folder is held by one process, as that of a run is."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np

from anysize.data.catalog import DATASETS, dataset_for, load_dataset
from anysize.data.dataset import MissingSplit, Split
from anysize.data.left_out import warn_of
from anysize.data.pack.format import MANIFEST, ORIGINAL, STATE, Manifest
from anysize.data.pack.write import PackOptions, pack_splits
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.experiment.owner import Work
from anysize.experiment.run_folder import alone_in, made
from anysize.registry import UserError

_WORK = Work("packed", "the pack", "another folder")


def pack_dataset(
    settings: DataSettings,
    folder: str | os.PathLike[str],
    targets: str = "",
    options: PackOptions | None = None,
    *,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write a pack of all splits of a data set into a folder, or go on with one that was begun there.

    Args:
        settings: the data set, and what of it is packed.
        folder: a new one, or that of a packing that was interrupted.
        targets: the kind of targets; by default the first that the data set offers.
        options: levels, pixels and shards.
        on_image: called with the number of images that are packed, and of all.

    Raises:
        UserError: as `load_dataset` and `pack_splits`; another process packs into the folder.
    """
    folder = Path(folder).expanduser().absolute()
    options = options or PackOptions()
    targets = targets or DATASETS[settings.name]().offered(settings)[0]
    dataset = dataset_for(settings, targets)
    if targets == "masks" and ORIGINAL not in options.levels:
        raise UserError(
            "the levels have no `original`, but a mask has the size of its image in full; add original to --levels"
        )
    info = dataset.info(settings)
    if settings.areas:
        info = dataclasses.replace(info, areas=(settings.areas[0], settings.areas[1]))
    sources = _open(settings, targets)
    if options.shuffle and "train" in sources:
        sources["train"] = shuffled(sources["train"])
    root = os.fspath(Path(settings.root).expanduser()) if settings.root else ""
    with made(folder, (MANIFEST, STATE), _WORK), alone_in(folder, _WORK):
        return pack_splits(sources, settings.name, targets, info, folder, options, root=root, on_image=on_image)


def shuffled(source: Source) -> Source:
    """The images in an order that is random, and always the same for so many."""
    return source.subset(np.random.default_rng(0).permutation(len(source)))


def _open(settings: DataSettings, targets: str) -> dict[Split, Source]:
    """The splits that there are; test images that validation takes, too, once."""
    sources: dict[Split, Source] = {}
    missing: MissingSplit | None = None
    for split in get_args(Split):
        try:
            source = load_dataset(settings, split, targets, preload=False)
        except MissingSplit as error:
            missing = missing or error
            continue
        if all(other.describe(0) != source.describe(0) for other in sources.values()):
            warn_of(source.left_out, source.name)
            sources[split] = source
    if missing and not sources:
        raise missing
    names = {source.classes for source in sources.values()}
    if len(names) > 1:
        raise UserError(f"the splits of {settings.name!r} have different classes, and a pack has one list of them")
    return sources
