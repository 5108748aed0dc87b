"""Packs: the images of any data set in a few large files (see `anysize.data.pack`)."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from anysize.data.dataset import DATASETS, DataSet, DatasetInfo, MissingSplit, Split, data_root
from anysize.data.pack.format import Manifest, read_manifest, spoken
from anysize.data.settings import DataSettings
from anysize.registry import UserError

if TYPE_CHECKING:
    from anysize.data.pack.storage import Storage
    from anysize.data.source import Source

_EXPECTED = "pack.json and the folders beside it, as `anysize data pack` wrote them"


@DATASETS.register("pack")
class Pack(DataSet):
    """Any data set as a pack of a few large files, which `anysize data pack` writes: images of all sizes, read fast.

    Training reads each image at the smallest of the sizes in the pack at which the crop has the pixels that are asked
    for (`data.enlarge` asks for fewer); evaluation reads it in full. Splits, classes, kind of targets and what is usual
    for the data set are those of the set that was packed. What `data.categories`, `data.areas`, `data.renamed_classes`
    and `data.val_split` choose is chosen when it is packed; a pack without validation images takes `data.val_split`,
    too.
    """

    defaults = DatasetInfo(224)
    offers = ("class", "labels", "masks")
    levels = True
    chunks = True
    mending = "copy the pack again, pack again"

    def info(self, settings: DataSettings) -> DatasetInfo:
        """What is usual for the data set that was packed; reads the manifest where root is set."""
        if not settings.root:
            return self.defaults
        manifest = self._manifest(settings)
        images = {split: of_split.images for split, of_split in manifest.splits.items()}
        # Masks add the background to the classes of a data set that offers labels, too.
        classes = len(manifest.classes) - (manifest.targets == "masks")
        train, validation = images.get("train", 0), images.get("validation", 0)
        return dataclasses.replace(manifest.info, num_classes=classes, train_images=train, validation_images=validation)

    def offered(self, settings: DataSettings) -> tuple[str, ...]:
        """The kind of targets that were packed."""
        return (self._manifest(settings).targets,)

    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "Source":
        """Open the index of a split; decodes no image."""
        from anysize.data.formats.splits import hold_out_of

        manifest = self._manifest(settings)
        _check(settings, manifest, targets)
        splits = manifest.splits
        if settings.val_split and split != "test":
            if "validation" in splits:
                raise UserError(
                    f"data.val_split is {settings.val_split:g}, but the pack {settings.root} has validation images; "
                    "leave it out, or pack again with it"
                )
            return hold_out_of(self._open(settings, manifest, "train"), split, settings)
        return self._open(settings, manifest, split)

    def splits(self, settings: DataSettings) -> str:
        """Which splits the pack has, and of which set; and what evaluation sees where it has no originals."""
        manifest = self._manifest(settings)
        held = ", ".join(f"{of_split.images:,} for {split}" for split, of_split in manifest.splits.items())
        told = f"pack of {manifest.name!r}: {held}, levels {spoken(manifest.levels)}"
        return f"{told}; {evaluated}" if (evaluated := manifest.evaluated) else told

    def checksums(self, settings: DataSettings) -> dict[str, str]:
        """Compare each file of the pack with its checksum."""
        from anysize.data.pack.verify import damaged_files

        folder, storage = _located(settings)
        return damaged_files(folder, storage=storage)

    def _manifest(self, settings: DataSettings) -> Manifest:
        return read_manifest(_located(settings)[0])

    def _open(self, settings: DataSettings, manifest: Manifest, split: Split) -> "Source":
        from anysize.data.left_out import warn
        from anysize.data.pack.source import PackSource
        from anysize.data.pack.verify import without_cut_shards

        if split not in manifest.splits:
            hint = ", or --data.val_split 0.1, which holds a part of the training images out"
            raise MissingSplit(
                f"the pack {settings.root} has no {split} images, but {' and '.join(manifest.splits)}; give one that "
                f"has them{hint if split == 'validation' and 'train' in manifest.splits else ''}"
            )
        folder, storage = _located(settings)
        held = manifest.splits[split].bytes
        if split == "train" and not settings.shuffle_chunks and 0 < settings.stream_cache * 2**20 < held:
            warn(
                f"data.stream_cache keeps {settings.stream_cache:,} MiB, of {held / 2**20:,.0f} MiB of training images "
                "that are shuffled as a whole, so that much is fetched again and again: keep all, or set "
                "data.shuffle_chunks"
            )
        return without_cut_shards(PackSource(folder, manifest, split, settings, storage))


def _located(settings: DataSettings) -> "tuple[Path, Storage | None]":
    """The folder of the pack; of one in object storage, where its manifest was just put, and the storage."""
    from anysize.data.pack.remote import fetch_manifest
    from anysize.data.pack.storage import Storage, is_address

    if not is_address(settings.root):
        if settings.stream_cache:
            raise UserError("data.stream_cache is set, but data.root is no address in object storage; remove it")
        return data_root(settings, _EXPECTED), None
    storage = Storage(settings.root, settings.stream_limit)
    return fetch_manifest(storage), storage


def _check(settings: DataSettings, manifest: Manifest, targets: str) -> None:
    """Raise a `UserError` where settings do not fit what was packed."""
    from anysize.data.kinds.base import create_kind

    if targets != manifest.targets:
        raise UserError(
            f"the pack {settings.root} has {create_kind(manifest.targets).in_words}, and the task wants "
            f"{create_kind(targets).in_words}; choose another task.name, or pack again with that task.name"
        )
    for name in ("categories", "areas", "renamed_classes"):
        if getattr(settings, name):
            raise UserError(
                f"data.{name} is set, but the targets of a pack are settled when it is packed; remove it, or pack "
                "again with it"
            )
    if settings.exif and not manifest.exif:
        raise UserError(
            f"data.exif is true, but the images of the pack {settings.root} were not turned when they were packed; "
            "remove it, or pack again with it"
        )
