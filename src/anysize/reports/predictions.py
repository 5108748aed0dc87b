"""Pictures of predictions: their folder in a run, and their section of the report.

`predictions/predictions.json` lists the images, the worst first, with what is said of each and the names of its
pictures, which lie beside it.
"""

import contextlib
import dataclasses
import errno
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from anysize.files import is_inside, name_beside, read_regular, remove
from anysize.forms import Unfit
from anysize.registry import UserError, in_a_line
from anysize.reports import run_files, schema
from anysize.reports.page import Template, cards, section
from anysize.reports.pictures import LEGEND, data_uri
from anysize.reports.schema import read_json, read_piece, say_left_out
from anysize.tasks.records import Shown

_LINES = 16  # labels at most of an image
_SIDE = 320  # pixels at most of a picture in the report
_FILE = "predictions.json"
_SIGNS = {"right": "✓", "partly": "◐", "wrong": "✗", "missed": "○"}
_WORDS = {
    "right": "right",
    "partly": "in part (IoU below 50%)",
    "wrong": "wrong (predicted, not true)",
    "missed": "missed (true, not predicted)",
}
_IOU = "IoU"  # is right from a half on


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions at an image size: (name, image uint8 (H, W, 3), what the task shows of it), the worst first.

    `seen` is the number of images that they are the worst of; `certain` are other mistakes, the most certain first.
    """

    size: int
    calibrated: bool
    seen: int
    images: list[tuple[str, np.ndarray, Shown]]
    certain: list[tuple[str, np.ndarray, Shown]] = dataclasses.field(default_factory=list)


def write_predictions(folder: Path, predictions: Predictions, name: str = run_files.PREDICTIONS) -> None:
    """Write `predictions/`, or the folder `name`, into a run folder, in place of an earlier one."""
    target = folder / name
    beside = name_beside(target)
    entries = []
    try:
        beside.mkdir(parents=True)
        for number, (title_of, image, shown) in enumerate([*predictions.images, *predictions.certain]):
            pictures = {"image": _save(beside, f"{number:02}-image.jpg", image)}
            for title, panel in shown.panels.items():
                pictures[title] = _save(beside, f"{number:02}-{title.replace(' ', '-')}.png", panel)
            entry = {"name": title_of, "score": shown.score, "lines": shown.lines, "pictures": pictures}
            certain = {"certain": True} if number >= len(predictions.images) else {}
            entry |= {"legend": shown.legend, "number": shown.number, "one": shown.one, **certain}
            entries.append(entry)
        facts = {"size": predictions.size, "calibrated": predictions.calibrated, "seen": predictions.seen}
        (beside / _FILE).write_text(json.dumps({**facts, "images": entries}, indent=1) + "\n", encoding="utf-8")
        remove(target)
        beside.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; make room or write elsewhere") from error
    finally:
        with contextlib.suppress(OSError):
            remove(beside)


def with_most_probable(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The table of `predict` with a column of the `count` most probable classes of each image, for people.

    >>> table = pd.DataFrame([{"file": "a.png", "class": "dog", "p(cat)": 0.25, "p(dog)": 0.75}])
    >>> with_most_probable(table, 2)["most probable"].item()
    'dog 75.0%, cat 25.0%'

    Raises:
        UserError: a table without probabilities, as of masks.
    """
    names = [name for name in table.columns if name.startswith("p(")]
    if not names:
        raise UserError("--top is for classes and labels; masks have no probabilities of the whole image")
    best = []
    for values in table[names].to_numpy():
        first = np.argsort(-values, kind="stable")[:count]
        best.append(", ".join(f"{names[i][2:-1]} {values[i]:.1%}" for i in first))
    return table.assign(**{"most probable": best})


def read_predictions(folder: Path, name: str = run_files.PREDICTIONS) -> dict[str, Any]:
    """Read predictions, with each picture's name and bytes in place of its name; empty where there are none.

    What does not fit is left out, which the log says: all of them, or an image whose pictures are none of this folder.
    """
    if os.path.lexists(folder / name) and not (folder / name).is_dir():
        say_left_out(str(folder / name), NotADirectoryError(errno.ENOTDIR, "it is no folder"))
        return {}
    found: dict[str, Any] = read_piece(folder / name / _FILE, lambda path: schema.PREDICTIONS(read_json(path), ""), {})
    images = []
    for entry in found.get("images", ()):
        try:
            pictures = {title: (file, _picture(folder / name, file)) for title, file in entry["pictures"].items()}
        except (OSError, ValueError) as error:
            say_left_out(f"the image {in_a_line(entry['name'])} of {folder / name / _FILE}", error)
        else:
            images.append({**entry, "pictures": pictures})
    return {**found, "images": images} if found else {}


