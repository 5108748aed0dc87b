"""COCO's folders: which annotation file and which images make a split, and the labels of its images."""

import logging
import os
import re
from pathlib import Path

import numpy as np

from anysize.data.dataset import MissingSplit, Split
from anysize.data.exclude import excluded_by
from anysize.data.formats.coco.cache import read_coco_index
from anysize.data.formats.coco.index import CocoIndex
from anysize.data.formats.file_lists import BACKGROUND, choose_classes, file_source, in_old_order
from anysize.data.formats.listing import each_once
from anysize.data.formats.names import check_inside, check_labels
from anysize.data.formats.splits import Splits, find_names, split_named
from anysize.data.left_out import LeftOut, warn
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource
from anysize.files import is_inside
from anysize.registry import UserError, counted

logger = logging.getLogger(__name__)

BESIDE = "_annotations.coco.json"  # the name of the file that lies beside the images
YEARS = ("2017", "2014")  # the preferred one first
_NAMES: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
_LAYOUT = "annotations/instances_train2017.json, instances_val2017.json and the like"


def load_coco(root: Path, settings: DataSettings, split: Split, targets: str, areas: tuple[float, ...]) -> FileSource:
    """All images that the annotation file of a split lists, in its order, with labels or masks.

    Args:
        root: holds `annotations` and the folders of images.
        settings: year (`image_set`), classes (`categories`), and what is done about missing images (`on_bad_image`).
        areas: pixels below which an object is small and medium.
    """
    splits = coco_splits(root, settings)
    default = f"{_NAMES[split]}{settings.image_set or _year(root)}"
    if not splits.names or (split == "train" and split not in splits.names and (root / "annotations").is_dir()):
        read_coco_index(_annotation_file(root, f"instances_{default}.json"))  # says what is missing
    path, part = splits.find(split)
    index = read_coco_index(path)
    known, left_out = index.category_names, LeftOut()
    in_old_order(known, settings, index.path)  # says what is wrong with data.renamed_classes; the file has the order
    classes = choose_classes(settings.categories, known, index.path) or _categories(index, left_out)
    number = {name: i for i, name in enumerate(classes)}
    numbers = np.array([number.get(name, -1) for name in known], np.int64)  # -1: left out
    beside = path.name == BESIDE
    folder = os.fspath(path.parent if beside else _image_folder(root, path.stem.removeprefix("instances_")))
    _check_inside(index, folder, settings)
    images, missing = _present(index, folder, settings)
    paths = [os.path.join(folder, os.fsdecode(name)) for name in index.file_names[images].tolist()]
    once = each_once(paths, folder, left_out)
    once = splits.hold_out(once, split) if part else once
    images, paths = images[once], [paths[i] for i in once]
    if targets == "masks":
        from anysize.data.formats.coco.painting import CocoMasks

        if len(classes) >= VOID:
            raise UserError(
                f"{index.path} has {len(classes)} categories, but a mask has room for {VOID - 1}: choose some with "
                "data.categories"
            )
        if len(index.segmented) and not index.segmented.any():
            raise UserError(f"{index.path} has no segmentation in any annotation, so there are no masks to learn from")
        masks = CocoMasks(index, (numbers + 1).astype(np.uint8), images)
        classes = (BACKGROUND, *classes)
        source = file_source(paths, masks, classes, settings, split, missing)
    else:
        limits = _areas(index, settings, areas)
        check_labels(len(index.image_ids), len(classes), len(limits) + 1, index.path)
        labels = object_labels(index, numbers, len(classes), limits)[images]
        source = file_source(paths, labels, classes, settings, split, missing)
    if not part or split == "train":  # two parts of one file leave out the same: it is told once
        source.left_out = left_out
    return source


def _categories(index: CocoIndex, left_out: LeftOut) -> tuple[str, ...]:
    """The names of the categories, without those that only stand for others."""
    kept = []
    for name, root in zip(index.category_names, index.roots().tolist(), strict=True):
        if root:
            left_out.add("category without annotations that stands for others", name)
        else:
            kept.append(name)
    return tuple(kept)


def _areas(index: CocoIndex, settings: DataSettings, areas: tuple[float, ...]) -> tuple[float, ...]:
    """The limits of small and medium objects; none where the file does not say how large each object is."""
    unsized = int((~index.sized).sum())
    if not unsized:
        return areas
    fault = f"{unsized:,} of the {len(index.sized):,} annotations in {index.path} have no 'area'"
    if settings.areas:
        raise UserError(f"data.areas is set, but {fault}; add it to each, or remove data.areas")
    logger.info("%s: there are no measures by object size", fault)
    return ()


