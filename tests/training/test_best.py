"""Which validation leaves the best checkpoint."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from anysize.stopping import StopRequest
from anysize.training.history import History
from anysize.training.loop import validate
from anysize.training.parts import Parts, Validation
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
            writer=writer,
            checkpoints=tmp_path,
            description={},
            validate=lambda model, stop, score=score: Validation({"map": score}, {"w": torch.zeros(1)}, 28, False),
        )
        validate(cast(Parts, parts), cast(TrainState, state), StopRequest())
    assert kept == pytest.approx(saved, nan_ok=True)
    assert progress.best is not None
    assert math.isnan(progress.best) == math.isnan(saved[-1])
