"""What several tests share: a recipe that trains in seconds, and a folder of image files."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anysize.cli import main
from anysize.data import remembered
from anysize.experiment import build, evaluate, exported, policy
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.reports import html
from anysize.reports.html import write_report

torch.set_num_threads(1)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves

collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # several modules of one name, without doctests

TINY = {
    "data.limit": 200,
    "sizes.mix": "B+",
    "model.name": "cifar_resnet",
    "model.options": {"depth": 8, "widths": [8, 8, 16], "dropout": 0.1},
    "training.epochs": 2,
    "training.equal_flops": False,
    "training.batch_size": 16,
    "training.validate_every": 1,
    "evaluation.calibration_images": 100,
    "evaluation.calibration_strength": "full",
    "optimizer.lr": 0.05,
    "optimizer.warmup_epochs": 0,
}

TINY_SCENES = {
    "data.limit": 24,
    "sizes.mix": "custom",
    "sizes.weights": {"32": 0.5, "48": 0.5},
    "sizes.base": 48,
    "training.epochs": 2,
    "training.equal_flops": False,
    "training.batch_size": 8,
    "training.validate_every": 1,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.02,
    "optimizer.momentum": 0.9,
    "optimizer.warmup_epochs": 0,
    "evaluation.calibration_images": 16,
    "evaluation.calibration_strength": "full",
    "evaluation.pictures": 5,
}
SMALL_NETWORKS = {
    "multilabel": {"depth": 18, "widths": [8, 8, 8, 8]},
    "segmentation": {
        "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "cardinality": 2, "stem": 8, "pooling": False,
        "aspp_width": 8, "aspp_rates": [1, 2, 3], "aspp_momentum": 0.1,
    },
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what tests consent to out of the folder of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "APPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what `data check` remembers of the tests' files out of the cache of the user, unless a test has its own."""
    folder = tmp_path_factory.mktemp("findings")
    with pytest.MonkeyPatch.context() as patch:
        find = remembered.own_cache
        patch.setattr(remembered, "own_cache", lambda: find() if "ANYSIZE_CACHE" in os.environ else folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def not_synced() -> Iterator[None]:
    """Leaves the files of tests in the system's memory: to sync one, and to remove it then, takes as long as a step.

    What follows from a sync that fails, or is not reached, is tested by those who put another function in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def no_report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leaves `report.html` out, which takes longer than a tiny training, except in tests that are marked `report`."""
    with pytest.MonkeyPatch.context() as patch:  # one of its own: `monkeypatch.undo()` of a test leaves it in place
        if not request.node.get_closest_marker("report"):
            for module in (html, evaluate, policy):
                patch.setattr(module, "write_report", lambda folder: Path(folder) / "report.html")
        yield


@pytest.fixture(scope="session", autouse=True)
def counted_once() -> Iterator[None]:
    """Asks a network once a session what an image of a size costs: it takes longer than a tiny training."""
    known: dict[Any, Any] = {}

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        def ask(model: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
            if not type(model).__module__.startswith("anysize."):
                return function(model, *arguments, **named)
            recomputed = sum("forward" in vars(module) for module in model.modules())
            key = (function, repr(model), recomputed, arguments, tuple(named.items()))
            if key not in known:
                known[key] = function(model, *arguments, **named)
            return known[key]

        return ask

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((build, "count_flops"), (build, "check_size"), (exported, "count_flops")):
            patch.setattr(module, name, once(getattr(module, name)))
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Makes the quickstart small enough for a test; keyword `section__field` overrides."""

    def make(**changes: Any) -> Recipe:
        overrides = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
        return load_recipe("quickstart", overrides)

    return make


@pytest.fixture(scope="session")
def tiny_scenes() -> Callable[..., Recipe]:
    """Makes the quickstart of "multilabel" or "segmentation" small; keyword `section__field` overrides."""

    def make(task: str, **changes: Any) -> Recipe:
        given = {key.replace("__", "."): value for key, value in changes.items()}
        overrides = {**TINY_SCENES, "model.options": SMALL_NETWORKS[task], **given}
        return load_recipe(f"quickstart-{task}", overrides)

    return make


@pytest.fixture(scope="session")
def trained_scenes(
    tiny_scenes: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The run folder of `tiny_scenes(task)`, trained once a session: to be read alone; who writes takes a copy."""
    made: dict[str, Path] = {}

    def trained(task: str) -> Path:
        if task not in made:
            made[task] = train(tiny_scenes(task), run=tmp_path_factory.mktemp("scenes") / task)
            write_report(made[task])
        return made[task]

    return trained


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of JPEGs that differ in colour, 20 to train and 6 to validate each, of several shapes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 20), ("val", 6)):
        for label, name in enumerate(("apple", "banana", "cherry")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30 + i % 5, 34 + label, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{i:03}.jpg")
    return root


@pytest.fixture
def anysize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CompletedProcess[str]]:
    """Runs a command line in the test's own folder, on a console of 160 columns.

    It runs in this process: a process of its own would load torch anew each time.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["anysize", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return CompletedProcess(arguments, int(stop.value.code or 0), *capsys.readouterr())

    return run
