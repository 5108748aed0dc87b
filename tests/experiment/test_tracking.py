"""Trackers hear what the run's own files say, go on with a run that goes on, and end no training when they fail."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from interruption import stopped_after

from anysize.experiment import tracking
from anysize.experiment.tracking import TRACKERS, About, open_trackers
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.settings import TrackingSettings
from anysize.stopping import Interrupted

Make = Callable[..., Recipe]


class Notebook:
    """A tracker that writes all it hears down; it fails where `fails` says so."""

    heard: list[tuple[Any, ...]] = []  # noqa: RUF012
    fails = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, about: About) -> None:
        assert self.folder.is_dir()
        self._note("start", about)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._note("log", dict(values), step)

    def finish(self, how: str) -> None:
        self._note("finish", how)

    def _note(self, call: str, *what: Any) -> None:
        if call == self.fails:
            raise ConnectionError("the server is away")
        self.heard.append((call, *what))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    monkeypatch.setitem(TRACKERS._builders, "notebook", Notebook)
    monkeypatch.setattr(Notebook, "heard", [])
    monkeypatch.setattr(Notebook, "fails", "")
    return Notebook


def told(notebook: type[Notebook], name: str) -> dict[int, float]:
    return {step: values[name] for call, values, step in (h for h in notebook.heard if h[0] == "log") if name in values}


def test_what_is_heard_is_what_the_files_say_also_when_a_run_goes_on(
    tiny: Make, tmp_path: Path, notebook: type[Notebook]
) -> None:
    there = {"tracking__names": ["notebook"], "tracking__folder": str(tmp_path / "tracking")}
    recipe = tiny(training__log_every=2, training__checkpoint_steps=2, training__limit_steps=4, **there)
    with stopped_after(3), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "run")
    run = train(recipe, run=tmp_path / "run")
    first, second = (about for call, about, *_ in notebook.heard if call == "start")
    assert [how for call, how, *_ in notebook.heard if call == "finish"] == ["interrupted", "finished"]
    assert (first.identity, first.step, first.name) == (second.identity, 0, "run")
    assert second.step > 0
    assert second.config["training.batch_size"] == 16
    epochs, steps = pd.read_csv(run / "metrics.csv"), pd.read_csv(run / "steps.csv")
    assert told(notebook, "epoch/validation_top1") == dict(zip(epochs.step, epochs.validation_top1, strict=True))
    assert told(notebook, "step/loss") == pytest.approx(dict(zip(steps.step, steps.loss, strict=True)))
    train(recipe, run=tmp_path / "run", resume_from="never")
    assert notebook.heard[-1] == ("finish", "finished")
    assert {about.identity for call, about, *_ in notebook.heard if call == "start"} > {first.identity}


@pytest.mark.parametrize(("fails", "heard"), [("start", 0), ("log", 1), ("finish", 3)])
def test_a_tracker_that_fails_is_named_once_and_left_out(
    tmp_path: Path, notebook: type[Notebook], monkeypatch: pytest.MonkeyPatch, fails: str, heard: int
) -> None:
    monkeypatch.setattr(Notebook, "fails", fails)
    said: list[str] = []
    trackers = open_trackers(TrackingSettings(names=("notebook",), folder=str(tmp_path)), said.append)
    trackers.start(About("run", "0" * 16, "project", {}, "", 0))
    for step in (1, 2):
        trackers.log({"step": step, "loss": 0.5, "sizes": {28: 1.0}}, step, "step")
    trackers.finish("failed")
    assert said == ["notebook is not told of this run any more: the server is away"]
    assert len(notebook.heard) == heard


def test_unknown_trackers_and_missing_libraries_are_told_before_anything_is_trained(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown tracker 'mlfow': did you mean 'mlflow'"):
        train(tiny(tracking__names=["mlfow"]), run=tmp_path / "run")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"tensorboard is not installed: pip install 'anysize\[track\]'"):
        train(tiny(tracking__names=["tensorboard"]), run=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert tracking.numbers_of({}) == {}


_READS = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
(run,) = (folder / "tensorboard").iterdir()
events = EventAccumulator(str(run)).Reload()
found = [(e.step, e.value) for e in events.Scalars("step/loss")]
""",
    "mlflow": """
import mlflow
client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
(run,) = client.search_runs([client.get_experiment_by_name("project").experiment_id])
assert (run.info.status, run.info.run_name, run.data.params["a.b7"]) == ("FINISHED", "run", "7"), run
found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "step/loss")]
""",
    "wandb": """
import re
(first, second) = sorted((folder / "wandb").glob("offline-run-*-0123456789abcdef*/*.wandb"))  # -1: in the same second
written = first.read_bytes() + second.read_bytes()  # items of a name, two bytes, a length, and a value in JSON
values = lambda name: {float(v) for v in re.findall(name + b"\\x82\\x01.([0-9.]+)", written, re.DOTALL)}
found = list(zip(sorted(values(b"_step")), sorted(values(b"step/loss"), reverse=True), strict=True))
""",
    "trackio": """
import sqlite3
(path,) = (folder / "trackio").glob("project.db")
rows = sqlite3.connect(path).execute("select run_name, step, metrics from metrics order by step").fetchall()
assert {name for name, *_ in rows} == {"run-01234567"}, rows
found = [(step, json.loads(metrics)["step/loss"]) for _, step, metrics in rows]
""",
}
_SCRIPT = """
import json, socket, sys
from pathlib import Path
connect = socket.socket.connect
def local(self, address):
    assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"), address
    return connect(self, address)
socket.socket.connect = local
from anysize.experiment.tracking import About, open_trackers
from anysize.reports.settings import TrackingSettings
name, folder = sys.argv[1], Path(sys.argv[2])
def fail(text):
    raise AssertionError(text)
for step in (0, 20):
    trackers = open_trackers(TrackingSettings((name,), "project", str(folder)), fail)
    config = {f"a.b{i}": i for i in range(130)}
    trackers.start(About("run", "0123456789abcdef", "project", config, "x = 1", step))
    for more in (10, 20):
        trackers.log({"step": step + more, "loss": 1 / (step + more)}, step + more, "step")
    trackers.finish("finished")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*_READS])
def test_real_libraries_keep_one_run_in_a_local_folder(tmp_path: Path, name: str) -> None:
    """In a process of its own: the libraries keep what they were loaded with. None of it goes over the network."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    script = _SCRIPT + _READS[name] + "print(json.dumps(found))"
    command = [sys.executable, "-c", script, name, str(tmp_path / "tracking")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [step for step, _ in found] == [10, 20, 30, 40]
    assert [loss for _, loss in found] == pytest.approx([1 / step for step, _ in found])
    assert {path.name for path in tmp_path.iterdir()} == {"tracking"}
