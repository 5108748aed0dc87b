"""Pictures of predictions: their folder in a run, and their section of the report.

`predictions/predictions.json` lists the images, the worst first, with what is said of each and the names of its
pictures, which lie beside it.
"""

import base64
import dataclasses
import io
import json
import os
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.page import cards, section
from anysize.tasks.records import Shown

_LINES = 16  # labels at most of an image
_SIDE = 320  # pixels at most of a picture in the report
_FILE = "predictions.json"
_SIGNS = {"right": "✓", "wrong": "✗", "missed": "○"}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions at an image size: (name, image uint8 (H, W, 3), what the task shows of it), the worst first.

    `seen` is the number of images that they are the worst of.
    """

    size: int
    calibrated: bool
    seen: int
    images: list[tuple[str, np.ndarray, Shown]]


def write_predictions(folder: Path, predictions: Predictions, name: str = run_files.PREDICTIONS) -> None:
    """Write `predictions/`, or the folder `name`, into a run folder, in place of an earlier one."""
    target = folder / name
    beside = folder / f".{name}.{os.getpid()}.tmp"
    entries = []
    try:
        beside.mkdir(parents=True)
        for number, (title_of, image, shown) in enumerate(predictions.images):
            pictures = {"image": _save(beside, f"{number:02}-image.jpg", image)}
            for title, panel in shown.panels.items():
                pictures[title] = _save(beside, f"{number:02}-{title.replace(' ', '-')}.png", panel)
            entry = {"name": title_of, "score": shown.score, "lines": shown.lines, "pictures": pictures}
            entries.append({**entry, "legend": shown.legend, "number": shown.number})
        facts = {"size": predictions.size, "calibrated": predictions.calibrated, "seen": predictions.seen}
        (beside / _FILE).write_text(json.dumps({**facts, "images": entries}, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; make room or write elsewhere") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
    """Read predictions, with each picture's name and bytes in place of its name; empty where there are none."""
    path = folder / name / _FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for entry in found["images"]:
            files = entry["pictures"].items()
            entry["pictures"] = {title: (file, (path.parent / file).read_bytes()) for title, file in files}
    except (OSError, ValueError, KeyError):  # a part of it was removed by hand: the report does without
        return {}
    return found


def predictions_section(found: dict[str, Any]) -> str:
    """The section of the report; empty where there are no predictions."""
    if not found.get("images"):
        return ""
    how = ", calibrated" if found["calibrated"] else ""
    note = f"The worst of {found['seen']:,} fixed validation images at {found['size']} px{how}, the worst first."
    return section("Predictions", *predictions_parts(found, note))


def predictions_parts(found: dict[str, Any], note: str) -> list[str]:
    """Predictions as `read_predictions` gives them, for a section: what they are, the legend, the pictures."""
    if any(entry["lines"] for entry in found["images"]):
        note += f" {_SIGNS['right']} right, {_SIGNS['wrong']} wrong, {_SIGNS['missed']} missed."
        numbers = dict.fromkeys(entry.get("number") for entry in found["images"])  # a run may be older than this
        note += "".join(f" Figures: {number}." for number in numbers if number)
    single = all(len(entry["pictures"]) == 1 for entry in found["images"])
    legend = {name: color for entry in found["images"] for name, color in entry["legend"].items()}
    drawn = "".join(
        f'<span><i style="background:rgb({",".join(map(str, color))})"></i>{escape(name)}</span>'
        for name, color in legend.items()
    )
    colors = f'<p class="legend">{drawn}</p>' if drawn else ""
    pictures = cards(*map(_entry, found["images"]), narrow=single)
    return [f'<p class="note">{escape(note)}</p>{colors}', pictures]


def _entry(entry: dict[str, Any]) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(title)}" src="{_data(*picture)}"><figcaption>{escape(title)}</figcaption></figure>'
        for title, picture in entry["pictures"].items()
    )
    first = sorted(entry["lines"], key=lambda line: line[2] == "wrong")[:_LINES]  # of many wrong ones a few will do
    more = len(entry["lines"]) - len(first)
    lines = ""
    for label, value, kind in (line for line in entry["lines"] if line in first):
        number = "" if value is None else f" {100 * value:.0f} %"
        lines += f'<li class="{escape(kind)}">{_SIGNS.get(kind, "")} {escape(label)}{number}</li>'
    lines += f"<li>and {more} more</li>" if more else ""
    name = escape(Path(entry["name"]).name)
    return f'<section class="card prediction"><div>{figures}</div><h4>{name}</h4><ul>{lines}</ul></section>'


def _data(name: str, content: bytes) -> str:
    kind = "jpeg" if name.endswith(".jpg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _save(folder: Path, name: str, pixels: np.ndarray) -> str:
    """Write a picture, photographs as JPEG, and return its name."""
    image = Image.fromarray(pixels)
    photograph = name.endswith(".jpg")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC if photograph else Image.Resampling.NEAREST)
    content = io.BytesIO()
    image.save(content, "JPEG" if photograph else "PNG", **({"quality": 90} if photograph else {"optimize": True}))
    run_files.write_atomically(folder / name, content.getvalue())
    return name
