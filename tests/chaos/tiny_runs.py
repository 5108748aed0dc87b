"""Runs that train in a second, one for each way of training, and what a folder of theirs must hold in the end."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from forks import Forks

TIMES = ("seconds", "images_per_second", "waiting")
"""Columns of metrics.csv and evaluation.csv that are different each time."""

_ALL = {"training.epochs": 2, "training.validate_every": 1, "optimizer.warmup_epochs": 0, "evaluation.pictures": 2}
_CLASSES = {
    **_ALL,
    "data.limit": 64,
    "sizes.base": 16,
    "model.name": "cifar_resnet",
    "model.options": {"depth": 8, "widths": [8, 8, 8], "dropout": 0.1},
    "training.equal_flops": False,
    "training.batch_size": 16,
    "evaluation.calibration_images": 32,
}
_SCENES = {
    **_ALL,
    "data.limit": 24,
    "sizes.weights": {"32": 0.5, "48": 0.5},
    "sizes.base": 48,
    "training.equal_flops": False,
    "training.batch_size": 8,
    "evaluation.calibration_images": 16,
}
_MASKS = {
    "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2, "stem": 8, "pooling": False,
    "aspp_width": 8, "aspp_rates": [1, 2, 3], "aspp_momentum": 0.1,
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixed": ("quickstart", {**_CLASSES, "sizes.mix": "B+", "training.checkpoint_steps": 1}),
    "copies": (
        "quickstart",
        {
            **_CLASSES,
            "data.limit": 32,
            "sizes.mix": "D+",
            "training.copies": 2,
            "optimizer.adapt_copies": 2,
            "training.checkpoint_steps": 2,
        },
    ),
    "averaged": (
        "quickstart",
        {
            **_CLASSES,
            "sizes.mix": "fixed",
            "model.elasticize": "auto",
            "training.average_steps": 1,
            "training.checkpoint_minutes": 0,
            "optimizer.name": "adamw",
            "optimizer.lr": 0.002,
        },
    ),
    "aware": ("quickstart", {**_CLASSES, "sizes.mix": "fixed", "quantize.aware": True, "training.checkpoint_steps": 1}),
    "online": ("folder", {**_CLASSES, "sizes.mix": "B+", "model.norm": "online", "training.checkpoint_steps": 3}),
    "multilabel": (
        "quickstart-multilabel",
        {**_SCENES, "model.options": {"depth": 18, "widths": [8, 8, 8, 8]}, "training.checkpoint_minutes": 0},
    ),
    "segmentation": ("voc", {**_SCENES, "model.options": _MASKS, "training.checkpoint_steps": 1}),
}
"""A recipe, or a data set in files, and settings."""

_RECIPES = {"folder": "quickstart", "voc": "quickstart-segmentation"}


def command(case: str, run: Path, data: Path, **changes: Any) -> list[str]:
    """The command line that trains a case into the folder `run`, and goes on with it; `section__field` changes it."""
    recipe, settings = CASES[case]
    if recipe in _RECIPES:  # decoded from files, in processes
        settings = {**settings, "data.name": recipe, "data.root": str(data / recipe)}
        settings |= {"data.workers": 2, "data.memory_limit": 0}
    settings = {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    words = ["train", _RECIPES.get(recipe, recipe), "--run", str(run)]
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def make_data(forks: Forks, root: Path) -> None:
    """Write the data sets that are read from files below `root`."""
    from image_files import write_folder

    write_folder(root / "folder", 16, lambda i: (20 + i % 4, 24), ending="png")
    done = forks(
        "data", "export", "scenes", "--format", "voc", "--images", "24", str(root / "voc"), folder=root / "folder"
    )
    assert done.code == 0, done.said


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by file and name."""
    return {
        f"{path.name} {name}": value
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, value in safetensors.torch.load_file(path).items()
    }


def same_tensors(one: Path, other: Path) -> str:
    """What differs first between two checkpoints, bit for bit; empty where nothing does."""
    a, b = tensors(one), tensors(other)
    if a.keys() != b.keys():
        return f"{one.name} has other tensors: {sorted(a.keys() ^ b.keys())[:4]}"
    for name, value in a.items():
        same = value.dtype == b[name].dtype and value.shape == b[name].shape
        if not same or value.contiguous().reshape(-1).view(torch.uint8).ne(b[name].reshape(-1).view(torch.uint8)).any():
            return f"{one.name} differs in {name}"
    return ""


def rows(path: Path, keep: Callable[[Mapping[str, str]], bool] = lambda row: True) -> list[dict[str, str]]:
    """The rows of a table without the columns that tell times."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if keep(row)]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def names(folder: Path) -> list[str]:
    """The files below a folder, hidden ones among them; a report is written by some of the commands alone."""
    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in files if name != "report.html")


def difference(whole: Path, run: Path) -> str:
    """In what a run that went on differs from an unbroken one; empty where both are the same, bit for bit."""
    if names(whole) != names(run):
        left, missing = set(names(run)) - set(names(whole)), set(names(whole)) - set(names(run))
        return f"left over: {sorted(left)[:6]}; missing: {sorted(missing)[:6]}"
    for name in ("last", "best"):
        if told := same_tensors(whole / "checkpoints" / name, run / "checkpoints" / name):
            return told
    if rows(whole / "metrics.csv") != rows(run / "metrics.csv"):
        return "metrics.csv differs"
    for name in ("recipe.toml", "predictions/predictions.json"):
        if (whole / name).read_text().replace(str(whole), "") != (run / name).read_text().replace(str(run), ""):
            return f"{name} differs"
    return ""
