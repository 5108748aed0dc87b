"""Labels in CSV files: a list of labels an image, or a column a class."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anysize.data.dataset import Split
from anysize.data.formats.folders import hold_out
from anysize.data.formats.mask_sources import choose_classes, keep_present, read_class_names, read_text
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError, did_you_mean

_FILES = {"train": ("train.csv",), "validation": ("validation.csv", "val.csv", "test.csv")}
_WHOLE = "labels.csv"
_CLASSES = "classes.txt"
_VALUES = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
_FORMS = "expected 'image,labels', or 'image' and a column a class"


class _Row(NamedTuple):
    """An image of a table, the line that it stands in, and the names of its classes."""

    image: str
    line: int
    labels: tuple[str, ...]


class _Table(NamedTuple):
    """A CSV file. `columns` are the classes that its header names; empty where rows name them."""

    path: Path
    columns: tuple[str, ...]
    rows: list[_Row]

    def names(self) -> tuple[str, ...]:
        """The classes of the table, sorted."""
        return tuple(sorted(self.columns or {label for row in self.rows for label in row.labels}))


def load_folder_labels(root: Path, settings: DataSettings, split: Split) -> FileSource:
    """The images of a split with their labels, uint8 (N, 1, classes), in the order of the file.

    Raises:
        UserError: files or images are missing, or a line is not as expected.
    """
    training, separator = _read(_table_file(root, "train"))
    whole = training.path.name == _WHOLE
    table = training if whole or split == "train" else _read(_table_file(root, split), separator)[0]
    classes, origin = training.names(), training.path
    if (root / _CLASSES).is_file():
        classes, origin = read_class_names(root / _CLASSES), root / _CLASSES
    if not classes:
        raise UserError(f"{training.path} names no label in any line; expected labels in some of them")
    for each in dict.fromkeys((training.path, table.path)):
        _check_classes(training if each == training.path else table, classes, origin)
    rows = table.rows
    if whole:
        rows = [table.rows[int(i)] for i in hold_out(list(map(str, range(len(table.rows)))), split)]
        if not rows:
            raise UserError(f"{table.path} has one image; expected two at least: a tenth is held out for validation")
    files = [(_image_file(root, row.image),) for row in rows]
    good, missing = keep_present(files, [f"{table.path} line {row.line}" for row in rows], settings.on_bad_image)
    kept = choose_classes(settings.categories, classes, str(origin)) or classes
    number = {name: i for i, name in enumerate(kept)}
    targets = np.zeros((len(good), 1, len(kept)), dtype=np.uint8)
    for place, i in enumerate(good):
        targets[place, 0, [number[label] for label in rows[i].labels if label in number]] = 1
    paths = [files[i][0] for i in good]
    source = FileSource(paths, targets, kept, f"{settings.name} {split}", settings.on_bad_image)
    source.bad_files.update(missing)
    return source


def _table_file(root: Path, split: Split) -> Path:
    """The file of a split, or, without train.csv, that of both."""
    if not (root / "train.csv").is_file() and (root / _WHOLE).is_file():
        return root / _WHOLE
    for name in _FILES[split]:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"{root} has no {' or '.join(_FILES[split])}; expected train.csv and validation.csv (or val.csv, or test.csv), "
        f"or {_WHOLE} alone"
    )


def _image_file(root: Path, name: str) -> str:
    path = os.path.join(root, name)
    below = os.path.join(root, "images", name)
    if os.path.isfile(path):
        return path
    return below if os.path.isdir(os.path.dirname(below)) else path  # where it is wanted, if it is in neither


def _read(path: Path, separator: str | None = None) -> tuple[_Table, str]:
    """A CSV file, and what separates labels in it: ';' if any line has it, or else '|', or else spaces.

    Args:
        separator: what separates them in the training file.
    """
    lines = _lines(path)
    _, header = next(lines, (0, []))
    names = [name.strip() for name in header]
    if not names:
        raise UserError(f"{path} is empty; {_FORMS}")
    if len(names) < 2 or names[0].lower() != "image":
        raise UserError(f"{path} begins with {','.join(header)[:80]!r}; {_FORMS}")
    twice = next((name for name in names if names.count(name) > 1 or not name), None)
    if twice is not None:
        raise UserError(
            f"{path} line 1 has {f'two columns {twice!r}' if twice else 'a column without a name'}; {_FORMS}"
        )
    cells = list(lines)
    if not cells:
        raise UserError(f"{path} has a header and no images; expected one a line below it")
    for line, row in cells:
        if len(row) != len(names):
            raise UserError(
                f"{path} line {line} has {len(row)} values; expected {len(names)} as in the header (labels "
                "are separated by ';')"
            )
        if not row[0].strip():
            raise UserError(f"{path} line {line} names no image; expected one in the first column")
    _check_duplicates(path, cells)
    if [name.lower() for name in names] != ["image", "labels"]:
        return _Table(path, tuple(names[1:]), list(_rows_of_columns(path, names, cells))), " "
    if separator is None:
        separator = next((mark for mark in ";|" if any(mark in row[1] for _, row in cells)), " ")
    rows = [_Row(row[0].strip(), line, _split(row[1], separator)) for line, row in cells]
    return _Table(path, (), rows), separator


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of the line that it ends in."""
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is no CSV ({error}); {_FORMS}") from error


def _split(cell: str, separator: str) -> tuple[str, ...]:
    parts = cell.split() if separator == " " else [part.strip() for part in cell.split(separator)]
    return tuple(part for part in parts if part)


def _rows_of_columns(path: Path, names: list[str], cells: list[tuple[int, list[str]]]) -> Iterator[_Row]:
    for line, row in cells:
        labels = []
        for name, cell in zip(names[1:], row[1:], strict=True):
            value = _VALUES.get(cell.strip().lower())
            if value is None:
                raise UserError(
                    f"{path} line {line} has {cell!r} in column {name!r}; expected 0 or 1 (or false or true)"
                )
            if value:
                labels.append(name)
        yield _Row(row[0].strip(), line, tuple(labels))


def _check_duplicates(path: Path, cells: list[tuple[int, list[str]]]) -> None:
    seen: dict[str, int] = {}
    for line, row in cells:
        name = os.path.normpath(row[0].strip())
        if name in seen:
            raise UserError(
                f"{path} line {line} names {row[0].strip()} again, after line {seen[name]}; expected one line an image"
            )
        seen[name] = line


def _check_classes(table: _Table, classes: Sequence[str], origin: Path) -> None:
    """Refuse classes that are not known, and columns that are missing."""
    known = set(classes)
    for name in table.columns:
        if name not in known:
            raise UserError(
                f"{table.path} has a column {name!r}, which {origin} does not have: {did_you_mean(name, known)}"
            )
    for row in table.rows:
        for name in row.labels:
            if name not in known:
                raise UserError(
                    f"{table.path} line {row.line} has the label {name!r}, which {origin} does not have: "
                    f"{did_you_mean(name, known)}"
                )
    lacking = [name for name in classes if name not in table.columns] if table.columns else []
    if lacking:
        raise UserError(f"{table.path} has no column {lacking[0]!r}, which {origin} has; expected a column a class")
