"""What the files of a run folder look like, and reading them: a folder may be damaged, or come from somebody else.

What does not fit is left out, and the log says so once, in a line; all else goes on without it.
"""

import csv
import dataclasses
import functools
import io
import json
import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from anysize.files import read_text
from anysize.forms import Form, Unfit, each, either, fields, number, one_of, optional, series, table, text
from anysize.registry import in_a_line
from anysize.renamed import name_now

T = TypeVar("T")

logger = logging.getLogger(__name__)

TABLE_BYTES, TEXT_BYTES, PICTURE_BYTES = 1 << 28, 1 << 24, 1 << 22
"""The most that is read of a table, of a recipe or other text, and of a picture in the report."""
PIXELS = 1 << 22
"""Of a picture in the report, at most; those of this package have a fortieth of it."""


def _any(value: Any, where: str) -> Any:
    return value


_TRUTH = one_of(True, False)
_SIZE = number(0, 10**6, whole=True)
_COUNT = number(0, 10**15, whole=True)
_PLAIN = either(text(100_000), _TRUTH, number())

ENVIRONMENT: Form = table(optional(_PLAIN), most=1000)
SIZES: Form = table(number(0, 1), most=1000, key=lambda name, where: _SIZE(_whole(name), where))
"""The cell `sizes` of `metrics.csv`: image size -> share."""

PREDICTIONS: Form = fields(
    size=_SIZE,
    calibrated=_TRUTH,
    seen=_COUNT,
    images=each(
        fields(
            {"score": number(), "number": text(200), "one": _TRUTH, "certain": _TRUTH},
            name=text(4000),
            lines=each(series(text(), optional(number()), one_of("right", "wrong", "missed"))),
            pictures=table(text(), most=20),
            legend=table(series(*[number(0, 255, whole=True)] * 3), key=text()),
        ),
        most=1000,
    ),
)
SETTINGS: Mapping[str, Form] = {
    "sizes.base": _SIZE,
    "training.epochs": number(0, 10**9),
    "training.equal_flops": _TRUTH,
    "training.early_stopping": number(0, 10**6, whole=True),
    "training.early_stopping_delta": number(0),
}
"""The settings that reports calculate with; others are shown as they stand."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table: those that are `needed` and others that `may` be there, by the form of their cells.

    The cells of `texts` are text as they stand, those of `truths` True or False, all others numbers; an empty one is a
    missing number, which a `needed` column has not.
    """

    needed: Mapping[str, Form] = dataclasses.field(default_factory=dict)
    may: Mapping[str, Form] = dataclasses.field(default_factory=dict)
    texts: tuple[str, ...] = ()
    truths: tuple[str, ...] = ()
    rows: int = 10**6
    """At most."""
    grows: bool = False
    """Whether it is read while lines are added to it: what follows the last end of a line is not there yet."""


_MADE = ("checkpoint", "split", "settings")
_TABLE = {"table": text(), "row": text(), "column": text(), "value": _any}
_POSITIVE = number(1e-12, 1e15)
METRICS = Columns(
    {"epoch": number(0, 10**9, whole=True)}, {"validation_size": _SIZE}, ("sizes",), ("validation_calibrated",), 10**5
)
STEPS = Columns(
    {"step": _COUNT},
    {
        "epoch": number(0, 10**9), "images": _COUNT, "flops": number(0), "seconds": number(0), "lr": number(0),
        "images_per_second": number(0), "waiting": number(0, 1),
    },
    ("sizes",),
    grows=True,
)  # fmt: skip
EVALUATION = Columns(
    {"size": _SIZE, "calibrated": _TRUTH},
    {"latency": number(0), "prepared_flops": number(0), "strength": number(0, 1), "part": number(0, 1)},
    (*_MADE, "choice"),
    ("calibrated",),
)
EVALUATION_TABLES = Columns(
    {"size": _SIZE, "calibrated": _TRUTH, **_TABLE}, texts=(*_MADE, "table", "row", "column"), truths=("calibrated",)
)
IMAGE_PREDICTIONS = Columns(
    {"size": _SIZE, "calibrated": _TRUTH, "image": text(4000), "truth": text(10_000), "predicted": text(10_000)},
    {"score": number(), "probability": number(0, 1)},
    texts=(*_MADE, "image", "truth", "predicted"),
    truths=("calibrated",),
)
CONFUSION = Columns(
    {"size": _SIZE, "calibrated": _TRUTH, "true": text(), "predicted": text(), "pixels": _COUNT},
    texts=(*_MADE, "true", "predicted"),
    truths=("calibrated",),
)
SCALE_POLICY = Columns(
    {
        "block": text(), "label": text(), "images": _COUNT, "size": _SIZE, "low_share": number(-1e6, 1e6),
        "low_share_sd": number(0, 1e6),
    },
    texts=("block", "label"),
    rows=10**5,
)  # fmt: skip
INT8 = Columns(
    {
        "checkpoint": text(), "metric": text(200), "size": _SIZE, "images": _COUNT, "changed": _COUNT,
        **dict.fromkeys(("float", "int8", "agree"), _any),
    },
    {"lost": number(), "spread": number(), "float_bytes": _POSITIVE, "int8_bytes": _POSITIVE},
    texts=("checkpoint", "metric"),
    rows=1000,
)  # fmt: skip
INT8_LAYERS = Columns(
    {"layer": text(), "computed": text(), "reason": text(), "signal_to_noise": _any},
    texts=("checkpoint", "layer", "computed", "reason"),
    rows=10**5,
)