def coco_splits(root: Path, settings: DataSettings) -> Splits:
    """Which annotation file holds which split: instances_train2017.json and the like, of one year for all.

    Without such files, and without a year, that of each folder of images which holds one, as Roboflow writes them.
    """
    folder, year = root / "annotations", settings.image_set or _year(root)
    if not folder.is_dir() and not settings.image_set:
        folders = [entry.name for entry in os.scandir(root) if os.path.lexists(os.path.join(entry.path, BESIDE))]
        beside = {split: f"{name}/{BESIDE}" for split, name in find_names(root, folders).items()}
        if beside:
            return Splits(root, beside, settings, f"train/{BESIDE}, valid/{BESIDE} and the like", "", f"/{BESIDE}")
    names = [path.name for path in folder.glob("instances_*.json")]
    stems = {name: name.removeprefix("instances_").removesuffix(".json") for name in names}
    ours = [name for name, stem in stems.items() if re.sub(r"\D", "", stem) == year]
    found = find_names(folder, ours, ".json", "instances_")
    return Splits(
        root,
        {split: f"annotations/{name}" for split, name in found.items()},
        settings,
        _LAYOUT,
        "annotations/instances_",
        ".json",
    )


def object_labels(index: CocoIndex, numbers: np.ndarray, classes: int, areas: tuple[float, ...]) -> np.ndarray:
    """Tell which classes each image holds small, medium and large: uint8 (N, len(areas) + 1, classes) of 0 and 1.

    Every annotation counts, crowds too; row 0 is for areas below `areas[0]`, row 1 below `areas[1]`, row 2 for the
    others (ELASTIC's protocol; the limits of COCO's own evaluation are 32^2 and 96^2 pixels).

    Args:
        numbers: the class of each category, -1 for those that are left out.
    """
    labels = np.zeros((len(index.image_ids), len(areas) + 1, classes), np.uint8)
    number = numbers[index.category]
    kept = number >= 0
    rows = np.searchsorted(np.asarray(areas), index.area, side="right")  # an area that equals a limit is above it
    labels[index.image[kept], rows[kept], number[kept]] = 1
    return labels


def _year(root: Path) -> str:
    """The year whose annotation files are there: one for both splits, since the files of two years share images."""

    stems = [path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")]

    def found(year: str) -> tuple[bool, bool, bool]:
        there = {split_named(stem) for stem in stems if re.sub(r"\D", "", stem) == year}
        return {"train", "validation"} <= there, "train" in there, bool(there - {None})

    return max((*YEARS, ""), key=found)  # of equal ones the first


def _annotation_file(root: Path, name: str) -> Path:
    if not (root / "annotations").is_dir():
        raise UserError(
            f"{root} has no folder 'annotations'; expected annotations/{name} and the images beside it, in train2017 "
            f"or images/train2017 and the like, or train/{BESIDE} with the images beside it"
        )
    return root / "annotations" / name


def _image_folder(root: Path, name: str) -> Path:
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return folder
    for parent in (root, root / "images"):  # another usual name of the same split and year, or without a year
        entries = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        fitting = [entry for entry in entries if re.sub(r"\D", "", entry) in ("", re.sub(r"\D", "", name))]
        if found := find_names(parent, fitting).get(split_named(name) or "train"):
            return parent / found
    raise MissingSplit(f"{root} has no folder of images {name!r}; expected {name}/IMAGE or images/{name}/IMAGE in it")


def _check_inside(index: CocoIndex, folder: str, settings: DataSettings) -> None:
    """Refuse names of images that lead out of the data's root."""
    for row, name in enumerate(map(os.fsdecode, index.file_names.tolist())):
        if not is_inside(name):  # only then a place is made up for the message
            check_inside(os.path.join(folder, name), name, f"{index.path}: image number {row}", settings)


def _present(index: CocoIndex, folder: str, settings: DataSettings) -> tuple[np.ndarray, dict[str, str]]:
    """The rows of the images whose files are there, and the paths of the others with the reason."""
    below, names = os.fsencode(folder), index.file_names.tolist()
    there = {entry.name for entry in os.scandir(below)}
    found = np.array([name in there or (b"/" in name and os.path.isfile(os.path.join(below, name))) for name in names])
    reason = f"named in {index.path}, but not there"
    missing = {os.path.join(folder, os.fsdecode(names[row])): reason for row in np.flatnonzero(~found)}
    excluded = excluded_by(settings)
    if unlisted := [path for path in missing if path not in excluded]:
        counts = f"{len(unlisted):,} of {counted(len(names), 'image')}"
        fault = f"{counts} in {index.path} are not in {folder}, such as {unlisted[0]}"
        if len(unlisted) == len(names):
            raise UserError(f"{fault}; unpack the images that belong to this file there")
        if settings.on_bad_image == "error":
            raise UserError(f"{fault}; add them, or leave them out with --data.on_bad_image skip")
        if settings.on_bad_image == "skip":
            warn(f"left out {fault}")
    return np.flatnonzero(found), missing
