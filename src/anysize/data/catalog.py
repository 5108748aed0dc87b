"""Data sets by name; a recipe's settings turned into images and preprocessing.

Imports no torch before a data set is asked for.

>>> dataset_docs()["fashion-mini"]
'Embedded in the package: 10,000 + 2,000 images of Fashion-MNIST, grey, 28 x 28, 10 classes.'
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anysize.data.sets
from anysize.data.dataset import DATASETS as DATASETS  # with all data sets in it, once this module is imported
from anysize.data.dataset import DataSet, DatasetInfo, MissingSplit, Split
from anysize.data.settings import AugmentSettings, DataSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError

if TYPE_CHECKING:
    from anysize.data.source import Source

for _module in pkgutil.iter_modules(anysize.data.sets.__path__):
    importlib.import_module(f"anysize.data.sets.{_module.name}")


def dataset_docs() -> dict[str, str]:
    """One line about each data set, by name."""
    return {name: (DATASETS[name].__doc__ or "").strip().splitlines()[0] for name in DATASETS}


def dataset_info(settings: DataSettings, targets: str = "class") -> DatasetInfo:
    """How the data set of `settings` is usually used (size, normalisation, crop) with these targets."""
    from anysize.data.kinds.base import create_kind

    dataset = dataset_for(settings, targets)
    info = create_kind(targets).info(dataset.info(settings), dataset)
    if settings.val_split:
        info = dataclasses.replace(info, train_images=0, validation_images=0)  # known when the data is opened
    if settings.areas:
        info = dataclasses.replace(info, areas=(settings.areas[0], settings.areas[1]))
    return info


def dataset_for(settings: DataSettings, targets: str) -> DataSet:
    """The data set that `settings` names.

    Raises:
        UserError: an unknown data set, one without such targets, or settings that do not fit it.
    """
    from anysize.data.kinds.base import create_kind

    dataset = DATASETS[settings.name]()
    if targets not in dataset.offers:
        others = [name for name in DATASETS if targets in DATASETS[name]().offers]
        offered = " and ".join(create_kind(offer).in_words for offer in dataset.offers)
        raise UserError(
            f"data set {settings.name!r} has {offered}, and the task wants {create_kind(targets).in_words}; choose "
            f"another task.name, or as data.name one of {', '.join(others)}"
        )
    if settings.image_set and settings.image_set not in dataset.image_sets:
        known = ", ".join(dataset.image_sets)
        hint = f"choose one of: {known}" if known else f"data set {settings.name!r} has one list alone: remove it"
        raise UserError(f"data.image_set is {settings.image_set!r}; {hint}")
    if settings.areas and (len(settings.areas) != 2 or not 0 < settings.areas[0] < settings.areas[1]):
        raise UserError(f"data.areas is {list(settings.areas)}; expected two areas in pixels, the smaller first")
    if settings.categories and dataset.offers == ("class",):
        raise UserError(f"data.categories is set, but data set {settings.name!r} has one class an image; remove it")
    if settings.enlarge != 1 and not dataset.levels:
        raise UserError(
            f"data.enlarge is set, but data set {settings.name!r} has its images at one size; remove it, or pack them "
            "(anysize data pack)"
        )
    if settings.shuffle_chunks and not dataset.chunks:
        raise UserError(
            f"data.shuffle_chunks is set, but the images of data set {settings.name!r} lie in no chunks; remove it, or "
            "pack them (anysize data pack)"
        )
    if settings.stream_cache and not dataset.chunks:
        raise UserError(
            f"data.stream_cache is set, but data set {settings.name!r} is not read from object storage; remove it, or "
            "pack the images (anysize data pack)"
        )
    if settings.mask_values and not dataset.mask_files:
        raise UserError(f"data.mask_values is set, but data set {settings.name!r} has no masks in files; remove it")
    return dataset


def load_dataset(settings: DataSettings, split: Split, targets: str = "class", *, preload: bool = True) -> "Source":
    """Open a split of the data set that `settings` names.

    Image files that are all of one small size are decoded into memory at once (`settings.memory_limit`); damaged ones
    stop this or are left out (`settings.on_bad_image`). Those that `settings.exclude` lists are left out, and of the
    others `settings.limit` keeps the first, spread over classes.

    Args:
        preload: False leaves all files where they are and decodes none.

    Raises:
        UserError: an unknown data set, missing or unexpected files, a damaged image, or none of the `targets`.

    >>> len(load_dataset(DataSettings(name="fashion-mini", limit=50), "validation"))
    50
    """
    from anysize.data.kinds.base import create_kind

    source = _open(dataset_for(settings, targets), settings, split, targets)
    if settings.exclude:
        from anysize.data.exclude import leave_out

        source = leave_out(source, settings, split)
    source = create_kind(targets).first(source, settings.limit)
    return preloaded(source, settings) if preload else source


def _open(dataset: DataSet, settings: DataSettings, split: Split, targets: str) -> "Source":
    """A split; of a `published` data set data.val_split holds out training images, and leaves the tests for the end."""
    if not dataset.published:
        return dataset.open(settings, split, targets)
    if settings.renamed_classes:
        raise UserError(f"data.renamed_classes is set, but the classes of {settings.name!r} are fixed; remove it")
    if settings.val_split:
        from anysize.data.formats.splits import hold_out_of

        if split != "test":
            return hold_out_of(dataset.open(settings, "train", targets), split, settings)
        return dataset.open(settings, "validation", targets)
    if split == "test":
        raise MissingSplit(
            f"the test images of {settings.name!r} are its validation images; evaluate on those, or train with "
            "--data.val_split 0.1, which holds out training images for validation"
        )
    return dataset.open(settings, split, targets)


def preloaded(source: "Source", settings: DataSettings) -> "Source":
    """A source whose image files are decoded into memory where they are small, of one size, and few enough.

    Those that are shuffled by chunks stay where they are: the order must not depend on what fits into memory.
    """
    if settings.shuffle_chunks:
        return source
    from anysize.data.preload import decode_to_memory
    from anysize.data.source import FileSource

    return (isinstance(source, FileSource) and decode_to_memory(source, settings.memory_limit)) or source


def build_preprocessing(
    settings: DataSettings, info: DatasetInfo, base: int = 0, classes: Sequence[str] = ()
) -> Preprocessing:
    """The preprocessing of a run: the data set's, with what `settings` overrides, around `base` pixels (0: its own).

    >>> build_preprocessing(DataSettings(resize="crop-or-pad"), dataset_info(DataSettings()), base=32).resize
    'crop-or-pad'
    """
    mean, std = settings.mean or info.mean, settings.std or info.std
    for name, value in (("mean", mean), ("std", std)):
        if len(value) != info.channels:
            raise UserError(
                f"data.{name} is {list(value)}, but images of {settings.name!r} have {info.channels} channels; "
                "expected one value a channel"
            )
    if min(std) <= 0:
        raise UserError(f"data.std is {list(std)}; expected positive values")
    usual = Preprocessing(base or info.image_size, tuple(mean), tuple(std), resize=info.resize, classes=tuple(classes))
    return resized_as_set(usual, settings)


def resized_as_set(preprocessing: Preprocessing, settings: DataSettings) -> Preprocessing:
    """The preprocessing with what `settings` says of resizing: mode, interpolation, crop ratio.

    >>> resized_as_set(Preprocessing(224), DataSettings(crop_ratio=224 / 232)).resize_side(224)
    232
    """
    resize = settings.resize or preprocessing.resize
    if settings.crop_ratio and resize in ("crop-or-pad", "pad"):
        raise UserError(
            f"data.crop_ratio is {settings.crop_ratio:g}, but data.resize is {resize!r}, which has none; remove it, or "
            "resize with center-crop"
        )
    return dataclasses.replace(
        preprocessing,
        resize=resize,
        interpolation=settings.interpolation or preprocessing.interpolation,
        crop_ratio=settings.crop_ratio or preprocessing.crop_ratio,
    )


def resolve_augment(augment: AugmentSettings, info: DatasetInfo) -> AugmentSettings:
    """Replace `crop = "auto"` and `flip = -1` by what is usual for the data set.

    >>> resolve_augment(AugmentSettings(), dataset_info(DataSettings(name="mnist"))).flip
    0.0
    """
    crop = info.crop if augment.crop == "auto" else augment.crop
    return dataclasses.replace(augment, crop=crop, flip=info.flip if augment.flip < 0 else augment.flip)
