"""What a run meets in a night: saves beside the training, full disks, stops while it writes, the end of its time."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from image_files import write_folder

from anysize.experiment import train as train_module
from anysize.experiment.repeat import repeat
from anysize.experiment.train import train
from anysize.recipe import Recipe, dump
from anysize.registry import UserError
from anysize.stopping import Interrupted, StopRequest, TimeOver
from anysize.training import loop
from anysize.training.checkpoint import files
from anysize.training.checkpoint.files import read_state

Make = Callable[..., Recipe]
SMALL = {"data__limit": 80, "sizes__mix": "fixed", "training__epochs": 1}  # five steps
Tensors = Mapping[str, torch.Tensor]
Write = Callable[[Path, Tensors], tuple[int, str]]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file}/{name}": value
        for file in ("model", "optimizer")
        for name, value in safetensors.torch.load_file(run / f"checkpoints/last/{file}.safetensors").items()
    }


def assert_same(one: Path, other: Path) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def while_writing(monkeypatch: pytest.MonkeyPatch, do: Callable[[Write, Path, Tensors], Any]) -> None:
    """Let `do` take the place of what writes a file of a checkpoint; its first argument is that."""
    write = files.write_tensors
    monkeypatch.setattr(files, "write_tensors", lambda path, tensors: do(write, path, tensors))


def test_saves_come_every_so_many_steps_with_the_bits_of_the_foreground(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []
    write = files.write_checkpoint

    def noted(folder: Path, checkpoint: Any, keep: Path | None = None, **how: Any) -> None:
        if folder.name == "last":
            beside = threading.current_thread() is not threading.main_thread()
            saved.append((checkpoint.state["progress"]["step"], beside))
        write(folder, checkpoint, keep, **how)

    monkeypatch.setattr("anysize.training.checkpoint.writer.write_checkpoint", noted)
    beside = train(tiny(**SMALL, training__checkpoint_steps=2), run=tmp_path / "beside")
    assert saved == [(step, True) for step in (2, 4, 5, 5)]  # before the validation and after it, too
    saved.clear()
    changes = {"training__checkpoint_steps": 3, "training__checkpoint_background": False}
    waited = train(tiny(**SMALL, **changes), run=tmp_path / "waited")
    assert saved == [(step, False) for step in (3, 5, 5)]
    assert_same(beside, waited)
    train(tiny(**SMALL, **changes), run=beside)  # how it saves may change when a run goes on


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_fails_beside_the_training_ends_it_and_what_was_there_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    recipe = tiny(**{**SMALL, "training__epochs": 2}, training__checkpoint_steps=1)
    steps: list[int] = []
    record = loop.record

    def slow(progress: Any, *arguments: Any) -> None:
        record(progress, *arguments)
        steps.append(progress.step)
        time.sleep(0.05)  # so that the thread fails while steps are made

    writes: list[Path] = []

    def failing(write: Write, path: Path, held: Tensors) -> Any:
        writes.extend([path] if path.name == "model.safetensors" else [])
        if len(writes) > 2:
            raise OSError(reason, os.strerror(reason))
        return write(path, held)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", slow)
        while_writing(patch, failing)
        with pytest.raises(UserError, match=rf"could not write the checkpoint .*{os.strerror(reason)}; .*untouched"):
            train(recipe, run=tmp_path / "run")
    assert max(steps) < 10  # at the next look, not at the end
    assert read_state(tmp_path / "run/checkpoints/last")["progress"]["step"] == 2
    assert_same(train(recipe, run=tmp_path / "whole"), train(recipe, run=tmp_path / "run"))


def test_a_signal_while_a_write_is_under_way_leaves_the_run_saved_at_its_step(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(**SMALL, training__checkpoint_steps=2)

    def slow(write: Write, path: Path, held: Tensors) -> Any:
        if path.name == "model.safetensors":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return write(path, held)

    with monkeypatch.context() as patch:
        while_writing(patch, slow)
        with pytest.raises(Interrupted, match="saved at epoch 1, step") as stopped:
            train(recipe, run=tmp_path / "run")
    step = read_state(tmp_path / "run/checkpoints/last")["progress"]["step"]
    assert str(stopped.value).endswith(f"step {step}")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["last", "previous"]
    assert_same(train(recipe, run=tmp_path / "whole"), train(recipe, run=tmp_path / "run"))


def test_a_validation_that_is_stopped_does_not_say_saved_where_the_write_failed(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validating = threading.Event()
    evaluate = train_module.Evaluator.evaluate

    def stopped(self: Any, model: Any, size: int, stop: StopRequest | None = None) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        validating.set()
        return evaluate(self, model, size, stop)

    def failing(write: Write, path: Path, held: Tensors) -> Any:
        assert validating.wait(60)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train_module.Evaluator, "evaluate", stopped)
    while_writing(monkeypatch, failing)
    with pytest.raises(UserError, match="No space left on device"):
        train(tiny(**SMALL), run=tmp_path / "run")


def test_a_run_ends_in_the_time_it_was_given_and_the_same_command_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anysize: Callable[..., Any]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump(tiny(**SMALL)))
    command = ["train", str(recipe), "--run", "run", "--device", "cpu"]
    done = anysize(*command, "--max-hours", "1e-6")  # over before the first step, after which it looks
    assert done.returncode == 0
    assert "stopped: --max-hours 1e-06 is over: saved at epoch 1, step 1; the same command goes on" in done.stderr
    assert read_state(tmp_path / "run/checkpoints/last")["progress"]["step"] == 1
    evaluate = train_module.Evaluator.evaluate

    def late(self: Any, model: Any, size: int, stop: StopRequest | None = None) -> Any:
        assert stop is not None
        monkeypatch.setattr(stop, "_since", -1e9)
        return evaluate(self, model, size, stop)

    with monkeypatch.context() as patch:
        patch.setattr(train_module.Evaluator, "evaluate", late)
        done = anysize(*command, "--max-hours", "10")
    assert done.returncode == 0
    assert "--max-hours 10 is over: saved; the validation starts again" in done.stderr
    assert anysize(*command, "--max-hours", "10").returncode == 0
    assert "done; the report is" in (tmp_path / "run/log.txt").read_text()
    assert_same(train(tiny(**SMALL, training__device="cpu"), run=tmp_path / "whole"), tmp_path / "run")
    done = anysize(*command, "--max-hours", "0")
    assert done.returncode == 2
    assert "max_hours is 0.0; expected a number of hours above 0" in done.stderr


def test_the_time_is_that_of_all_repeated_runs(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(TimeOver, match=r"--max-hours .* is over: saved at epoch 1, step 1"):
        repeat(tiny(**SMALL), n=2, run=tmp_path / "runs", max_hours=1e-6)
    assert not (tmp_path / "runs/seed-1").exists()


def test_time_is_over_early_enough_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slowest = 1000.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = StopRequest(hours=1, since=0.0, slowest_save=lambda: slowest)
    assert not stop
    now = 3570.0
    fresh = StopRequest(hours=1, since=0.0)
    assert not fresh  # 20 s are left for the first save
    now = 3581.0
    assert fresh
    slowest = 100.0
    assert StopRequest(hours=1, since=0.0, slowest_save=lambda: slowest)
    now = 3300.0
    looked = StopRequest(hours=1, since=0.0, slowest_save=lambda: slowest)
    assert not looked  # a save of 100 s is thought to take 200 s
    now = 3310.0
    assert not looked
    now = 3360.0  # 240 s are left, and the next look may be as far away as the last one
    assert looked
    slowest = 0.0
    assert looked  # once over, it stays so


def test_a_device_that_is_given_twice_is_refused(anysize: Callable[..., Any]) -> None:
    for command in (["train", "quickstart"], ["evaluate", "run"], ["predict", "run"]):
        done = anysize(*command, "--device", "cuda", "--training.device", "cpu")
        assert done.returncode == 2
        assert "--device cuda and --training.device cpu are both given; leave one of them out" in done.stderr
    done = anysize("train", "quickstart", "--run", "run", "--device", "gpu")
    assert "training.device is 'gpu', which cannot be used" in done.stderr


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import anysize
from anysize.experiment.train import train
from anysize.reports import html

html.write_report = lambda folder: folder / "report.html"
recipe, run, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
random.seed(int(sys.argv[4]))
while kills:
    child = os.fork()  # before this process has threads
    if not child:
        train(recipe, run=run)
        os._exit(0)
    last, started = run / "checkpoints/last/state.json", time.monotonic()
    before = last.stat().st_mtime_ns if last.exists() else 0
    while (last.stat().st_mtime_ns if last.exists() else 0) == before and time.monotonic() - started < 60:
        if os.waitpid(child, os.WNOHANG)[0]:
            print("ended", flush=True)
            sys.exit()
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills -= 1
    print("killed", flush=True)
train(recipe, run=run)
"""


