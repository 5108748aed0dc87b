"""Functions that formats with lists of files share: names of classes, missing files, masks beside images."""

import os
import re
from collections.abc import Sequence

import numpy as np

from anysize.data.dataset import Split
from anysize.data.exclude import excluded_by
from anysize.data.formats.mask_files import MaskFiles
from anysize.data.formats.names import check_class_names, twice
from anysize.data.left_out import warn
from anysize.data.settings import DataSettings
from anysize.data.source import VOID, FileSource, FileTargets
from anysize.files import read_regular
from anysize.registry import UserError, did_you_mean, some_of

BACKGROUND = "background"
_MOST_TEXT = 2**30  # bytes of a list
_NUMBERED = re.compile(r"(\d{1,6})[\s:,;=.)]+\S")


def mask_source(
    pairs: Sequence[tuple[str, ...]],
    classes: tuple[str, ...],
    settings: DataSettings,
    split: Split,
    origin: str,
    missing: dict[str, str] | None = None,
) -> FileSource:
    """A source of images with their mask files.

    Args:
        pairs: the paths of each image and its mask.
        classes: names of the numbers in the files, the background first.
        settings: `categories` keeps some classes and makes background of the others; `mask_values` are the values
            in the files that stand for the classes.
        origin: the file or format that names the classes, for messages.
        missing: images that were left out, with the reason.
    """
    if len(classes) > VOID:
        raise UserError(f"{origin} has {len(classes)} classes; expected at most {VOID}, 255 is no class")
    values = settings.mask_values
    distinct = {value for value in values if 0 <= value <= VOID}
    if values and not (len(values) == len(distinct) == len(classes)):
        raise UserError(
            f"data.mask_values is {list(values)}, and {origin} has {len(classes)} classes ({some_of(classes)}); "
            f"expected the value from 0 to {VOID} of each class, in this order"
        )
    numbers, kept = None, classes
    if settings.categories:
        kept = (classes[0], *choose_classes(settings.categories, classes[1:], origin))
        numbers = np.array([kept.index(name) if name in kept else 0 for name in classes], dtype=np.uint8)
    images, masks = zip(*pairs, strict=True)
    files = MaskFiles(masks, len(classes), numbers, values, settings.max_pixels)
    return file_source(images, files, kept, settings, split, missing)


def file_source(
    paths: Sequence[str],
    targets: np.ndarray | FileTargets,
    classes: tuple[str, ...],
    settings: DataSettings,
    split: Split,
    bad_files: dict[str, str] | None = None,
) -> FileSource:
    """A source of files that are read as the settings say."""
    name, policy = f"{settings.name} {split}", settings.on_bad_image
    scaled = settings.decode == "scaled"
    return FileSource(paths, targets, classes, name, policy, bad_files, settings.exif, settings.max_pixels, scaled)


def choose_classes(wanted: Sequence[str], known: Sequence[str], origin: str) -> tuple[str, ...]:
    """The classes that `data.categories` keeps, in its order; a `UserError` for an unknown or repeated name.

    >>> choose_classes(("dog", "cat"), ("ant", "cat", "dog"), "classes.txt")
    ('dog', 'cat')
    """
    for name in wanted:
        if name not in known:
            raise UserError(
                f"data.categories names {name!r}, which {origin} does not have: {did_you_mean(name, known)}"
            )
        if list(wanted).count(name) > 1:
            raise UserError(f"data.categories names {name!r} more than once; expected each class once")
    return tuple(wanted)


def in_old_order(classes: Sequence[str], settings: DataSettings, origin: str) -> tuple[str, ...]:
    """Classes that are sorted by name, each renamed one in the place of its old name (`data.renamed_classes`).

    Raises a `UserError` where a new name is none of the classes, or an old one still is.

    >>> in_old_order(("dog", "zebra"), DataSettings(renamed_classes={"cat": "zebra"}), "pets/train")
    ('zebra', 'dog')
    """
    olds = {}
    for old, new in settings.renamed_classes.items():
        if new not in classes or old in classes:
            still = f"{old!r} is still a class" if old in classes else f"{new!r} is none: {did_you_mean(new, classes)}"
            raise UserError(f"data.renamed_classes says that {old!r} is {new!r} now, but in {origin} {still}")
        olds[new] = old
    return tuple(sorted(classes, key=lambda name: olds.get(name, name)))


def keep_present(
    rows: Sequence[tuple[str, ...]], origins: Sequence[str], settings: DataSettings
) -> tuple[np.ndarray, dict[str, str]]:
    """The numbers of the rows whose files are all there, and for each other image why it is left out.

    Raises a `UserError` where all images are left out, or `on_bad_image` is "error" and one is that `exclude` lacks.

    Args:
        rows: the files of each image, itself first.
        origins: the name of each row for messages, such as "train.txt line 3".
        settings: `on_bad_image` is "error" or "skip", and `exclude` lists images that may be missing.
    """
    good: list[int] = []
    missing: dict[str, str] = {}
    excluded, listed, first = excluded_by(settings), 0, ""
    for number, (files, origin) in enumerate(zip(rows, origins, strict=True)):
        absent = next((file for file in files if not os.path.isfile(file)), "")
        how = "is no file" if absent and os.path.exists(absent) else "is not there"
        if not absent:
            good.append(number)
            continue
        reason = f"{origin} names {'its mask ' if absent != files[0] else ''}{absent}, which {how}"
        missing[files[0]] = reason
        if files[0] in excluded or absent in excluded:
            listed += 1
        else:
            first = first or reason
    if missing and not good:
        named = first or next(iter(missing.values()))
        raise UserError(f"{named}, nor is what any other of the {len(rows):,} lines names; unpack the files there")
    if count := len(missing) - listed:
        more = f" (so it is with {count:,} of the {len(rows):,} lines)" if count > 1 else ""
        if settings.on_bad_image == "error":
            raise UserError(f"{first}{more}; add it, or leave such images out with --data.on_bad_image skip")
        if settings.on_bad_image == "skip":
            warn(f"left out {count} of {len(rows)} images: {first}{more}")
    return np.array(good, dtype=np.int64), missing


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names in a text file, one a line; empty lines are left out, a name may not stand there twice.

    Raises a `UserError`, too, for lines that hold something else besides a name: numbers, quotes, separators.
    """
    lines = {number: line.strip() for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()}
    names = list(lines.values())
    if not names:
        raise UserError(f"{path} is empty; expected the name of a class in each line")
    check_class_names(names, str(path))
    count, numbers = len(names), sorted(int(match[1]) for match in map(_NUMBERED.match, names) if match)
    numbered = count > 1 and numbers in (list(range(count)), list(range(1, count + 1)))
    for number, name in lines.items():
        alone = count == 1 and any(mark in name for mark in ",;|\t")
        if numbered or alone or name[-1] in ",;" or (name[0] == name[-1] and name[0] in "'\""):
            raise UserError(
                f"{path} line {number} is {name[:80]!r}; expected the name of one class alone, without numbers, quotes "
                "and separators: the line says its number, the first is 0"
            )
    if (double := twice(names)) is not None:
        raise UserError(f"{path} names the class {double!r} twice; expected each class once")
    return tuple(names)


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    try:
        return read_regular(path, _MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}); save it in UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
