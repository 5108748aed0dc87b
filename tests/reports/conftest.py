"""Run folders as training writes them, without training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anysize.reports import run_files
from anysize.reports.run_files import EVALUATION, add_rows, write_environment

RECIPE = """# A comment with <b>markup</b>
[data]
name = "fashion-mini"
[model]
name = "resnet20"
[sizes]
mix = "{mix}"
[training]
epochs = 8
"""


def _metrics_row(epoch: int, **changes: Any) -> dict[str, Any]:
    left = math.exp(-epoch / 3)
    return {
        "epoch": epoch,
        "step": 100 * epoch,
        "images": 6400 * epoch,
        "flops": 1.5e12 * epoch,
        "seconds": 12.5 * epoch,
        "lr": 0.1 / epoch,
        "images_per_second": 1210.0,
        "sizes": {"16": 0.25, "32": 0.75},
        "train_loss": 0.2 + left,
        "train_top1": 0.9 - left / 2,
        "validation_loss": 0.3 + left,
        "validation_top1": 0.875 - left / 2,
        "validation_top5": 0.99 - left / 4,
        "validation_calibrated": True,
        "validation_size": 32,
    } | changes


def _evaluation(bonus: float = 0.0) -> pd.DataFrame:
    rows = [
        {
            "size": size,
            "calibrated": calibrated,
            "top1": top1 + bonus,
            "top5": top1 + 0.2,
            "loss": 1 - top1,
            "images": 2000,
            "images_per_second": 9e6 / size**2,
            "flops": 3e4 * size**2,
        }
        for size, as_trained, after in ((16, 0.531, 0.612), (32, 0.781, 0.785), (48, 0.583, 0.714))
        for calibrated, top1 in ((False, as_trained), (True, after))
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def metrics_row() -> Callable[..., dict[str, Any]]:
    """Makes the row that training writes after an epoch; keywords replace values."""
    return _metrics_row


@pytest.fixture
def evaluation() -> Callable[..., pd.DataFrame]:
    """Makes the table of an evaluation at three sizes, as trained and calibrated."""
    return _evaluation


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str = "run",
        *,
        epochs: int = 5,
        mix: str = "B+",
        recipe: str = RECIPE,
        rows: list[dict[str, Any]] | None = None,
        evaluation: pd.DataFrame | None = None,
    ) -> Path:
        """Write a run folder called `name`."""
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / run_files.RECIPE).write_text(recipe.replace("{mix}", mix))
        write_environment(folder, {"python": "3.11.7", "torch": "2.14.1", "note": "<i>&</i>"})
        run_files.write_rows(
            folder / run_files.METRICS, rows or [_metrics_row(epoch) for epoch in range(1, epochs + 1)]
        )
        if evaluation is not None:
            add_rows(folder / EVALUATION, evaluation.to_dict("records"))
        return folder

    return make
