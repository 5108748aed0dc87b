"""The verbs that look at a run folder: how each is called, and the numbers that it gives."""

import base64
import csv
import dataclasses
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import tiny_runs
import torch
from forks import Done
from safetensors import SafetensorError

SIZE = {"averaged": "16", "multilabel": "32", "segmentation": "32"}
OTHER = {"averaged": "12", "multilabel": "48", "segmentation": "48"}


@dataclasses.dataclass(frozen=True)
class Verb:
    """Arguments from (task, run folder, folder to write to, data), and the result from the same places and the end."""

    arguments: Callable[[str, Path, Path, Path], list[str]]
    result: Callable[[str, Path, Path, Done], Any]
    weight: int = 4
    stopped: bool = False
    """Whether it is for a run that was stopped in the middle."""
    report: bool = False


class Text(HTMLParser):
    """The text of a page, and what its pictures hold, without what scripts and styles say."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.found += [value for name, value in attrs if name == "src" and value]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.found.append(data.strip())


def page_text(path: Path, places: tuple[Path, ...]) -> list[str]:
    """The text of a page and a digest of each picture; times are left out, which are different each time."""
    found = []
    for text in Text(path.read_text(encoding="utf-8")).found:
        for place in places:
            text = text.replace(str(place), "")
        found.append(hashlib.md5(base64.b64encode(text.encode())).hexdigest() if len(text) > 5000 else text)
    return found


def _weights(folder: Path) -> dict[str, str]:
    digests = {}
    for name, value in tiny_runs.tensors(folder).items():
        content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digests[name] = f"{value.dtype} {tuple(value.shape)} {hashlib.md5(content).hexdigest()}"
    return digests


def _weights_or_why(folder: Path) -> Any:
    try:
        return _weights(folder)
    except (OSError, ValueError, SafetensorError) as error:
        return repr(error)


def _trained(task: str, run: Path, out: Path, done: Done) -> Any:
    names = "last", "best"
    return {"metrics": tiny_runs.rows(run / "metrics.csv")} | {
        name: _weights_or_why(run / "checkpoints" / name) for name in names
    }


def _evaluated(task: str, run: Path, out: Path, done: Done) -> Any:
    tables = run / "evaluation_tables.csv"
    return tiny_runs.rows(run / "evaluation.csv"), tables.read_text() if tables.exists() else ""


def _predicted(task: str, run: Path, out: Path, done: Done) -> Any:
    pictures = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*.png")) if path.is_file()
    }
    with (out / "predictions.csv").open(newline="") as file:
        return [row[1:] for row in csv.reader(file)], pictures


def _exported(task: str, run: Path, out: Path, done: Done) -> Any:
    import onnx

    graph = onnx.load(str(out / "model.onnx")).graph
    weights = {each.name: hashlib.md5(each.SerializeToString()).hexdigest() for each in graph.initializer}
    return weights, [node.op_type for node in graph.node]


def _said(run: Path, out: Path, text: str) -> str:
    """The words of tables on screen, whose lines break elsewhere where a folder's name is longer."""
    words = re.sub(r"[^\w.,%/-]+", "", text)
    return words.replace(str(run), "RUN").replace(str(out), "OUT")


def _train(*more: str) -> Callable[[str, Path, Path, Path], list[str]]:
    return lambda task, run, out, data: [*tiny_runs.command(task, run, data), *more]


