"""Labels in CSV files: a list of labels an image, or a column a class."""

import csv
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anysize.data.dataset import MissingSplit, Split
from anysize.data.formats.file_lists import (
    choose_classes,
    file_source,
    in_old_order,
    keep_present,
    read_class_names,
    read_text,
)
from anysize.data.formats.listing import each_once
from anysize.data.formats.names import (
    check_class_names,
    check_file_name,
    check_inside,
    check_labels,
    twice,
)
from anysize.data.formats.splits import Splits, find_names, split_named
from anysize.data.left_out import LeftOut
from anysize.data.settings import DataSettings
from anysize.data.source import FileSource
from anysize.registry import UserError, did_you_mean, shown

_WHOLE = "labels.csv"
_CLASSES = "classes.txt"
_MARKS = ";|,"  # what separates labels, the first that occurs; where none does, spaces
_VALUES = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
_WRAPPING = "'\"`[]{}"  # what begins or ends a label only where a program wrote a list or a quoted text
_FORMS = "expected 'image,labels', or 'image' and a column a class"


class _Row(NamedTuple):
    """An image of a table, the line that it stands in, and the names of its classes."""

    image: str
    line: int
    labels: Sequence[str]


class _Table(NamedTuple):
    """A CSV file. `columns` are the classes that its header names; empty where rows name them.

    `separator` is what separates labels: ';' if any line has it, or else '|', or else ',', or else spaces (None).
    """

    path: Path
    columns: Sequence[str]
    rows: list[_Row]
    separator: str | None


def load_folder_labels(root: Path, settings: DataSettings, split: Split, expected: str) -> FileSource:
    """The images of a split with their labels, uint8 (N, 1, classes), in the order of the file."""
    splits = csv_splits(root, settings, expected)
    path, part = splits.find(split)
    told_by = splits.find(splits.telling)[0]
    training = table = _read(root / _WHOLE if splits.whole else told_by)
    if path != told_by:
        table = _read(path, training)
    if os.path.lexists(root / _CLASSES):
        classes, origin = read_class_names(root / _CLASSES), root / _CLASSES
        in_old_order(classes, settings, str(origin))  # says what is wrong with data.renamed_classes
    else:
        names = sorted(training.columns or {name for row in training.rows for name in row.labels})
        classes, origin = in_old_order(names, settings, str(training.path)), training.path
        _check_written(training)
    if not classes:
        raise UserError(f"{training.path} names no label in any line; expected labels in some of them")
    _check_classes(training, classes, origin)
    if table is not training:
        _check_classes(table, classes, origin)
    left_out = LeftOut()
    named = [_image_file(root, row.image) for row in table.rows]
    for image, row in zip(named, table.rows, strict=True):
        check_inside(image, row.image, f"{table.path} line {row.line}", settings)
    once = each_once(named, root, left_out)
    rows = [table.rows[i] for i in once]
    if part:
        _check_whole(table, splits)
        rows = splits.hold_out(rows, split)
    if not rows:
        raise UserError(f"{table.path} has one image; expected two at least: a tenth is held out for validation")
    files = [(_image_file(root, row.image),) for row in rows]
    good, missing = keep_present(files, [f"{table.path} line {row.line}" for row in rows], settings)
    kept = choose_classes(settings.categories, classes, str(origin)) or classes
    check_labels(len(good), len(kept), 1, str(table.path))
    number = {name: i for i, name in enumerate(kept)}
    targets = np.zeros((len(good), 1, len(kept)), dtype=np.uint8)
    for place, i in enumerate(good):
        targets[place, 0, [number[label] for label in rows[i].labels if label in number]] = 1
    paths = [files[i][0] for i in good]
    source = file_source(paths, targets, kept, settings, split, missing)
    if not part or split == "train":  # two parts of one file leave out the same: it is told once
        source.left_out = left_out
    return source


def csv_splits(root: Path, settings: DataSettings, expected: str) -> Splits:
    """Which CSV file of root holds which split; labels.csv holds all."""
    named = find_names(root, (entry.name for entry in os.scandir(root) if not entry.is_dir()), ".csv")
    if (root / _WHOLE).exists() and "train" not in named:
        return Splits(root, {}, settings, expected)
    if not named:
        raise MissingSplit(f"{root} has no train.csv (or training.csv); expected {expected}")
    return Splits(root, named, settings, expected, "", ".csv")


def _check_whole(table: _Table, splits: Splits) -> None:
    """Refuse images in folders named as splits where a part of all images would be held out."""
    folders = {row.image.removeprefix("images/").partition("/")[0] for row in table.rows if "/" in row.image}
    named = sorted(name for name in folders if split_named(name))
    if splits.whole and len({split_named(name) for name in named}) > 1:
        raise UserError(
            f"{table.path} names images in the folders {' and '.join(named)}, which are named as splits; expected a "
            "CSV file a split: train.csv and validation.csv"
        )