@pytest.mark.slow
def test_killed_at_random_moments_of_its_writes_a_run_ends_with_the_same_bits(tiny: Make, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump(tiny(training__checkpoint_minutes=0.0, data__limit=400)))  # it writes nearly all the time
    whole = train(str(recipe), run=tmp_path / "whole")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), str(recipe), str(tmp_path / "run"), "10", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") >= 5
    assert_same(whole, tmp_path / "run")
    rows = [pd.read_csv(run / "metrics.csv") for run in (whole, tmp_path / "run")]
    timing = ["images_per_second", "seconds", "waiting"]
    pd.testing.assert_frame_equal(*(table.drop(columns=timing) for table in rows), check_exact=True)


def test_a_loader_that_the_system_kills_is_named_and_the_same_call_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images", 12)
    files_alone = {"data__name": "folder", "data__root": str(tmp_path / "images"), "data__memory_limit": 0}
    loaded = {"data__workers": 1, "training__batch_size": 4, "training__checkpoint_minutes": 0, "model__norm": "group"}
    recipe = tiny(**SMALL, **files_alone, **loaded)
    step = loop.train_step

    def killing(parts: Any, state: Any, batch: Any, seed: int) -> None:
        step(parts, state, batch, seed)
        if state.progress.step == 1:
            for loader in multiprocessing.active_children():
                os.kill(loader.pid or 0, signal.SIGKILL)
                loader.join()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killing)
        with pytest.raises(UserError, match=r"a process that loads images \(pid \d+\) .*lower data.workers"):
            train(recipe, run=tmp_path / "run")
    train(recipe, run=tmp_path / "run")
    assert read_state(tmp_path / "run/checkpoints/last")["progress"]["epoch"] == 1
