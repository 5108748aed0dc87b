"""Image folders: which files belong to which class and split."""

from pathlib import Path

import numpy as np

from anysize.data.dataset import Split
from anysize.data.formats.file_lists import in_old_order
from anysize.data.formats.listing import EXPECTED
from anysize.data.formats.names import letters_of
from anysize.data.formats.places import archives_in, first_header, folders_of, place_of, refuse_packed
from anysize.data.formats.splits import NAMES, Splits, find_names, sounds_like_split, split_named
from anysize.data.left_out import LeftOut, warn
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError, some_of


def list_images(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The files of a split with their classes, sorted by class and path.

    Raises a `UserError` where validation has other classes than training, or a class no image.
    """
    splits = folder_splits(root, settings, expected)
    folder, part = splits.find(split)
    place = place_of(folder, splits.root)
    classes = place.classes()
    training = splits.find(splits.telling)[0]
    known = classes if folder == training else place_of(training, splits.root).classes()
    if classes != known:
        odd = sorted(set(classes) ^ set(known))
        alike = len({letters_of(name) for name in odd}) < len(odd)
        hint = ", in the same case and with accents written alike" if alike else ""
        raise UserError(
            f"{folder} has other classes than the train folder beside it: {', '.join(odd[:5])} in only one of them; "
            f"expected the same class folders in both{hint}"
        )
    chosen = in_old_order(classes, settings, str(folder))
    left_out = LeftOut()
    place.beside(left_out)
    if split == "train" and not splits.whole:
        for name in sorted({*folders_of(root)} - {*splits.names.values()}):
            left_out.add("beside the splits", str(root / name))
    below: dict[str, list[str]] = {name: [] for name in chosen}
    files = place.files(below, left_out)
    _check_classes(folder, below, warned=splits.whole and split == "train")
    groups = [splits.hold_out(found, split) if part else found for found in files]
    empty = [str(folder / name) for name, found in zip(chosen, files, strict=True) if not found]
    looked_at = settings.on_bad_image == "list"
    for name, found, own in zip(chosen, files, groups, strict=True):
        if not own and not (looked_at and not found and len(empty) < len(chosen)):
            there = f"; left out: {left_out}" if left_out else ""
            others = [repr(each) for each, files_of in zip(chosen, files, strict=True) if each != name and not files_of]
            so_are = f", nor have {some_of(others)}" if others and not found else ""
            raise UserError(
                f"class {name!r} has no {'second ' if found else ''}image in {folder / name}{so_are}; expected "
                f"{EXPECTED}: add some, or remove the folder{there}"
            )
    targets = np.repeat(np.arange(len(groups), dtype=np.int64), [len(own) for own in groups])
    source = place.source(groups, targets, chosen, settings, split)
    source.empty = tuple(empty)
    if not part or split == "train":  # two parts of one folder leave out the same: it is told once
        source.left_out = left_out
    return source


def folder_splits(root: Path, settings: DataSettings, expected: str) -> Splits:
    """Which folder of root holds which split.

    One folder that is named as a split, but holds no class folders, is a class where others stand beside it: such as
    `train` beside `bus`. Archives are taken for splits that have no folder; without another of these, folders are
    classes.
    """
    entries = folders_of(root)
    named = find_names(root, entries)
    archives = archives_in(root) if root.is_dir() and len(named) < len(NAMES) else {}
    if root.is_dir() and not (named or entries or archives):
        refuse_packed(root)
    if named or not entries or archives.keys() >= {"train", "validation"}:
        named = {**archives, **named}
    filled = {split: name for split, name in named.items() if folders_of(root / name)}
    if not filled and len(named) == 1 and len(entries) > 1:
        return Splits(root, {}, settings, expected)
    if filled and "test" not in filled:  # images without classes, as Kaggle has them, are no test of a classifier
        named.pop("test", None)
    return Splits(root, named, settings, expected)


def first_image_size(root: Path, settings: DataSettings, expected: str) -> tuple[int, int]:
    """Height and width of the first readable image, of the training split if it is there, from its header."""
    splits = folder_splits(root, settings, expected)
    folder = splits.find(splits.telling)[0]
    return first_header(place_of(folder, splits.root), settings).shape


def _check_classes(folder: Path, below: dict[str, list[str]], *, warned: bool) -> None:
    """Refuse splits that lie below the classes; warn of classes that look like splits of unknown names."""
    for name, inner in below.items():
        named = [each for each in inner if split_named(each)]
        if len({split_named(each) for each in named}) > 1:
            raise UserError(
                f"{folder / name} holds {' and '.join(named)}, which are named as splits; expected the splits above "
                f"the classes, as in train/CLASS/IMAGE: move them there, or give {folder / name} as data.root"
            )
    first, *others = below.values()
    if warned and others and len(first) > 1 and all(inner == first for inner in others):
        told, inside = ", ".join([*below][:4]), ", ".join(first[:4])
        if all(sounds_like_split(name) for name in below):
            raise UserError(
                f"{folder} holds {told}, which look like splits, as each holds the folders {inside}; expected the "
                "usual names: call them train, validation and test"
            )
        warn(
            f"{told} are taken for classes, but each holds the folders {inside}: if they are splits, name them train "
            "and validation"
        )
