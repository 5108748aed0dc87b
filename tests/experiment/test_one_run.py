"""A run is one run: what happens to its folder, its settings and its figures while and after it trains."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anysize.experiment.run_folder import alone_in
from anysize.experiment.train import train
from anysize.recipe import Recipe, dump, load_recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted, StopRequest, stop_on_signals
from anysize.training import loop
from anysize.training.checkpoint.files import LostFolder, read_checkpoint, read_state, write_checkpoint

Make = Callable[..., Recipe]
SMALL = {"data__limit": 80, "sizes__mix": "fixed", "training__epochs": 2, "training__checkpoint_steps": 2}


def move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def delete(run: Path) -> None:
    shutil.rmtree(run)


def replace(run: Path) -> None:
    move(run)
    (run / "checkpoints/last").mkdir(parents=True)
    (run / "checkpoints/last/theirs").write_text("")
    (run / ".lock").touch()


def take_over(run: Path) -> None:
    (run / ".owner").write_text(json.dumps({"host": "node7", "pid": 4242, "since": "", "id": "theirs", "job": ""}))


def free(run: Path) -> None:
    (run / ".owner").unlink()


@pytest.fixture(scope="module")
def whole(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to; who writes takes a copy."""
    return train(tiny(**SMALL), run=tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    ("happens", "why", "when"),
    [
        (move, "it was moved or deleted", 3),
        pytest.param(delete, "it was moved or deleted", 10, marks=pytest.mark.slow),
        pytest.param(replace, "another one was put in its place", 3, marks=pytest.mark.slow),
        (replace, "another one was put in its place", 10),
        (take_over, "it was taken over by process 4242 on node7", 3),
        pytest.param(free, r"its record \.owner was removed", 3, marks=pytest.mark.slow),
    ],
)  # before the third save, or in the last validation
def test_a_folder_that_is_lost_stops_the_run_which_is_saved_beside_it_and_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path,
    happens: Callable[[Path], None], why: str, when: int,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    record, validate = loop.record_waiting, loop.validate

    def lost_in_training(parts: Any, state: Any, seconds: float) -> None:
        record(parts, state, seconds)
        if state.progress.step == when == 3 and run.exists() and "moved" not in os.listdir(tmp_path):
            parts.writer.wait()  # which looks at the folder, too, while it happens
            happens(run)

    def lost_in_validation(parts: Any, state: Any, stop: Any) -> Any:
        row = validate(parts, state, stop)
        if state.progress.step == when:
            parts.writer.wait()
            happens(run)
        return row

    with monkeypatch.context() as patch:
        patch.setattr(loop, "record_waiting", lost_in_training)
        patch.setattr(loop, "validate", lost_in_validation)
        with pytest.raises(
            LostFolder, match=rf"/run is no longer the folder of this run: {why}; the run stops; it"
        ) as told:
            train(tiny(**SMALL), run=run)
    found = re.search(r"saved in (\S+), and goes on from there with anysize train (\S+)$", str(told.value))
    assert found
    saved = Path(found[1])
    assert saved.name == f"run.saved-{os.getpid()}"
    if happens in (move, delete):
        assert not run.exists()
    if happens is replace:
        assert [path.name for path in run.rglob("*") if path.is_file()] == [".lock", "theirs"]
    assert load_recipe(str(saved / "recipe.toml")) == tiny(**SMALL)
    train(tiny(**SMALL), run=saved)
    one, other = (read_checkpoint(folder / "checkpoints/last") for folder in (whole, saved))
    assert all((value == other.model[name]).all() for name, value in one.model.items())
    times = ["seconds", "images_per_second", "waiting"]
    assert (
        pd.read_csv(saved / "metrics.csv")
        .drop(columns=times)
        .equals(pd.read_csv(whole / "metrics.csv").drop(columns=times))
    )
    assert (saved / "checkpoints/best").is_dir()


def test_the_settings_are_those_of_the_checkpoint(tiny: Make, tmp_path: Path, whole: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    longer = {**SMALL, "training__epochs": 3}
    other = tiny(**longer, optimizer__lr=5.0, training__seed=9)
    (run / "recipe.toml").unlink()
    with pytest.raises(UserError, match=r"another recipe: training\.epochs was 2 and is now 3; training\.seed was 0"):
        train(other, run=run)
    (run / "recipe.toml").write_text(dump(other))  # by hand
    with pytest.raises(UserError, match=r"training\.seed was 0 and is now 9"):
        train(run)
    train(tiny(**SMALL), run=run)
    said = (run / "log.txt").read_text()
    assert "recipe.toml differs from the settings in the checkpoint (" in said
    assert "optimizer.lr was 0.05 and is now 5.0" in said
    (run / "recipe.toml").unlink()
    train(tiny(**longer), run=run, allow_changes=True)
    assert load_recipe(str(run / "recipe.toml")) == tiny(**longer)
    assert read_state(run / "checkpoints/last")["recipe"]["training"]["epochs"] == 3


def test_a_checkpoint_of_before_without_settings_goes_on(tiny: Make, tmp_path: Path, whole: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    old = read_checkpoint(run / "checkpoints/last")
    for key in ("recipe", "history"):
        del old.state[key]
    shutil.rmtree(run / "checkpoints/last")
    write_checkpoint(run / "checkpoints/last", old)
    longer = {**SMALL, "training__epochs": 3}
    with pytest.raises(UserError, match=r"training\.epochs was 2 and is now 3"):
        train(tiny(**longer), run=run)
    (run / "recipe.toml").unlink()
    train(tiny(**longer), run=run)
    assert "nothing in" in (run / "log.txt").read_text()
    assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == [1, 2, 3]


@pytest.mark.parametrize("damage", ["altered", "gone", "cut", "no text"])
def test_the_figures_of_the_checkpoint_stand_again(tiny: Make, tmp_path: Path, whole: Path, damage: str) -> None:
    run, path = shutil.copytree(whole, tmp_path / "run"), tmp_path / "run/metrics.csv"
    before = path.read_text()
    if damage == "altered":
        table = before.splitlines()
        cells = table[1].split(",")
        cells[2] = f"0{cells[2]}"
        path.write_text("\n".join([table[0], ",".join(cells), *table[2:]]) + "\n")
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"\xff\xfe\x00" if damage == "no text" else before.encode()[: len(before) // 2])
    train(tiny(**{**SMALL, "training__epochs": 3}), run=run, allow_changes=True)
    assert path.read_text().startswith(before)
    assert "had other figures than the checkpoint, or none, for epoch" in (run / "log.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_hang_up_saves_and_stops_as_sigterm_does(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    record = loop.record

    def signalled(progress: Any, seconds: float) -> None:
        record(progress, seconds)
        if progress.step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "record", signalled)
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests under nohup ignores a hang-up
    try:
        with pytest.raises(Interrupted, match=r"saved at epoch 1, step 3"):
            train(tiny(**SMALL), run=tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert read_state(tmp_path / "run/checkpoints/last")["progress"]["step"] == 3


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signals(StopRequest()) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_does_not_hold_the_folder(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    started, begins = os.pipe()
    with alone_in(tmp_path):
        worker = os.fork()
        if worker == 0:  # as a loader's, which outlives a main process that is killed
            os.close(theirs)
            os.write(begins, b".")
            os.read(ours, 1)
            os._exit(0)
        os.read(started, 1)
    try:
        with alone_in(tmp_path) as held:
            held.check()
    finally:
        for end in (theirs, ours, started, begins):
            os.close(end)
        os.waitpid(worker, 0)
