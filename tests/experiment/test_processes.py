"""One run in two processes, over gloo: both train the same, and what one decides holds for both."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist

from anysize.data.loader import PlanLoader
from anysize.experiment import train as train_module
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.reports import html
from anysize.training import loop
from anysize.training.checkpoint.files import read_checkpoint, read_state

Make = Callable[..., Recipe]

PLAIN = """from torch import nn

def build(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, num_classes))
"""
PIXELS = """from torch import nn

def build(num_classes, in_channels, task="segmentation"):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, num_classes, 1))
"""


def on_rank(rank: int, meeting: str, jobs: list[tuple[str, Recipe, Path]], results: Any) -> None:
    """Do the jobs one after the other in a process of two; what each came to goes to `results`."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        for what, recipe, run in jobs:
            with pytest.MonkeyPatch.context() as patch:
                seen: dict[str, Any] = {}
                prepare(what, rank, patch, seen)
                try:
                    train(recipe, run=run)
                except Exception as error:
                    seen["error"] = f"{type(error).__name__}: {error}"
            results.put((what, rank, seen))
    except BaseException:
        results.put(("failed", rank, {"error": traceback.format_exc()}))
        raise
    finally:
        dist.destroy_process_group()


def prepare(what: str, rank: int, patch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    """Let something happen to the second process alone, and note the weights that each ends with."""
    step, finish = loop.train_step, train_module._finish
    seeds = seen.setdefault("seeds", [])

    def train_step(parts: Any, state: Any, batch: Any, seed: int) -> None:
        seeds.append(seed)
        if what == "not finite" and rank == 1 and state.progress.step == 4:
            batch.images[0] = float("nan")
        step(parts, state, batch, seed)
        if what == "stopped" and rank == 1 and state.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def noted(folder: Path, evaluator: Any, parts: Any, state: Any) -> None:
        seen["weights"] = {name: value.clone().numpy() for name, value in state.model.state_dict().items()}
        seen["images"] = state.progress.images
        finish(folder, evaluator, parts, state)

    if what != "trained":
        patch.setattr(html, "write_report", lambda folder: folder / "report.html")
    patch.setattr(loop, "train_step", train_step)
    patch.setattr(train_module, "_finish", noted)
    if what == "damaged" and rank == 1:  # all files of its third batch are, which the loader then leaves out
        load = PlanLoader.load
        patch.setattr(PlanLoader, "load", lambda self, batches: (b for b in load(self, batches) if b.step != 2))
    if what == "unprepared" and rank == 1:
        patch.setattr(train_module, "check_precision", lambda *arguments: 1 / 0)


def in_two_processes(tmp_path: Path, jobs: list[tuple[str, Recipe, Path]]) -> dict[tuple[str, int], dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    meeting = f"file://{tmp_path}/meeting"
    processes = [context.Process(target=on_rank, args=(rank, meeting, jobs, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = {}
    for _ in range(2 * len(jobs)):
        what, rank, seen = results.get(timeout=120)
        assert what != "failed", seen["error"]
        found[what, rank] = seen
    for process in processes:
        process.join(timeout=30)
    return found


@pytest.fixture(scope="module")
def runs(
    tiny: Make, tiny_scenes: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[tuple[str, int], dict[str, Any]]]:
    """One pair of processes does all there is to see, since starting them takes longer than that."""
    root = tmp_path_factory.mktemp("processes")
    (root / "plain.py").write_text(PLAIN)
    (root / "pixels.py").write_text(PIXELS)
    mixed = {"data__limit": 80, "training__epochs": 1, "training__batch_size": 8}
    small = {**mixed, "sizes__mix": "fixed"}
    plain = {"model__name": f"{root}/plain.py:build", "model__options": {}, "training__drop_last": False}
    pixels = {"model__name": f"{root}/pixels.py:build", "model__options": {}, "training__epochs": 1}
    jobs = [
        (
            "trained",
            tiny(**mixed, training__chunks=2, augment__mixup=0.4, training__precision="auto"),
            root / "trained",
        ),
        ("plain", tiny(**{**small, **plain, "data__limit": 75}, training__chunks=3), root / "plain"),
        ("pixels", tiny_scenes("segmentation", **pixels, training__batch_size=4, training__chunks=2), root / "pixels"),
        ("stopped", tiny(**small), root / "stopped"),
        ("ended", tiny(**small), root / "stopped"),
        ("not finite", tiny(**small, training__log_every=2), root / "not-finite"),
        ("damaged", tiny(**small), root / "damaged"),
        ("unprepared", tiny(**small), root / "unprepared"),
    ]
    return root, in_two_processes(root, jobs)


def test_both_train_the_same_and_one_writes(runs: Any) -> None:
    root, found = runs
    one, other = found["trained", 0], found["trained", 1]
    assert "error" not in one
    assert one["images"] == other["images"] == 72  # of 80: what fills no batch is left out
    parameters = [name for name in one["weights"] if "running" not in name and "num_batches" not in name]
    assert all((one["weights"][name] == other["weights"][name]).all() for name in parameters)
    assert not set(one["seeds"]) & set(other["seeds"])  # each draws its own dropout and mixup
    assert read_state(root / "trained/checkpoints/last")["progress"]["images"] == 72
    text = (root / "trained/log.txt").read_text()
    assert text.count("done; the report is") == 1
    assert "2 processes with 8 images each make batches of 16; the learning rate, at its largest 0.05, is not" in text
    precision = load_recipe(str(root / "trained/recipe.toml")).training.precision
    assert f"training.precision auto is {precision}" in text  # both train in what the first has measured
    assert pd.read_csv(root / "trained/metrics.csv")["epoch"].tolist() == [1]
    assert '"total_batch": 16' in (root / "trained/environment.json").read_text()


@pytest.mark.parametrize("name", ["plain", "pixels"])
def test_two_processes_compute_what_one_does_with_their_batches(
    runs: Any, tiny: Make, tiny_scenes: Make, tmp_path: Path, name: str
) -> None:
    """A network without norms: uneven chunks and void pixels weigh in the global batch what they have of it."""
    root, found = runs
    assert "error" not in found[name, 0]
    recipe = load_recipe(str(root / name / "recipe.toml"), {})
    alone = train(
        recipe, {"training.batch_size": 2 * recipe.training.batch_size, "training.chunks": 1}, run=tmp_path / "alone"
    )
    expected, metrics = read_checkpoint(alone / "checkpoints/last").model, pd.read_csv(alone / "metrics.csv")
    for key, value in found[name, 1]["weights"].items():
        torch.testing.assert_close(torch.from_numpy(value), expected[key], rtol=1e-4, atol=1e-6, msg=key)
    both = pd.read_csv(root / name / "metrics.csv")
    if name == "plain":  # metrics of pixels are means over batches, which are other ones
        assert both["train_loss"][0] == pytest.approx(metrics["train_loss"][0], rel=1e-4)
    assert both["images"][0] == metrics["images"][0]


def test_a_signal_to_one_stops_both_at_the_same_step_and_both_go_on(runs: Any) -> None:
    _, found = runs
    errors = [found["stopped", rank]["error"] for rank in range(2)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("Interrupted: saved at epoch 1, step")
    assert 0 < len(found["stopped", 0]["seeds"]) < 5
    assert "error" not in found["ended", 0]
    assert len(found["stopped", 0]["seeds"]) + len(found["ended", 0]["seeds"]) == 5
    assert found["ended", 0]["images"] == found["ended", 1]["images"] == 80


def test_a_batch_of_one_that_is_not_finite_ends_both_and_names_its_samples(runs: Any) -> None:
    root, found = runs
    errors = [found["not finite", rank]["error"] for rank in range(2)]
    assert (
        "Diverged: the loss of another process is nan at epoch 1, step 5" in errors[0] or "gradient norm" in errors[0]
    )
    assert "Diverged: the loss is nan at epoch 1, step 5" in errors[1]
    assert not (root / "not-finite/checkpoints/last").exists()


def test_a_batch_that_one_cannot_load_is_passed_over_by_both(runs: Any) -> None:
    root, found = runs
    assert "error" not in found["damaged", 0]
    assert len(found["damaged", 0]["seeds"]) == len(found["damaged", 1]["seeds"]) == 4  # of five steps
    assert found["damaged", 0]["images"] == 64
    parameters = [name for name in found["damaged", 0]["weights"] if name.endswith(("weight", "bias"))]
    for name in parameters:
        assert (found["damaged", 0]["weights"][name] == found["damaged", 1]["weights"][name]).all()
    assert read_state(root / "damaged/checkpoints/last")["progress"]["step"] == 4


def test_an_error_of_one_before_the_first_step_is_that_of_both(runs: Any) -> None:
    _, found = runs
    assert found["unprepared", 0]["error"].startswith("UserError: process 1: ")
    assert found["unprepared", 1]["error"] == "ZeroDivisionError: division by zero"
