"""One run in two processes, over gloo: both train the same, and what one decides holds for both."""

import multiprocessing
import os
import signal
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from interruption import stopped_after

from anysize.data.loader import PlanLoader
from anysize.experiment import prepare as prepare_module
from anysize.experiment import train as train_module
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.recipe import Recipe, load_recipe
from anysize.reports import html
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.checkpoint.files import read_checkpoint, read_state

Make = Callable[..., Recipe]

pytestmark = pytest.mark.slow  # its runs in two processes take half a minute

PLAIN = """from torch import nn

def build(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, num_classes))
"""
PIXELS = """from torch import nn

def build(num_classes, in_channels, task="segmentation"):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, num_classes, 1))
"""


AWARE = {"quantize__aware": True, "quantize__observer_epochs": 1}
STANDING = {"quantize__statistics_epochs": 0, "optimizer__lr": 0.0, "optimizer__weight_decay": 0.0}
WHITENED = {
    "model__name": "airbench94", "model__options": {"widths": [8, 8, 8]}, "optimizer__name": "muon",
    "optimizer__filter_norm": True,
}  # fmt: skip
NO_DROPOUT = {"depth": 8, "widths": [8, 8, 16]}


def on_rank(rank: int, meeting: str, jobs: list[tuple[str, Recipe, Path]], results: Any) -> None:
    """Do the jobs one after the other in a process of two; what each came to goes to `results`."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        for what, recipe, run in jobs:
            with pytest.MonkeyPatch.context() as patch:
                seen: dict[str, Any] = {}
                patch.setattr(os, "fsync", lambda descriptor: None)  # as in the other tests
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
    step, finish, save = loop.train_step, train_module._finish, loop.save
    seeds, saves = seen.setdefault("seeds", []), seen.setdefault("saves", [])

    def train_step(parts: Any, state: Any, batch: Any, seed: int) -> None:
        seeds.append(seed)
        if what == "not finite" and rank == 1 and state.progress.step == 4:
            batch.images[0] = float("nan")
        step(parts, state, batch, seed)
        if what.startswith("stopped") and rank == 1 and state.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def saved(parts: Any, state: Any, **how: Any) -> None:
        saves.append(state.progress.step)
        save(parts, state, **how)

    def noted(folder: Path, evaluator: Any, parts: Any, state: Any) -> Path | None:
        seen["weights"] = {name: value.clone().numpy() for name, value in state.model.state_dict().items()}
        seen["images"] = state.progress.images
        if state.averaged:
            averaged = state.averaged.state_dict()
            seen["weights"] |= {f"averaged {name}": value.clone().numpy() for name, value in averaged.items()}
        return finish(folder, evaluator, parts, state)

    if what != "trained":
        patch.setattr(html, "write_report", lambda folder: folder / "report.html")
    patch.setattr(loop, "train_step", train_step)
    patch.setattr(loop, "save", saved)
    if what == "saved by the clock of one":  # whose third minute each step is
        clock = types.SimpleNamespace(monotonic=lambda: 180.0 * len(seeds) * rank, perf_counter=time.perf_counter)
        patch.setattr(loop, "time", clock)
    patch.setattr(train_module, "_finish", noted)
    if what == "damaged" and rank == 1:  # all files of its third batch are, which the loader then leaves out
        load = PlanLoader.load
        patch.setattr(
            PlanLoader, "load", lambda self, batches, **how: (b for b in load(self, batches, **how) if b.step != 2)
        )
    if what == "unprepared" and rank == 1:

        class OwnError(Exception):
            """One that the other process cannot know."""

        def fail(*arguments: Any) -> None:
            raise OwnError("nothing is prepared")

        patch.setattr(prepare_module, "check_precision", fail)


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
    averaged = {"training__average_steps": 2, "training__average_decay": 0.9}
    alike = {"training__drop_last": False, "training__batch_size": 8, "model__options": NO_DROPOUT}
    of_one = tiny(**{**small, **plain, "training__batch_size": 16})
    with stopped_after(2), pytest.raises(Interrupted):
        train(of_one, run=root / "of-one")
    halves = {  # whose batches are as many samples for one process as for two
        "sizes__mix": "custom", "sizes__weights": {"14": 0.5, "28": 0.5}, "optimizer__weigh_sizes": "variance",
    }  # fmt: skip
    taught = {"training__distill": "larger", "training__both_sizes": True, "training__chunks": 2}
    early = {"training__early_stopping": 1, "training__early_stopping_delta": 1.0, "training__keep_best": 2}
    uneven = {"data__limit": 37, "training__chunks": 7, "training__copies": 2, "optimizer__adapt_copies": 1}
    jobs = [
        (
            "trained",
            tiny(**mixed, training__chunks=2, augment__mixup=0.4, training__precision="auto"),
            root / "trained",
        ),
        ("plain", tiny(**{**small, **plain, "data__limit": 75}, training__chunks=3), root / "plain"),
        ("pixels", tiny_scenes("segmentation", **pixels, training__batch_size=4, training__chunks=2), root / "pixels"),
        ("taught", tiny(**{**small, **plain, **halves}, **taught), root / "taught"),
        (
            "taught pixels",
            tiny_scenes("segmentation", **pixels, **taught, training__batch_size=4, training__consistency=0.5),
            root / "taught pixels",
        ),
        ("whole", tiny(**small, **averaged), root / "whole"),
        ("stopped", tiny(**small, **averaged), root / "stopped"),
        ("ended", tiny(**small, **averaged), root / "stopped"),
        ("synchronised", tiny(**{**small, **alike}, model__norm="sync_batch"), root / "synchronised"),
        ("uneven", tiny(**{**small, **alike, **uneven}, model__norm="sync_batch"), root / "uneven"),
        ("aware", tiny(**{**small, **AWARE, "training__epochs": 2}, quantize__statistics_epochs=1), root / "aware"),
        ("aware standing", tiny(**{**small, **alike}, **AWARE, **STANDING), root / "standing"),
        ("first", tiny(**small, training__statistics="first"), root / "first"),
        ("each", tiny(**small, training__statistics="each"), root / "each"),
        ("stopped for one", tiny(**small, **plain), root / "for-one"),
        ("of one", of_one, root / "of-one"),
        ("not finite", tiny(**small, training__log_every=2), root / "not-finite"),
        ("damaged", tiny(**small), root / "damaged"),
        ("saved every second step", tiny(**small, training__checkpoint_steps=2), root / "steps"),
        ("saved after each step", tiny(**small, training__checkpoint_minutes=0), root / "each-step"),
        ("saved by the clock of one", tiny(**small, training__checkpoint_minutes=5), root / "clock"),
        ("unprepared", tiny(**small), root / "unprepared"),
        ("early", tiny(**{**small, **early, "training__epochs": 4}), root / "early"),
        ("whitened", tiny(**{**small, **WHITENED}), root / "whitened"),
        ("stopped whitened", tiny(**{**small, **WHITENED}), root / "whitened-stopped"),
        ("whitened ended", tiny(**{**small, **WHITENED}), root / "whitened-stopped"),
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


@pytest.mark.parametrize("name", ["plain", "pixels", "taught", "taught pixels"])
def test_two_processes_compute_what_one_does_with_their_batches(
    runs: Any, tiny: Make, tiny_scenes: Make, tmp_path: Path, name: str
) -> None:
    """A network without norms: uneven chunks and void pixels weigh in the global batch what they have of it.

    So do the samples that are taught, and trained at two sizes, with one exchange of gradients for both.
    """
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


def test_a_run_that_was_stopped_ends_with_the_same_bits_in_each_process(runs: Any) -> None:
    """Running statistics are each process's own: they differ, and each gets its own back."""
    root, found = runs
    for rank in range(2):
        whole, ended = found["whole", rank]["weights"], found["ended", rank]["weights"]
        assert whole.keys() == ended.keys()
        assert all((whole[name] == ended[name]).all() for name in whole)
    times = ["seconds", "images_per_second", "waiting"]
    rows = [pd.read_csv(root / name / "steps.csv").drop(columns=times) for name in ("whole", "stopped")]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert rows[0][["step", "images"]].values.tolist() == [[1, 16], [5, 80]]
    one, other = (found["whole", rank]["weights"]["bn1.running_mean"] for rank in range(2))
    assert (one != other).any()


