"""Names of files and classes that lists and annotations give, looked at before anything else is done with them."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from anysize.data.settings import DataSettings
from anysize.files import is_inside
from anysize.registry import UserError, shown

LONGEST_FILE = 1024
"""Bytes of the name of a file: all names of a list are kept in an array as wide as its longest."""
LONGEST_CLASS = 500
"""Characters of the name of a class."""
MOST_CLASSES = 100_000
_MOST_LABELS = 2**32  # bytes of a table of labels


def twice(names: Sequence[str]) -> str | None:
    """The first of the names that is there more than once; None if each is there once.

    >>> twice(["ant", "bee", "bee"])
    'bee'
    """
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None)


def letters_of(name: str) -> str:
    """A name without its case, and with accents written in one way: what people take for one name.

    >>> letters_of("Cafe\u0301") == letters_of("caf\u00e9")
    True
    """
    return unicodedata.normalize("NFKC", name).casefold()


def is_file_name(name: str) -> bool:
    """Whether a file may have this name.

    >>> is_file_name("a/b.png"), is_file_name("a\\0.png"), is_file_name("a" * 5000)
    (True, False, False)
    """
    return bool(name) and "\0" not in name and len(name) <= LONGEST_FILE >= len(os.fsencode(name))


def check_file_name(name: str, origin: str) -> None:
    """Raise a `UserError` for a name that no file can have; `origin` is where it stands."""
    if not is_file_name(name):
        raise UserError(
            f"{origin} names {shown(name, 60)}; expected the name of a file, which has at most {LONGEST_FILE:,} bytes, "
            "none of them zero"
        )


def check_inside(path: str, name: str, origin: str, settings: DataSettings) -> None:
    """Raise a `UserError` where `path`, which `origin` calls `name`, lies outside of the data's root.

    Symbolic links are not looked at: people link data sets together.
    """
    if settings.outside == "allow" or is_inside(name):
        return
    root = Path(settings.root).expanduser()
    place = os.path.abspath(path)
    if not any(place.startswith(os.path.join(each, "")) for each in (os.path.abspath(root), os.path.realpath(root))):
        raise UserError(
            f"{origin} names {shown(name, 60)}, which lies outside of data.root, {root}; expected files in it: where "
            "others are meant, set data.outside to allow"
        )


def check_class_names(names: Iterable[str], origin: str) -> None:
    """Raise a `UserError` for more names of classes, or longer ones, than there are anywhere; they are told apart."""
    different = set(names)
    if len(different) > MOST_CLASSES:
        raise UserError(f"{origin} names {len(different):,} classes; expected at most {MOST_CLASSES:,}")
    for name in different:
        if len(name) > LONGEST_CLASS:
            raise UserError(
                f"{origin} has a class whose name is {len(name):,} characters long, {shown(name, 60)}; expected at "
                f"most {LONGEST_CLASS}"
            )


def check_labels(images: int, classes: int, rows: int, origin: str) -> None:
    """Raise a `UserError` where a table of labels, a byte each, would not fit into memory."""
    if images * classes * rows > _MOST_LABELS:
        raise UserError(
            f"{origin} has {images:,} images and {classes:,} classes, whose labels take "
            f"{images * classes * rows / 2**30:,.1f} GiB; expected at most {_MOST_LABELS / 2**30:g}: choose some "
            "classes with data.categories, or make several data sets"
        )