def _image_file(root: Path, name: str) -> str:
    path = os.path.join(root, name)
    below = os.path.join(root, "images", name)
    if os.path.exists(path):
        return path
    return below if os.path.isdir(os.path.dirname(below)) else path  # where it is wanted, if it is in neither


def _read(path: Path, training: _Table | None = None) -> _Table:
    """A CSV file; its labels are separated as in the training file, if that is another one."""
    lines = list(_lines(path))
    if not lines:
        raise UserError(f"{path} is empty; {_FORMS}")
    (_, names), *cells = lines
    if len(names) < 2 or names[0].lower() != "image":
        raise UserError(f"{path} begins with {','.join(names)[:80]!r}; {_FORMS}")
    check_class_names(names[1:], f"{path} line 1")
    double = "" if "" in names else twice(names)
    if double is not None:
        raise UserError(
            f"{path} line 1 has {f'two columns {double!r}' if double else 'a column without a name'}; {_FORMS}"
        )
    if not cells:
        raise UserError(f"{path} has a header and no images; expected one a line below it")
    seen: dict[str, int] = {}
    for line, (image, *values) in cells:
        if len(values) != len(names) - 1:
            raise UserError(
                f"{path} line {line} has {len(values) + 1} values; expected {len(names)} as in the header (several "
                "labels are separated by ';')"
            )
        if not image:
            raise UserError(f"{path} line {line} names no image; expected one in the first column")
        check_file_name(image, f"{path} line {line}")
        first = seen.setdefault(os.path.normpath(image), line)
        if first != line:
            raise UserError(f"{path} line {line} names {image} again, after line {first}; expected one line an image")
    columns = names[1:]
    if [name.lower() for name in columns] != ["labels"]:
        rows = [_Row(image, line, list(_chosen(path, line, columns, values))) for line, (image, *values) in cells]
        return _Table(path, columns, rows, None)
    mark = training.separator if training else next((m for m in _MARKS if any(m in row[1] for _, row in cells)), None)
    labels = [[part.strip() for part in text.split(mark) if part.strip()] for _, (_, text) in cells]
    check_class_names(itertools.chain.from_iterable(labels), str(path))
    rows = [_Row(image, line, each) for (line, (image, _)), each in zip(cells, labels, strict=True)]
    return _Table(path, (), rows, mark)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, stripped, each with the number of the line that it ends in."""
    reader = csv.reader(io.StringIO(read_text(path)), strict=True, skipinitialspace=True)
    try:
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is no CSV ({error}); {_FORMS}") from error


def _chosen(path: Path, line: int, columns: Sequence[str], values: Sequence[str]) -> Iterator[str]:
    """The columns whose values say that the image has the class."""
    for name, value in zip(columns, values, strict=True):
        if value.lower() not in _VALUES:
            raise UserError(
                f"{path} line {line} has {shown(value, 60)} in column {name!r}; expected 0 or 1 (or false or true)"
            )
        if _VALUES[value.lower()]:
            yield name


def _check_written(table: _Table) -> None:
    """Refuse a label that is written as several labels may be, or not as a name, where no file says that it is one."""
    if table.columns:
        return
    labels = {label for row in table.rows for label in row.labels}
    marks = [mark for mark in _MARKS if mark != table.separator]
    for row in table.rows:
        for label in row.labels:
            parts = [part.strip() for mark in marks if mark in label for part in label.split(mark)]
            words = label.split()
            if any(part in labels for part in parts) or (len(words) > 1 and labels.issuperset(words)):
                fault = "may be several"
            elif label[0] in _WRAPPING or label[-1] in _WRAPPING or not any(map(str.isalnum, label)):
                fault = "is not written as a name"
            else:
                continue
            used = f"{table.separator!r}" if table.separator else "spaces"
            raise UserError(
                f"{table.path} line {row.line} has the label {label!r}, which {fault}; expected names separated by "
                f"{used}, as in the rest of the file, or a {_CLASSES} that has this name"
            )


def _check_classes(table: _Table, classes: Sequence[str], origin: Path) -> None:
    """Refuse classes that are not known, and columns that are missing."""
    known = set(classes)
    named = [(f"{table.path} has a column", table.columns)]
    named += [(f"{table.path} line {row.line} has the label", row.labels) for row in table.rows]
    for place, names in named:
        for name in names:
            if name not in known:
                raise UserError(f"{place} {name!r}, which {origin} does not have: {did_you_mean(name, known)}")
    there = set(table.columns)
    lacking = [name for name in classes if name not in there] if there else []
    if lacking:
        raise UserError(f"{table.path} has no column {lacking[0]!r}, which {origin} has; expected a column a class")