def _picture(folder: Path, name: str) -> bytes:
    """The bytes of a picture that lies in a folder.

    Raises:
        OSError: it cannot be read.
        ValueError: the name leads elsewhere, or it is no picture.
    """
    if not is_inside(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise Unfit("the name of a picture", name, f"one in {folder.name}")
    content = read_regular(folder / name, schema.PICTURE_BYTES)
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if image.width * image.height > schema.PIXELS:
            raise Unfit(f"the size of {name}", f"{image.width} x {image.height}", f"at most {schema.PIXELS:,} pixels")
        image.load()
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{in_a_line(name)} is no whole picture in PNG or JPEG") from None
    return content


_ENTRY = Template("""<section class="card prediction {{ verdict }}"><div class="pictures">
{%- for title, alt, source in pictures %}<figure><img alt="{{ alt }}" src="{{ source }}">
{%- if pictures | length > 1 %}<figcaption>{{ title }}</figcaption>{% endif %}</figure>{% endfor -%}
</div><h3 class="as-is">{{ name }}</h3><dl>
{%- for word, lines in said.items() %}<dt>{{ word }}</dt><dd><ul>
{%- for kind, line in lines %}<li class="{{ kind }}">{{ line }}</li>{% endfor -%}
</ul></dd>{% endfor -%}
</dl>{% if more %}<p class="note">and {{ more }} more</p>{% endif -%}
</section>""")
_Said = dict[str, list[tuple[str, str]]]  # word -> lines, each with its kind


def predictions_section(found: dict[str, Any]) -> Markup | str:
    """The section of the report; empty where there are no predictions."""
    if not found.get("images"):
        return ""
    how = ", calibrated" if found["calibrated"] else ""
    worst, certain = (
        [entry for entry in found["images"] if entry.get("certain", False) is sure] for sure in (False, True)
    )
    at = f"at {found['size']} px{how}"
    note = f"The worst of {found['seen']:,} validation images {at}, the worst first."
    parts = predictions_parts({**found, "images": worst}, note)
    if certain:
        note = f"Other mistakes, {at}, those first that the network is most certain of."
        parts += predictions_parts({**found, "images": certain}, note)
    return section("Predictions", *parts)


def predictions_parts(found: dict[str, Any], note: str) -> list[Markup]:
    """Predictions as `read_predictions` gives them, for a section: what they are, the legend, the pictures."""
    several = [entry for entry in found["images"] if not entry.get("one")]
    kinds = {_kind(entry, line) for entry in several for line in entry["lines"]}
    told = [f"{_SIGNS[kind]} {word}" for kind, word in _WORDS.items() if kind in kinds]
    note += f" {', '.join(told)}." if told else ""
    numbers = dict.fromkeys(entry.get("number") for entry in found["images"])  # a run may be older than this
    note += "".join(f" Figures: {number}." for number in numbers if number)
    single = all(len(entry["pictures"]) == 1 for entry in found["images"])
    legend = {name: color for entry in found["images"] for name, color in entry["legend"].items()}
    return [LEGEND(note=note, legend=legend), cards(*map(_entry, found["images"]), narrow=single)]


def _entry(entry: dict[str, Any]) -> Markup:
    first = sorted(entry["lines"], key=lambda line: line[2] == "wrong")[:_LINES]  # of many wrong ones a few will do
    lines = [(_kind(entry, line), line) for line in entry["lines"] if line in first]
    said = _one(lines) if entry.get("one") else _several(lines)
    name = Path(entry["name"]).name
    spoken = "; ".join(f"{word} {', '.join(line for _, line in lines)}" for word, lines in said.items())
    return _ENTRY(
        pictures=[
            (title, f"{title} of {name}" + (f": {spoken}" if not i and spoken else ""), data_uri(content))
            for i, (title, (_, content)) in enumerate(entry["pictures"].items())
        ],
        name=name,
        said={
            word: [(kind, f"{_SIGNS[kind]} {line}" if kind in _SIGNS else line) for kind, line in lines]
            for word, lines in said.items()
        },
        verdict=lines[0][0] if entry.get("one") and lines else "",
        more=len(entry["lines"]) - len(first),
    )


def _kind(entry: dict[str, Any], line: list[Any]) -> str:
    """What a line of an entry is called: a class that is met in a small part of its pixels is not right."""
    _, value, kind = line
    of_masks = entry.get("number", "").startswith(_IOU)
    return "partly" if of_masks and kind == "right" and value is not None and value < 0.5 else str(kind)


def _one(lines: list[tuple[str, list[Any]]]) -> _Said:
    """What is said of an image that has one class: the truth, the prediction, and what came next."""
    said: _Said = {
        "truth": [("", _text(line)) for kind, line in lines if kind in ("right", "missed")],
        "predicted": [(kind, _text(line)) for kind, line in lines[:1] if kind != "missed"],
        "then": [("", _text(line)) for kind, line in lines[1:] if kind == "wrong"],
    }
    return {word: each for word, each in said.items() if each}


def _several(lines: list[tuple[str, list[Any]]]) -> _Said:
    """What is said of an image that may have several labels: those that are right, wrong and missed."""
    said: _Said = {}
    for kind in _WORDS:
        if each := [(kind, _text(line)) for found, line in lines if found == kind]:
            said["in part" if kind == "partly" else kind] = each
    return said


def _text(line: list[Any]) -> str:
    label, value, _ = line
    return str(label) if value is None else f"{label} {100 * value:.0f}%"


def _save(folder: Path, name: str, pixels: np.ndarray) -> str:
    """Write a picture, photographs as JPEG, and return its name."""
    image = Image.fromarray(pixels)
    photograph = name.endswith(".jpg")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC if photograph else Image.Resampling.NEAREST)
    content = io.BytesIO()
    image.save(content, "JPEG" if photograph else "PNG", **({"quality": 90} if photograph else {"optimize": True}))
    run_files.write_atomically(folder / name, content.getvalue())
    return name
