"""Training one recipe from several seeds: what the table says, and that it survives being stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from anysize.experiment import repeat as repeat_module
from anysize.experiment.repeat import repeat, repeats_table, summarize_repeats
from anysize.experiment.train import train
from anysize.recipe import Recipe, dump, load_recipe
from anysize.registry import UserError
from anysize.reports.console import show_table
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.guards import Diverged

Make = Callable[..., Recipe]
SMALL: dict[str, Any] = {"data__limit": 60, "sizes__mix": "fixed"}


def metrics(folder: Path, seed: int) -> pd.DataFrame:
    return pd.read_csv(folder / f"seed-{seed}" / "metrics.csv", index_col="epoch")


def test_the_table_is_of_the_runs_and_each_run_is_that_of_its_seed(tiny: Make, tmp_path: Path) -> None:
    table = repeat(tiny(**SMALL), {"training.seed": 7}, 3, run=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("seed-*")) == ["seed-7", "seed-8", "seed-9"]
    top1 = [metrics(tmp_path, seed)["validation_top1"] for seed in (7, 8, 9)]
    assert len({tuple(values) for values in top1}) > 1
    alone = train(tiny(**SMALL, training__seed=8), run=tmp_path / "alone")
    assert (
        pd.read_csv(alone / "metrics.csv")["validation_loss"].tolist()
        == metrics(tmp_path, 8)["validation_loss"].tolist()
    )
    last = table[(table["metric"] == "validation_top1") & (table["at"] == "last")].iloc[0]
    ends = sorted(values[2] for values in top1)
    assert (last["epoch"], last["runs"]) == (2, 3)
    assert [last["min"], last["median"], last["max"]] == ends
    mean = sum(ends) / 3
    assert last["sd"] == pytest.approx((sum((end - mean) ** 2 for end in ends) / 2) ** 0.5)
    written = pd.read_csv(tmp_path / "repeats.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)


@pytest.mark.slow
def test_stopped_in_the_second_run_the_same_call_goes_on(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(**SMALL, training__epochs=1)
    whole = repeat(recipe, n=2, run=tmp_path / "whole")
    train_step, steps = loop.train_step, []

    def stopping(parts: Any, state: Any, *arguments: Any) -> None:
        train_step(parts, state, *arguments)
        steps.append(state.progress.step + 1)
        if len(steps) == 5:  # three steps a run: the second step of the second run
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(Interrupted, match="step 2"):
        repeat(recipe, n=2, run=tmp_path / "broken")
    assert not (tmp_path / "broken/repeats.csv").exists()
    pd.testing.assert_frame_equal(repeat(recipe, n=2, run=tmp_path / "broken"), whole)
    assert steps == [1, 2, 3, 1, 2, 3]  # no step was made twice
    assert repeat(recipe, n=3, run=tmp_path / "broken")["runs"].tolist() == [3] * len(whole)
    assert len(steps) == 9  # a third run, and no other


def test_a_run_that_diverges_is_left_out_and_named(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(recipe: Recipe, overrides: dict[str, Any], **options: Any) -> Path:
        if overrides["training.seed"] == 1 or everywhere:
            raise Diverged("the loss is nan")
        return train(recipe, overrides, **options)

    everywhere = False
    monkeypatch.setattr(repeat_module, "train", diverging)
    console = Console(record=True)
    table = repeat(tiny(**SMALL, training__epochs=1), n=3, run=tmp_path, console=console)
    assert set(table["runs"]) == {2}
    said = console.export_text()
    assert "seed 1 is left out: the loss is nan" in said
    assert "2 of 3 runs reached their end; these seeds diverged: 1" in said
    everywhere = True
    with pytest.raises(UserError, match=r"all 2 runs in .* diverged"):
        repeat(tiny(**SMALL), n=2, run=tmp_path / "other")


def test_the_best_epoch_is_that_of_the_median_curve() -> None:
    """Not of any run's best: run 1 has its best top-1 at epoch 1, the median at epoch 3, where the loss is lowest."""
    runs = [
        pd.DataFrame({"validation_top1": top1, "validation_loss": loss, "validation_size": 28}, index=[1, 2, 3, 4])
        for top1, loss in (
            ([0.95, 0.50, 0.80, 0.70], [2.0, 1.0, 1.5, 1.0]),
            ([0.10, None, 0.90, 0.75], [2.0, 1.0, 1.0, 1.0]),
            ([0.20, 0.60, 0.70, 0.72], [2.0, 3.0, 0.5, 3.0]),
            ([0.30, 0.60, 0.78, 0.73], [2.0, 3.0, 0.5, 3.0]),
        )
    ]
    table = summarize_repeats(runs).set_index(["metric", "at"])
    assert table.loc[("validation_top1", "best"), ["epoch", "median", "min", "max"]].tolist() == [3, 0.79, 0.7, 0.9]
    assert table.loc[("validation_top1", "last"), ["epoch", "median"]].tolist() == [4, 0.725]
    assert table.loc[("validation_loss", "best"), ["epoch", "median"]].tolist() == [3, 0.75]
    assert len(table) == 4  # the size is no metric


def test_one_run_has_no_deviation() -> None:
    table = summarize_repeats([pd.DataFrame({"validation_top1": [0.5]}, index=[1])])
    assert table["sd"].isna().all()
    console = Console(record=True, width=100)
    show_table(repeats_table(table), console)
    shown = console.export_text()
    assert "validation top-1" in shown
    assert "50.0%" in shown
    assert "sample standard deviation" in shown
    assert "chosen on the validation images" in shown


@pytest.mark.parametrize("n", [0, -2])
def test_no_runs_are_refused(tiny: Make, tmp_path: Path, n: int) -> None:
    with pytest.raises(UserError, match=rf"repeat is {n}; expected the number of runs, at least 1"):
        repeat(tiny(), n=n, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_from_the_command_line(tiny: Make, tmp_path: Path, anysize: Callable[..., CompletedProcess[str]]) -> None:
    Path("mine.toml").write_text(dump(tiny(**SMALL, training__epochs=1)))
    done = anysize("train", "mine.toml", "--repeat", "2", "--training.seed", "3")
    assert done.returncode == 0, done.stderr
    for expected in ("run 2 of 2: seed 4", "validation top-1", "1 (last)", "1 (best)"):
        assert expected in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert load_recipe(str(folder / "seed-4/recipe.toml")).training.seed == 4