def read_piece(path: Path, read: Callable[[Path], T], instead: T) -> T:
    """What `read` gives for a file of a run folder; `instead` where there is none or, which is said, a damaged one.

    >>> read_piece(Path("/nowhere/metrics.csv"), read_json, {})
    {}
    """
    if not os.path.lexists(path):
        return instead
    try:
        return read(path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        say_left_out(str(path), error)
        return instead


def say_left_out(what: str, error: Exception) -> None:
    """Say, once a process, that something of a run folder is left out, and why."""
    say_once(f"{what} is left out: {reason(error)}")


@functools.lru_cache(maxsize=1000)
def say_once(sentence: str) -> None:
    """Warn, once a process."""
    logger.warning(sentence)


def reason(error: BaseException) -> str:
    """Why a file cannot be read, in a line."""
    if isinstance(error, OSError):
        return in_a_line(error.strerror or error)
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in UTF-8 (byte {error.start:,})"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    kinds = {json.JSONDecodeError: "JSON", tomllib.TOMLDecodeError: "TOML", csv.Error: "CSV"}
    kind = next((f"no {name}: " for each, name in kinds.items() if isinstance(error, each)), "")
    return kind + in_a_line(str(error).split("\n")[0] or type(error).__name__, 200)


def read_json(path: Path) -> Any:
    """The values in a JSON file, without a look at what they are."""
    return json.loads(read_text(path, TEXT_BYTES))


def read_cells(path: Path, limit: int = TABLE_BYTES, *, grows: bool = False) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file, as text; of one that `grows` those that are whole.

    Raises:
        OSError: it is no file, or larger than `limit` bytes.
        ValueError: it is no UTF-8, or its rows have not the cells of the header.
        csv.Error: it is no CSV.
    """
    content = read_text(path, limit)
    return cells_of(content[: content.rfind("\n") + 1] if grows else content)


def cells_of(content: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of CSV; errors as of `read_cells`."""
    rows = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    if not rows:
        raise ValueError("it is empty")
    header, *rows = rows
    if len(header) > 1000 or len(set(header)) < len(header) or any(not 0 < len(name) <= 200 for name in header):
        raise Unfit("the header", ",".join(header), "at most 1,000 different names of columns")
    for i, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise Unfit(f"line {i}", ",".join(row), f"{len(header)} cells as in the header")
    return header, rows


def flat_settings(recipe: str) -> dict[str, Any]:
    """The settings of a recipe as `section.field` -> value, without those of `SETTINGS` that do not fit.

    Raises:
        ValueError, RecursionError: it is no TOML.
    """
    flat = {name_now(name, say=False): value for name, value in _flatten(tomllib.loads(recipe)).items()}
    fitting = {}
    for name, value in flat.items():
        try:
            fitting[name] = SETTINGS.get(name, _setting)(value, name)
        except Unfit:
            continue  # it is shown as text anyway
    return fitting


def _setting(value: Any, where: str) -> Any:
    return number()(value, where) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _whole(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 else name


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