VERBS: dict[str, Verb] = {
    "train": Verb(_train(), _trained, 8, stopped=True),
    "train itself": Verb(lambda task, run, out, data: ["train", str(run)], _trained, 4, stopped=True),
    "train previous": Verb(_train("--resume", "previous"), _trained, 2, stopped=True),
    "evaluate": Verb(
        lambda task, run, out, data: ["evaluate", str(run), "--sizes", OTHER[task]], _evaluated, 5
    ),
    "evaluate best": Verb(
        lambda task, run, out, data: [
            "evaluate", str(run), "--sizes", SIZE[task], "--checkpoint", "best", "--no-calibrate"
        ],
        _evaluated,
    ),
    "evaluate int8": Verb(
        lambda task, run, out, data: [
            "evaluate", str(run), "--sizes", SIZE[task], "--checkpoint", "int8", "--no-calibrate"
        ],
        _evaluated, 2,
    ),
    "evaluate file": Verb(
        lambda task, run, out, data: ["evaluate", str(run / "export/model.onnx"), "--sizes", SIZE[task]],
        lambda task, run, out, done: tiny_runs.rows(run / "export/model.onnx.evaluation.csv"), 2,
    ),
    "predict": Verb(
        lambda task, run, out, data: ["predict", str(run), str(data / "folder/val/cat"), "--out", str(out)], _predicted
    ),
    "predict previous": Verb(
        lambda task, run, out, data: [
            "predict", str(run), str(data / "folder/val/cat"), "--out", str(out), "--checkpoint", "previous"
        ],
        _predicted, 2,
    ),
    "predict calibrated": Verb(
        lambda task, run, out, data: [
            "predict", str(run), str(data / "folder/val/cat"), "--out", str(out),
            "--checkpoint", f"calibrated-{OTHER[task]}",
        ],
        _predicted, 2,
    ),
    "predict file": Verb(
        lambda task, run, out, data: [
            "predict", str(run / "export/model.onnx"), str(data / "folder/val/cat"), "--out", str(out)
        ],
        _predicted, 2,
    ),
    "calibrate": Verb(
        lambda task, run, out, data: ["calibrate", str(run), "--size", SIZE[task]],
        lambda task, run, out, done: _weights(run / "checkpoints" / f"calibrated-{SIZE[task]}"),
    ),
    "policy": Verb(
        lambda task, run, out, data: ["policy", str(run)],
        lambda task, run, out, done: tiny_runs.rows(run / "scale_policy.csv"), 3,
    ),
    "report": Verb(
        lambda task, run, out, data: ["report", str(run)],
        lambda task, run, out, done: page_text(run / "report.html", (run, out)), 6, report=True,
    ),
    "compare": Verb(
        lambda task, run, out, data: ["compare", str(run), "--out", str(out / "comparison.html")],
        lambda task, run, out, done: (page_text(out / "comparison.html", (run, out)), _said(run, out, done.out)),
        4, report=True,
    ),
    "watch": Verb(
        lambda task, run, out, data: ["watch", "--terminal", str(run)],
        lambda task, run, out, done: bool(done.out.strip()), 1,  # what is damaged may be all that it tells
    ),
    "export": Verb(
        lambda task, run, out, data: ["export", str(run), "--out", str(out / "model.onnx")], _exported, 1
    ),
    "quantize": Verb(
        lambda task, run, out, data: ["quantize", str(run), "--no-onnx", "--no-compare", "--name", "smaller"],
        lambda task, run, out, done: _weights(run / "checkpoints/smaller"), 2,
    ),
    "bench": Verb(
        lambda task, run, out, data: ["bench", str(run), "--no-train", "--repeats", "1", "--batch", "1"],
        lambda task, run, out, done: re.findall(r"inference\s+\d+ px\s+\d+", done.out), 2,
    ),
    "models show": Verb(
        lambda task, run, out, data: ["models", "show", str(run)],
        lambda task, run, out, done: _said(run, out, done.out), 2,
    ),
    "plan": Verb(
        lambda task, run, out, data: ["plan", str(run / "recipe.toml")],
        lambda task, run, out, done: _said(run, out, done.out), 1,
    ),
}  # fmt: skip
"""What is tried on damaged folders; the weights say how often."""

RELEVANT: list[tuple[str, str]] = [
    (r"recipe\.toml", "."),
    (r"environment\.json", "report|compare|train"),
    (r"(metrics|steps)\.csv", "train$|train itself|report|compare|watch"),
    (r"log\.txt|\.lock|\.owner", "train|report"),
    (r"evaluation.*\.csv", "evaluate$|evaluate best|report|compare"),
    (r"confusion\.csv", "evaluate$|evaluate best|report"),
    (r"scale_policy\.csv", "policy|report"),
    (r"int8.*", "report|quantize|evaluate int8"),
    (r"predictions.*", "report|evaluate|train$|compare"),
    (r"report\.html", "report|evaluate|train$"),
    (r"checkpoints/best.*", "evaluate best|quantize|train"),
    (r"checkpoints/previous.*", "predict previous|train previous"),
    (r"checkpoints/calibrated.*", "predict calibrated"),
    (r"checkpoints/int8.*", "evaluate int8"),
    (r"export.*", "file"),
    (r"checkpoints.*", "train|evaluate$|predict$|calibrate|policy|bench|models|export"),
]
"""For files, the verbs that look at them."""


def verbs_for(name: str) -> list[str]:
    """The verbs that look at a file of a run."""
    pattern = next(verbs for file, verbs in RELEVANT if re.fullmatch(file, name))
    return [verb for verb in VERBS if re.search(pattern, verb)]


def kind_of(name: str) -> str:
    """Files that are alike, such as all pictures, by one name."""
    return re.sub(r"\d\d-", "", name)
