"""PASCAL VOC's folders: which list makes a split, and the image and mask that each of its lines names."""

import contextlib
import os
import re
from pathlib import Path

from anysize.data.dataset import MissingSplit, Split
from anysize.data.decode import image_extensions
from anysize.data.formats.file_lists import (
    BACKGROUND,
    in_old_order,
    keep_present,
    mask_source,
    read_class_names,
    read_text,
)
from anysize.data.formats.listing import each_once, images_below
from anysize.data.formats.mask_files import MASK_EXTENSIONS
from anysize.data.formats.names import check_file_name, check_inside
from anysize.data.formats.splits import Splits, find_names
from anysize.data.left_out import LeftOut
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError

CLASSES = (
    BACKGROUND,
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's own names, in the order of the numbers in its masks."""

_AUGMENTED = "train_aug"
_AUGMENTED_LISTS = (_AUGMENTED, "trainaug")
_TWO_PATHS = re.compile(r"\s+(?=/)")


def load_voc(root: Path, settings: DataSettings, split: Split) -> FileSource:
    """The images of a split with their masks, in the order of its list."""
    year = find_year(root)
    splits = voc_splits(year, settings)
    if split == "train" and split not in splits.names:
        _list_file(year, settings.image_set or "train")  # says what is missing
    left_out = LeftOut()
    lines = _lines_of(splits, split, left_out)
    pairs = list(lines.values())
    good, missing = keep_present(pairs, list(lines), settings)
    classes, origin = class_names(year)
    in_old_order(classes, settings, origin)  # says what is wrong with data.renamed_classes; the file has the order
    source = mask_source([pairs[i] for i in good], classes, settings, split, origin, missing)
    if not splits.find(split)[1] or split == "train":  # two parts of one list leave out the same: it is told once
        source.left_out = left_out
    return source


def _lines_of(splits: Splits, split: Split, left_out: LeftOut) -> dict[str, tuple[str, str]]:
    """The image and the mask of each line of a split, each image once, by what names the line in messages."""
    path, part = splits.find(split)
    masks = "SegmentationClassAug" if path.stem in _AUGMENTED_LISTS else "SegmentationClass"
    lines = _read_list(path, splits.root, masks, splits.settings)
    origins = list(lines)
    kept = each_once([image for image, _ in lines.values()], splits.root, left_out)
    once = [origins[i] for i in kept]
    return {origin: lines[origin] for origin in (splits.hold_out(once, split) if part else once)}


def voc_splits(year: Path, settings: DataSettings) -> Splits:
    """Which list holds which split, in ImageSets/Segmentation or else in `list`; training is what `image_set` says."""
    names: dict[Split, str] = {}
    for folder in ("list", "ImageSets/Segmentation"):
        entries = os.listdir(year / folder) if (year / folder).is_dir() else []
        names |= {split: f"{folder}/{name}" for split, name in find_names(year / folder, entries, ".txt").items()}
    if settings.image_set not in ("", "train"):
        names.pop("train", None)
        with contextlib.suppress(MissingSplit):
            names["train"] = _list_file(year, settings.image_set).relative_to(year).as_posix()
    if not names:
        _list_file(year, settings.image_set or "train")  # says what is missing
    return Splits(year, names, settings, "lists in ImageSets/Segmentation or list", "list of images ", ".txt")


def count_images(year: Path, settings: DataSettings) -> tuple[int, int]:
    """Training and validation images that the lists in the folder of a year name; 0 without a list."""

    def count(split: Split) -> int:
        try:
            return len(_lines_of(voc_splits(year, settings), split, LeftOut()))
        except MissingSplit:
            return 0

    return count("train"), count("validation")


def class_names(year: Path) -> tuple[tuple[str, ...], str]:
    """The names of the classes, VOC's unless classes.txt beside JPEGImages has others; and their origin in messages."""
    path = year / "classes.txt"
    return (read_class_names(path), str(path)) if os.path.lexists(path) else (CLASSES, "VOC")


def find_year(root: Path) -> Path:
    """The folder that holds JPEGImages: root itself, or a VOC20xx folder in it or in VOCdevkit; 2012 before others."""
    if (root / "JPEGImages").is_dir():
        return root
    for parent in (root, root / "VOCdevkit"):
        years = [entry for entry in parent.glob("VOC20[0-9][0-9]") if entry.is_dir()]
        if years:
            year = max(years, key=lambda entry: (entry.name == "VOC2012", entry.name))
            if not (year / "JPEGImages").is_dir():
                raise UserError(f"{year} has no folder 'JPEGImages'; expected VOC's images in it")
            return year
    raise UserError(
        f"{root} holds no VOC2012 (or other VOC20xx) folder, in VOCdevkit or without; expected VOCdevkit/VOC2012 with "
        "JPEGImages, SegmentationClass and ImageSets/Segmentation"
    )


def _list_file(year: Path, image_set: str) -> Path:
    written = _AUGMENTED_LISTS if image_set == _AUGMENTED else (image_set,)
    names = [*(f"ImageSets/Segmentation/{name}.txt" for name in written), f"list/{image_set}.txt"]
    for name in names:
        if (year / name).exists():
            return year / name
    hint = "; the augmented training set is not part of VOC: add its list and its masks" * (image_set == _AUGMENTED)
    raise MissingSplit(f"{year} has no list of the images of {image_set!r}; expected {' or '.join(names)}{hint}")


class _Named:
    """The files of a folder by their names without the ending; one with the usual ending goes before others."""

    def __init__(self, folder: Path, usual: str, endings: tuple[str, ...]) -> None:
        self.folder, self.usual = folder, usual
        self.paths: dict[str, str] = {}
        for path in sorted(images_below(folder, LeftOut(), endings)) if folder.is_dir() else ():
            stem, ending = os.path.splitext(path[len(os.path.join(folder, "")) :])
            other = self.paths.setdefault(stem, path)
            if other != path and ending == usual:
                self.paths[stem] = path
            elif other != path and not other.endswith(usual):
                raise UserError(f"{other} and {path} have one name; expected one file of each name: remove one")

    def path(self, name: str) -> str:
        """The file of this name, or where it should be."""
        return self.paths.get(name) or os.path.join(self.folder, name + self.usual)


def _read_list(path: Path, year: Path, masks: str, settings: DataSettings) -> dict[str, tuple[str, str]]:
    """The image and the mask of each line, by what names the line in messages.

    A line is the name of an image, or two paths that begin at the folder of the year; either may have spaces in it.
    """
    lines: dict[str, tuple[str, str]] = {}
    folder = os.fspath(year)
    images = _Named(year / "JPEGImages", ".jpg", image_extensions())
    numbers = _Named(year / masks, ".png", MASK_EXTENSIONS)
    spaced = any(" " in name for name in images.paths)
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, origin = line.strip(), f"{path} line {number}"
        if not name:
            continue
        if not name.startswith("/") and (spaced or len(name.split()) == 1):
            check_file_name(name, origin)
            pair = images.path(name), numbers.path(name)
        elif len(paths := _TWO_PATHS.split(name)) == 2 and name.startswith("/"):
            for each in paths:
                check_file_name(each, origin)
            pair = folder + paths[0], folder + paths[1]
        else:
            raise UserError(
                f"{origin} is {name[:80]!r}; expected the name of an image, or the paths of an image and a "
                "mask that begin with '/' in the folder of the year"
            )
        for file in pair:
            check_inside(file, file[len(folder) :].lstrip("/"), origin, settings)
        lines[origin] = pair
    if not lines:
        raise UserError(f"{path} names no images; expected one a line")
    return lines
