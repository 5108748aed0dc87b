"""Which validation leaves the best checkpoint."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from anysize.training.guards import StopRequest
from anysize.training.length import Progress
from anysize.training.loop import Parts, Validation, validate

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "saved"),
    [
        ([0.2, 0.1, 0.3, 0.3], [0.2, 0.3]),
        ([NAN, 0.1, NAN, 0.05, 0.2], [NAN, 0.1, 0.2]),  # NaN: no image had what the metric is of
        ([NAN, NAN], [NAN, NAN]),
    ],
)
def test_a_score_beats_what_is_lower_and_what_is_none(scores: list[float], saved: list[float]) -> None:
    kept: list[float] = []
    store = SimpleNamespace(save_best=lambda tensors, progress, metrics: kept.append(metrics["map"]))
    progress = Progress()
    for score in scores:
        parts: Any = SimpleNamespace(
            task=SimpleNamespace(best="map"),
            store=store,
            validate=lambda stop, score=score: Validation({"map": score}, {"w": torch.zeros(1)}, 28, False),
        )
        validate(cast(Parts, parts), progress, StopRequest())
    assert kept == pytest.approx(saved, nan_ok=True)
    assert progress.best is not None
    assert math.isnan(progress.best) == math.isnan(saved[-1])
