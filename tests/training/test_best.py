"""Which validation leaves the best checkpoint."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from anysize.registry import UserError
from anysize.stopping import StopRequest
from anysize.training.checkpoint.files import read_checkpoint, read_state
from anysize.training.checkpoint.store import (
    best_names,
    check_resume,
    find_checkpoint,
    remove_left_overs,
)
from anysize.training.checkpoint.writer import CheckpointWriter
from anysize.training.history import History
from anysize.training.loop import validate
from anysize.training.parts import Parts, Validation
from anysize.training.settings import TrainingSettings
from anysize.training.state import Progress, TrainState
from anysize.world import World

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "saved"),
    [
        ([0.2, 0.1, 0.3, 0.3], [0.2, 0.3]),
        ([NAN, 0.1, NAN, 0.05, 0.2], [NAN, 0.1, 0.2]),  # NaN: no image had what the metric is of
        ([NAN, NAN], [NAN, NAN]),
    ],
)
def test_a_score_beats_what_is_lower_and_what_is_none(scores: list[float], saved: list[float], tmp_path: Path) -> None:
    kept: list[float] = []
    writer = SimpleNamespace(
        wait=lambda: None, write=lambda folder, best, changes: kept.append(best.state["metrics"]["map"])
    )
    progress = Progress()
    state: Any = SimpleNamespace(progress=progress, history=History(), evaluated=None)
    for score in scores:
        parts: Any = SimpleNamespace(
            task=SimpleNamespace(best="map"),
            world=World(),
            training=TrainingSettings(),
            writer=writer,
            checkpoints=tmp_path,
            description={},
            validate=lambda model, stop, score=score: Validation({"map": score}, {"w": torch.zeros(1)}, 28, False),
        )
        validate(cast(Parts, parts), cast(TrainState, state), StopRequest())
    assert kept == pytest.approx(saved, nan_ok=True)
    assert progress.best is not None
    assert math.isnan(progress.best) == math.isnan(saved[-1])


def validated(folder: Path, progress: Progress, *scores: float, most: int = 3) -> list[tuple[str, float, int]]:
    """Names, scores and steps of the best checkpoints after these validations, each ten steps behind the one before."""
    state: Any = SimpleNamespace(progress=progress, history=History(), evaluated=None)
    with CheckpointWriter(background=True) as writer:
        for score in scores:
            progress.step += 10
            parts: Any = SimpleNamespace(
                task=SimpleNamespace(best="map"),
                world=World(),
                writer=writer,
                checkpoints=folder,
                description={},
                training=TrainingSettings(keep_best=most),
                validate=lambda model, stop, score=score: Validation(
                    {"map": score}, {"w": torch.full((1,), float(progress.step))}, 28, False
                ),
            )
            validate(cast(Parts, parts), cast(TrainState, state), StopRequest())
    found = []
    for name in best_names(folder):
        said = read_state(folder / name)
        step = said["progress"]["step"]
        assert read_checkpoint(folder / name).model["w"].item() == step
        found.append((name, said["metrics"]["map"], step))
    return found


def test_the_best_are_kept_in_their_order(tmp_path: Path) -> None:
    progress = Progress()
    assert validated(tmp_path, progress, 0.2, 0.5) == [("best", 0.5, 20), ("best-2", 0.2, 10)]
    expected = [("best", 0.5, 20), ("best-2", 0.5, 50), ("best-3", 0.4, 40)]
    assert validated(tmp_path, progress, 0.3, 0.4, 0.5, NAN, 0.1) == expected  # of equals the earlier one is better
    assert validated(tmp_path, progress, 0.6, most=2) == [("best", 0.6, 80), ("best-2", 0.5, 20)]
    assert validated(tmp_path, progress, 0.7, most=1)[0] == ("best", 0.7, 90)


def test_a_validation_that_is_made_again_is_kept_once(tmp_path: Path) -> None:
    progress = Progress()
    expected = validated(tmp_path, progress, 0.5, 0.3, 0.4)
    for best, step in ((0.5, 20), (0.5, 10)):  # killed behind the third validation, and behind the second
        progress.step, progress.best = step, best
        assert validated(tmp_path, progress, *((0.3, 0.4) if step == 10 else (0.4,))) == expected
    progress.step, progress.best = 0, None  # from the start, with other scores: nothing of before is left
    assert validated(tmp_path, progress, 0.1) == [("best", 0.1, 10)]


def test_what_is_missing_or_damaged_leaves_no_gap(tmp_path: Path) -> None:
    progress = Progress()
    validated(tmp_path, progress, 0.5, 0.4, 0.3)
    (tmp_path / "best-2/state.json").write_text("{}")
    assert validated(tmp_path, progress, 0.35) == [("best", 0.5, 10), ("best-2", 0.35, 40), ("best-3", 0.3, 30)]
    (tmp_path / "best").rename(tmp_path / "best-4")  # as a kill between two renames leaves them
    assert find_checkpoint(tmp_path, "best") == tmp_path / "best-2"
    for name in (".best-2.new", ".best-3.old", ".best-9.old", ".calibrated-42.new"):
        (tmp_path / name).mkdir()
    remove_left_overs(tmp_path)
    assert {path.name for path in tmp_path.glob(".*")} == {".best-9.old", ".calibrated-42.new"}


def test_a_run_goes_on_from_one_of_the_best() -> None:
    check_resume("best-2")
    with pytest.raises(UserError, match="expected last, previous"):
        check_resume("best-1")