def test_first_weights_from_images_and_muons_steps_are_the_same_in_both(runs: Any) -> None:
    """Process 0 looks at the images. A run that goes on has the bits of one that was never stopped."""
    _, found = runs
    one, other = (found["whitened", rank]["weights"] for rank in range(2))
    trained = [name for name in one if "running" not in name and "num_batches" not in name]
    assert all((one[name] == other[name]).all() for name in trained)
    assert (one["whiten.weight"][:4] == -one["whiten.weight"][4:]).all()
    for rank in range(2):
        assert found["stopped whitened", rank]["error"].startswith("Interrupted")
        ended = found["whitened ended", rank]["weights"]
        assert all((found["whitened", rank]["weights"][name] == ended[name]).all() for name in ended)


def test_both_end_early_at_the_same_epoch(runs: Any) -> None:
    root, found = runs
    for rank in range(2):
        assert "error" not in found["early", rank]
        assert len(found["early", rank]["seeds"]) == 10  # of 20 steps
    assert pd.read_csv(root / "early/metrics.csv")["epoch"].tolist() == [1, 2]
    assert {path.name for path in (root / "early/checkpoints").glob("best*")} == {"best", "best-2"}


def test_a_checkpoint_has_the_statistics_of_all_processes_or_of_the_first(runs: Any) -> None:
    root, found = runs
    means, variances = (
        [torch.from_numpy(found["whole", rank]["weights"][f"bn1.running_{what}"]).double() for rank in range(2)]
        for what in ("mean", "var")
    )
    mean = torch.stack(means).mean(0)
    variance = torch.stack([var + value**2 for var, value in zip(variances, means, strict=True)]).mean(0) - mean**2
    pooled = read_checkpoint(root / "whole/checkpoints/last").model
    torch.testing.assert_close(pooled["bn1.running_mean"], mean.float())
    torch.testing.assert_close(pooled["bn1.running_var"], variance.float())
    for name in ("first", "each"):
        saved = read_checkpoint(root / name / "checkpoints/last").model["bn1.running_mean"]
        assert (saved.numpy() == found[name, 0]["weights"]["bn1.running_mean"]).all()
        assert (saved.numpy() != found[name, 1]["weights"]["bn1.running_mean"]).any()


