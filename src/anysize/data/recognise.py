"""Which of the forms of data sets a folder of your own has, and what its images look like.

    found = recognise(Path("~/pictures").expanduser())    # Found(name='folder', targets='class', ...)
    look = look_at(found)                                 # of some of the images, whatever their number

A form is told by the names of folders and files alone; the data set's own reader then lists the images, and says what
is wrong with them.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from anysize.data.catalog import DATASETS, load_dataset
from anysize.data.dataset import MissingSplit, Split
from anysize.data.formats.coco.layout import BESIDE, coco_splits
from anysize.data.formats.folders import folder_splits
from anysize.data.formats.label_csv import csv_splits
from anysize.data.formats.listing import images_below
from anysize.data.formats.mask_pairs import mask_splits
from anysize.data.formats.places import folders_of
from anysize.data.formats.splits import HELD_OUT, Splits, split_named
from anysize.data.formats.tar.index import ENDING
from anysize.data.formats.voc_lists import find_year, voc_splits
from anysize.data.left_out import LeftOut
from anysize.data.pack.format import MANIFEST
from anysize.data.pictures import BadImage
from anysize.data.settings import DataSettings
from anysize.data.source import Source
from anysize.data.spread import spread
from anysize.registry import UserError, counted

LOOKED_AT = 200
"""Images whose headers `look_at` reads at most, spread over all of them."""

_FORMS = (
    "expected CLASS/IMAGE or train/CLASS/IMAGE (classes), labels.csv or train.csv beside the images (several labels), "
    "images and masks (segmentation), or COCO's, VOC's or a pack's files"
)


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder as a data set: its name here, the kind of targets, and the images of both splits, of which none is
    decoded. `settings` open it; `held_out` says whether validation is a part of the training images."""

    name: str
    targets: str
    settings: DataSettings
    sources: dict[Split, Source]
    splits: str
    held_out: bool


@dataclasses.dataclass(frozen=True)
class Look:
    """What the headers of some training images tell: shorter and longer sides in pixels, sorted; how many of them are
    `square`, `grey`, or cannot be read (`damaged`)."""

    shorter: np.ndarray
    longer: np.ndarray
    square: int
    grey: int
    damaged: int

    @property
    def images(self) -> int:
        """Images whose headers were read."""
        return len(self.shorter)


def recognise(folder: str | os.PathLike[str], targets: str = "") -> Found:
    """Find out as which data set a folder can be read, and list its images.

    Where there are no validation images a fixed tenth of the training images is held out (`data.val_split`).

    Args:
        folder: holds the images, or is a tar archive of class folders.
        targets: "class", "labels" or "masks" where a form offers several, as COCO's does; by default the first.

    Raises:
        UserError: it has none of the known forms, or its reader refuses it.
    """
    root = Path(folder).expanduser().absolute()
    name = _form_of(root)
    dataset = DATASETS[name]()
    settings = DataSettings(name=name, root=os.fspath(root))
    offered = dataset.offered(settings)
    if targets and targets not in offered:
        raise UserError(
            f"{root} has the form of {name!r}, which has {' and '.join(offered)}, and no {targets}; leave --task out, "
            "or give the folder another form (docs/guides/your-own-images.md)"
        )
    targets, held_out = targets or offered[0], False
    if name in _SPLITS:
        splits = _SPLITS[name](root, settings)
        held_out = "validation" not in splits.names
        if held_out:
            settings = dataclasses.replace(settings, val_split=HELD_OUT)
    train = load_dataset(settings, "train", targets, preload=False)
    try:
        validation = load_dataset(settings, "validation", targets, preload=False)
    except MissingSplit:  # of a pack, whose splits its own file tells
        settings, held_out = dataclasses.replace(settings, val_split=HELD_OUT), True
        train = load_dataset(settings, "train", targets, preload=False)
        validation = load_dataset(settings, "validation", targets, preload=False)
    sources: dict[Split, Source] = {"train": train, "validation": validation}
    return Found(name, targets, settings, sources, dataset.splits(settings), held_out)


def look_at(found: Found) -> Look:
    """Read the headers of at most `LOOKED_AT` training images, spread over all of them.

    Raises:
        UserError: none of them can be read.
    """
    source = found.sources["train"]
    chosen = spread(len(source), LOOKED_AT)
    sides, grey, damaged = [], 0, 0
    why = ""
    for index in chosen.tolist():
        try:
            header = source.header(index)
        except BadImage as error:
            damaged, why = damaged + 1, why or f"{source.describe(index)}: {error}"
            continue
        sides.append(header.shape)
        grey += header.grey
    if not sides:
        raise UserError(
            f"none of {counted(len(chosen), 'training image')} that were looked at can be read, such as {why}; "
            "`anysize data check` names them all"
        )
    pairs = np.sort(np.array(sides, np.int64), axis=1)
    shorter, longer = np.sort(pairs[:, 0]), np.sort(pairs[:, 1])
    return Look(shorter, longer, int((pairs[:, 0] == pairs[:, 1]).sum()), grey, damaged)


def _form_of(root: Path) -> str:
    """The name of the data set whose files a folder holds, told by names alone."""
    if root.is_file():
        if root.name.lower().endswith(ENDING):
            return "folder"
        raise UserError(f"{root} is a file; expected a folder of images, or a tar archive of class folders")
    if not root.is_dir():
        raise UserError(f"{root} is not there; expected a folder of images")
    for name, holds in _HOLDS:
        if holds(root):
            return name
    there = next(images_below(root, LeftOut()), None)
    what = "images, but no folder a class and no file with labels" if there else "no images"
    raise UserError(f"{root} holds {what}: {_FORMS}; docs/guides/your-own-images.md shows each")


def _holds_coco(root: Path) -> bool:
    if any((root / "annotations").glob("instances_*.json")):
        return True
    return any((folder / BESIDE).is_file() for folder in _folders(root) if split_named(folder.name))


def _holds_voc(root: Path) -> bool:
    return any((each / "JPEGImages").is_dir() for each in (root, *root.glob("VOC20*"), *root.glob("VOCdevkit/VOC20*")))


def _holds_masks(root: Path) -> bool:
    places = [root, *(folder for folder in _folders(root) if split_named(folder.name))]
    return any((place / "images").is_dir() and (place / "masks").is_dir() for place in places)


def _holds_labels(root: Path) -> bool:
    tables = [path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.is_file()]
    return any(path.name == "labels.csv" or split_named(path.stem) for path in tables)


def _holds_classes(root: Path) -> bool:
    """Whether there are class folders, or archives of splits: the first image below some folder is enough."""
    archives = (path for path in root.iterdir() if path.name.lower().endswith(ENDING))
    if any(split_named(path.stem) or "ILSVRC" in path.name for path in archives):
        return True
    return any(next(images_below(root / name, LeftOut()), None) for name in folders_of(root))


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir())


_HOLDS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("pack", lambda root: (root / MANIFEST).is_file()),
    ("coco", _holds_coco),
    ("voc", _holds_voc),
    ("folder-masks", _holds_masks),
    ("folder-labels", _holds_labels),
    ("folder", _holds_classes),
)
"""The forms, those whose files tell the most before a mere folder a class."""

_SPLITS: dict[str, Callable[[Path, DataSettings], Splits]] = {
    "coco": coco_splits,
    "voc": lambda root, settings: voc_splits(find_year(root), settings),
    "folder-masks": lambda root, settings: mask_splits(root, settings, _FORMS),
    "folder-labels": lambda root, settings: csv_splits(root, settings, _FORMS),
    "folder": lambda root, settings: folder_splits(root, settings, _FORMS),
}
