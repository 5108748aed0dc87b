"""The files of a run folder: their names, and writing them so that a crash never leaves half of one.

    recipe.toml       the resolved recipe
    environment.json  versions and machine, a flat dict
    metrics.csv       a row an epoch
    steps.csv         a row every few steps
    evaluation.csv    a row an image size, as trained and calibrated
    evaluation_tables.csv  the same by class, by object size and the like, a row a value
    predictions.csv   what is predicted for each image, at one size (`image_predictions`)
    confusion.csv     of masks: the pixels of each class by the class they are taken for
    predictions/      pictures of predictions on validation images, the worst first
    int8.csv          how the int8 model compares with the original, a row an image size
    int8_layers.csv   its layers: in int8 or in float, the noise in each
    int8_changed/     pictures of validation images to which its answers differ
    scale_policy.csv  how much an elastic network's blocks use half resolution, by class
    log.txt           messages with their time
    report.html       the report, renewed at the end and now and then
    tracking.txt      what the run is called in trackers, where it has some

The folder of `train --repeat` holds such folders, and `repeats.csv` with the spread of their last and best figures.

`metrics.csv` has the columns `epoch` (epochs done), `step`, `images`, `flops` and `seconds` (all counted from the start
of the run, `seconds` without evaluation), `lr`, `images_per_second`, `waiting` (share of the epoch's time in which
images were waited for), `sizes` (JSON: size -> share of the epoch's images), and the task's `train_*` and
`validation_*`; `validation_calibrated` and `validation_size` say how the validation was done. `steps.csv` has `step`,
`epoch` (epochs done, with their fraction), `images`, `flops`, `seconds` and `lr` as they stand there, and over the
steps since the row before `sizes`, `loss` and the task's other metrics, `gradient_norm`, `images_per_second` and
`waiting`.
`evaluation.csv` has `checkpoint`, `split`, `settings` (those of test time that are not as usual, or not the run's),
`size`, `calibrated`, `images`, `images_per_second`, `flops` (of one image forward), `prepared_flops` (what calibrating
or adapting took), where it was measured `latency` (seconds of one image alone), and the task's metrics.
`scale_policy.csv` has `block`, `label` (empty: all images), `images`, `size`, and over these images mean and standard
deviation of `low_share`, the part of a block's output that comes from half resolution. Metrics such as top-1 are
fractions in files and percentages on screen.

But for the recipe and the checkpoints these files stand beside a run: one that cannot be written is said, and the run
goes on (`go_on_without`). One that rows are to be added to and that is no table is kept as NAME.damaged.
"""

import contextlib
import csv
import io
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anysize.files import is_left_over, remove, replacing
from anysize.machine import is_out_of_memory, is_short
from anysize.registry import UserError, in_a_line
from anysize.reports import schema
from anysize.reports.schema import read_cells, read_json, read_piece, reason

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
RECIPE = "recipe.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
STEPS = "steps.csv"
EVALUATION = "evaluation.csv"
EVALUATION_TABLES = "evaluation_tables.csv"
SCALE_POLICY = "scale_policy.csv"
IMAGE_PREDICTIONS = "predictions.csv"
CONFUSION = "confusion.csv"
PREDICTIONS = "predictions"
INT8 = "int8.csv"
INT8_LAYERS = "int8_layers.csv"
CHANGED = "int8_changed"
LOG = "log.txt"
REPORT = "report.html"
REPEATS = "repeats.csv"
SEARCH = "search.csv"
TRACKING = "tracking.txt"

EVALUATION_KEYS = ("checkpoint", "split", "settings", "size", "calibrated")
"""What tells the rows of evaluations apart."""


def check_is_own(folder: Path, name: str = CHECKPOINTS) -> None:
    """Raise a `UserError` where a folder in a run folder is a link: a run writes into its own folder alone.

    The run folder itself, and those that it lies in, may be links to another disk.
    """
    path = folder / name
    if path.is_symlink():
        raise UserError(
            f"{path} is a link to {in_a_line(os.readlink(path))}, and what belongs to a run is written into its own "
            "folder alone; move the whole run there and make the run folder the link, or write elsewhere"
        )


