"""The learning rate of a step follows its size, and what is logged is that of the step."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.sizes.mix import SizeMix
from anysize.training.lr_by_size import lr_factor, lr_factors
from anysize.training.optimizer import RegimeOptimizer, regime_at
from anysize.training.regime import parse_schedule
from anysize.training.settings import OptimizerSettings


def test_the_batch_of_a_size_scales_its_rate() -> None:
    parts = SizeMix.custom({32: 0.5, 16: 0.3, 48: 0.2}, base=32, budget="B+").batches(64)
    assert lr_factors(OptimizerSettings(lr_by_batch="linear"), parts, 64) == {32: 1.0, 16: 4.0, 48: 28 / 64}
    assert lr_factors(OptimizerSettings(lr_by_batch="sqrt"), parts, 64) == pytest.approx({32: 1, 16: 2, 48: 0.6614378})
    assert lr_factors(OptimizerSettings(), parts, 64) == {32: 1.0, 16: 1.0, 48: 1.0}
    copies = SizeMix.custom({32: 0.5, 16: 0.5}, base=32, budget="D+").batches(64)
    assert lr_factors(OptimizerSettings(lr_by_batch="linear"), copies, 64)[16] == 1  # copies are no further samples


def test_a_table_is_interpolated_and_multiplies() -> None:
    settings = OptimizerSettings(lr_by_size={"32": 1.0, "16": 0.5}, lr_by_batch="sqrt")
    assert [lr_factor(settings, size) for size in (8, 16, 24, 32, 64)] == [0.5, 0.5, 0.75, 1.0, 1.0]
    assert lr_factor(settings, 16, batch_ratio=4.0) == 1.0
    with pytest.raises(UserError, match=r"optimizer\.lr_by_size"):
        RegimeOptimizer(nn.Linear(2, 2), OptimizerSettings(lr_by_size={"small": 2.0}))


def test_the_optimizer_takes_the_rate_of_the_step_and_nothing_else_changes() -> None:
    settings = OptimizerSettings(lr=parse_schedule("0:0.1:cosine 10:0"), head_lr=3.0, warmup_epochs=1.0)
    optimizer = RegimeOptimizer(nn.Linear(2, 2), settings)
    for epoch in (0.5, 4.0, 9.5):
        plain = regime_at(settings, epoch)[1]
        assert optimizer.apply(epoch, 4.0) == {**plain, "lr": 4 * plain["lr"]}
        rates = [group["lr"] / group["multiple"] for group in optimizer.torch.param_groups]
        assert rates == pytest.approx([4 * plain["lr"]] * len(rates))


@pytest.mark.slow
def test_rows_of_steps_have_the_rate_of_their_size(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tiny(
        training__log_every=1,
        optimizer__lr_by_size={"14": 0.5, "28": 1.0},
        optimizer__lr=0.02,
        data__limit=64,
        training__epochs=1,
    )
    run = train(recipe, run=tmp_path / "run")
    steps = pd.read_csv(run / "steps.csv")
    sizes = steps["sizes"].str.extract(r'"(\d+)"')[0].astype(int)
    assert len(set(sizes)) > 2
    multiple = {14: 0.5, 21: 0.75, 28: 1.0, 42: 1.0}
    assert steps["lr"].tolist() == pytest.approx([0.02 * multiple[size] for size in sizes])