def test_each_evaluates_all_images_and_the_mean_is_reported(runs: Any, tmp_path: Path) -> None:
    """The first process's figure is that of the checkpoint, which is its own; the mean with the other's is another."""
    root, found = runs
    reported = pd.read_csv(root / "each/metrics.csv")["validation_loss"].iloc[-1]
    loaded = load_run(root / "each", "last")
    losses = []
    for rank in range(2):
        weights = found["each", rank]["weights"]
        loaded.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        losses.append(make_evaluator(loaded).evaluate(loaded.model, 28).values["loss"])
    assert losses[0] != losses[1]
    assert reported == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_a_run_of_two_processes_goes_on_in_one_and_one_of_one_in_two(runs: Any, tmp_path: Path) -> None:
    """The total batch stands, so that the samples of each step do, and each image is trained on once."""
    root, found = runs
    run = root / "for-one"
    recipe = load_recipe(str(run / "recipe.toml"), {})
    before = read_state(run / "checkpoints/last")["progress"]
    assert 0 < before["step"] < 5
    train(recipe, run=run)
    unbroken = train(recipe, {"training.batch_size": 16}, run=tmp_path / "unbroken")
    assert "error" not in found["of one", 0]
    for folder in (run, root / "of-one"):
        after = read_state(folder / "checkpoints/last")["progress"]
        assert (after["step"], after["images"]) == (5, 80)
        expected, ended = (read_checkpoint(each / "checkpoints/last").model for each in (unbroken, folder))
        for name, value in expected.items():
            torch.testing.assert_close(ended[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_synchronised_norms_train_what_one_process_trains(runs: Any, tiny: Make, tmp_path: Path) -> None:
    """Sums over two halves round otherwise than a sum over the whole, some 1e-7 a step, which training makes larger."""
    root, found = runs
    assert "error" not in found["synchronised", 0]
    recipe = load_recipe(str(root / "synchronised/recipe.toml"), {})
    alone = train(recipe, {"training.batch_size": 16, "model.norm": ""}, run=tmp_path / "alone")
    both, one = (pd.read_csv(folder / "metrics.csv") for folder in (root / "synchronised", alone))
    assert both["train_loss"].tolist() == pytest.approx(one["train_loss"].tolist(), rel=1e-4)
    weights = read_checkpoint(alone / "checkpoints/last").model
    for rank in range(2):
        for name, value in found["synchronised", rank]["weights"].items():
            torch.testing.assert_close(torch.from_numpy(value), weights[name], rtol=1e-3, atol=1e-5, msg=name)


def test_synchronised_norms_meet_as_often_in_both_where_one_has_fewer_images(runs: Any) -> None:
    """The processes have 14 and 12 images a step, and cut them into 7 and 6 parts if each goes by its own."""
    _, found = runs
    for rank in range(2):
        assert "error" not in found["uneven", rank]
        assert found["uneven", rank]["images"] == 74
    one, other = (found["uneven", rank]["weights"] for rank in range(2))
    assert all((one[name] == other[name]).all() for name in one)


def test_trained_for_int8_both_end_with_the_same_model(runs: Any) -> None:
    root, found = runs
    one, other = found["aware", 0], found["aware", 1]
    assert "error" not in one
    assert all((one["weights"][name] == other["weights"][name]).all() for name in one["weights"])
    assert any("running_var" in name for name in one["weights"])  # which were each one's own for an epoch
    text = (root / "aware/log.txt").read_text()
    assert "done; the report is" in text


def test_the_ranges_of_two_are_those_of_one_with_all_images(runs: Any, tiny: Make, tmp_path: Path) -> None:
    _, found = runs
    alike = {"data__limit": 80, "training__epochs": 1, "training__batch_size": 16, "sizes__mix": "fixed"}
    train(
        tiny(**alike, **AWARE, **STANDING, training__drop_last=False, model__options=NO_DROPOUT), run=tmp_path / "one"
    )
    tensors = load_run(tmp_path / "one", "last").checkpoint.model
    ends = [name for name in tensors if name.startswith("quantization.values.") and name.endswith(("low", "high"))]
    assert len(ends) > 20
    for name in ends:  # within a step each rounds by its own, which changes what comes behind a little
        both = torch.from_numpy(found["aware standing", 1]["weights"][name])
        exactly = "images" in name
        torch.testing.assert_close(both, tensors[name], rtol=1e-6 if exactly else 0.02, atol=1e-6 if exactly else 0.01)


def test_a_batch_of_one_that_is_not_finite_ends_both_and_names_its_samples(runs: Any) -> None:
    root, found = runs
    errors = [found["not finite", rank]["error"] for rank in range(2)]
    assert errors[0].startswith("Diverged: process 1: the loss is nan at epoch 1, step 5")
    assert errors[1].startswith("Diverged: the loss is nan at epoch 1, step 5")
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


def test_both_save_once_at_the_steps_that_are_asked_for(runs: Any) -> None:
    """The saves that end the epoch follow."""
    _, found = runs
    for rank in range(2):
        assert found["saved every second step", rank]["saves"] == [2, 4, 5, 5]
        assert found["saved after each step", rank]["saves"] == [1, 2, 3, 4, 5, 5, 5]
        assert found["saved by the clock of one", rank]["saves"] == [3, 5, 5]  # the other hears of it a step later


def test_an_error_of_one_before_the_first_step_is_that_of_both(runs: Any) -> None:
    _, found = runs
    assert found["unprepared", 0]["error"] == "UserError: process 1: nothing is prepared"
    assert found["unprepared", 1]["error"] == "OwnError: nothing is prepared"