def write_recipe(folder: Path, text: str) -> None:
    """Write `recipe.toml`: a path that is no UTF-8 stands there with its own bytes, so that it is found again."""
    write_atomically(folder / RECIPE, text.encode(errors="surrogateescape"))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside `path` and rename it into place: `path` holds the old or the new content, never a part.

    Text is written in UTF-8; what no UTF-8 is, as a file's name may be, stands there as in Python, such as `\\udce9`.

    Raises a `UserError` where the disk is full, or the folder is missing or may not be written.
    """
    try:
        with replacing(path) as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there is unchanged, make room or write elsewhere"
        ) from error


def go_on_without(
    path: Path,
    write: Callable[[], object],
    told: set[Path] | None = None,
    warn: Callable[[str], object] = logger.warning,
) -> bool:
    """Write a file that stands beside a run, such as its report; where that cannot be, warn and go on.

    Args:
        path: what is written.
        write: writes it.
        told: what was warned of already, which is once. None: nothing.
        warn: is told why.

    Returns:
        Whether it is written.

    >>> go_on_without(Path("report.html"), lambda: None)
    True
    """
    try:
        write()
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not is_out_of_memory(error):
            raise  # ValueErrors are of users, and of pandas for other files that are damaged
        if told is None or path not in told:
            warn(f"cannot write {path}, and goes on without it: {reason_of(error)}")
        if told is not None:
            told.add(path)
        return False
    return True


def write_all_that_can_be(files: Mapping[Path, Callable[[], object]]) -> list[str]:
    """`go_on_without` for several files; returns the paths of those that are written."""
    return [str(path) for path, write in files.items() if go_on_without(path, write)]


def reason_of(error: BaseException) -> str:
    """Why a file cannot be written or read, in a line; it does not name the file where that can be."""
    return reason(error.__cause__ if isinstance(error.__cause__, OSError) else error)


def check_writable(path: Path) -> None:
    """Raise a `UserError` where a file `path` could not be written, before anything is computed for it.

    >>> check_writable(Path("/nowhere/table.csv"))
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: cannot write /nowhere/table.csv: there is no folder /nowhere; make it or write elsewhere
    """
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it or write elsewhere")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; expected the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: {path.parent} may not be written; write elsewhere")


def read_rows(
    path: Path, check: Callable[[dict[str, str]], object] = bool, *, grows: bool = False
) -> list[dict[str, str]]:
    """The rows of a CSV file as text, exactly as they stand; none when there is no file.

    One that is damaged is kept as NAME.damaged, which the log says: the rows are to be written anew.

    Args:
        check: is called with each row, and raises a `ValueError` or `KeyError` for one that is none.
        grows: as of `read_cells`.

    Raises:
        OSError: it can be neither read nor renamed.
    """
    if not os.path.lexists(path):
        return []
    try:
        return _rows(path, check, grows=grows)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        if is_short(error):  # of the machine, and not of the file
            raise
        numbered = (f"{path.name}.damaged{number}" for number in itertools.chain(("",), itertools.count(2)))
        beside = path.rename(next(new for name in numbered if not os.path.lexists(new := path.with_name(name))))
        why = f"it has no column {error}" if isinstance(error, KeyError) else reason(error)
        what = "cannot be read" if isinstance(error, OSError) else "is damaged"
        logger.warning("%s %s (%s): it is kept as %s, and a new one begins", path, what, why, beside.name)
        return []


def _rows(path: Path, check: Callable[[dict[str, str]], object], *, grows: bool) -> list[dict[str, str]]:
    header, cells = read_cells(path, grows=grows)
    if not cells and not grows:  # no other table is ever written without rows
        raise ValueError(f"it has one line alone, {in_a_line(','.join(header))}")
    rows = [dict(zip(header, row, strict=True)) for row in cells]
    for row in rows:
        check(row)
    return rows


def remove_left_overs(folder: Path, before: float) -> None:
    """Remove what a killed process has left half-written in a run folder: files of ours not touched since `before`."""
    for path in (*filter(is_left_over, folder.glob(".*.tmp")), *folder.glob(".clock????????")):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < before:
                remove(path)


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a table that `text_of` wrote."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write_rows(path: Path, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Write rows as CSV, atomically; columns are those of all rows, in order of appearance. No rows: no file.

    A missing value, None and NaN become empty cells, a dict becomes JSON.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_atomically(path, text_of(rows))


def text_of(rows: Sequence[Mapping[Any, Any]], columns: Sequence[str] = (), *, header: bool = True) -> str:
    """Rows as CSV, with their own columns if none are given; empty for neither. Cells as `write_rows` has them."""
    columns = columns or list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({column: _cell(value) for column, value in row.items()} for row in rows)
    return text.getvalue()


def add_rows(path: Path, rows: Sequence[Mapping[Any, Any]], keys: Sequence[str] = EVALUATION_KEYS) -> None:
    """Add rows of an evaluation to a CSV file, in place of those with the same checkpoint, split, settings and size, or
    what `keys` names.

    Rows that an earlier version wrote do not tell their settings, which are then "unknown".
    """
    new = {tuple(str(_cell(row.get(key, ""))) for key in keys) for row in rows}
    kept = [
        {"split": "validation", "settings": "unknown", **row} for row in read_rows(path, lambda row: int(row["size"]))
    ]
    kept = [row for row in kept if tuple(row.get(key, "") for key in keys) not in new]
    columns = dict.fromkeys(column for row in (*rows, *kept) for column in row)
    write_rows(path, [{column: row.get(column) for column in columns} for row in (*kept, *rows)])


def write_environment(folder: Path, environment: dict[str, Any]) -> None:
    """Write `environment.json`."""
    write_atomically(folder / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def read_environment(folder: Path) -> dict[str, Any]:
    """What a run was trained on and with; empty where that is not known."""
    found: dict[str, Any] = read_piece(folder / ENVIRONMENT, lambda path: schema.ENVIRONMENT(read_json(path), ""), {})
    return found


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return "" if isinstance(value, float) and math.isnan(value) else value
