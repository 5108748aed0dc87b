"""Runs of a few batches: limited ones, ones that overfit, and those that only go through all of a training."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from interruption import stopped_after

from anysize.experiment import assemble, dev_run
from anysize.experiment.planning import plan
from anysize.experiment.sizing import build_plan
from anysize.experiment.train import train
from anysize.recipe import Recipe, override
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_state

Make = Callable[..., Recipe]


def losses(run: Path) -> list[float]:
    return pd.read_csv(run / "metrics.csv").train_loss.tolist()


def test_limit_is_what_plan_says_and_a_resumed_run_keeps(tiny: Make, tmp_path: Path) -> None:
    recipe = tiny(training__limit_steps=3, training__limit_validation=0.1, sizes__mix="D+")
    whole = train(recipe, run=tmp_path / "whole")
    table = pd.read_csv(whole / "metrics.csv")
    cost = plan(recipe)
    assert (table.step.tolist(), cost.steps) == ([3, 6], 6)
    assert (table.images.iloc[-1], table.flops.iloc[-1]) == (cost.images, cost.flops)
    with stopped_after(2), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    assert losses(train(recipe, run=tmp_path / "broken")) == losses(whole)
    with pytest.raises(UserError, match="limit_steps was 3"):
        train(override(recipe, {"training.limit_steps": 4}), run=tmp_path / "whole")


@pytest.mark.slow
def test_overfitting_sees_the_same_images_as_they_are(tiny: Make, tmp_path: Path, capsys: Any) -> None:
    changes = {"optimizer__lr": 0.1, "sizes__mix": "fixed", "augment__color_jitter": 5.0, "augment__mixup": 1.0}
    recipe = tiny(training__overfit_batches=2, training__epochs=25, training__validate_every=25, **changes)
    run = train(recipe, run=tmp_path / "run")
    told = " ".join(capsys.readouterr().out.split())
    assert "the same 2 batches without augmentation, and validation is on their 32 images" in told
    assert "training images" not in told.split("validation is on")[1].split("epoch")[0]  # no warning of shared ones
    table = pd.read_csv(run / "metrics.csv")
    assert table.train_loss.iloc[-1] < 0.5 * table.train_loss.iloc[0]
    assert table.validation_top1.iloc[-1] > 0.7  # of the images that it has learnt; chance has 0.1
    assert read_state(run / "checkpoints/last")["images"] == 200  # the data are those of any run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit_steps": 2.5}, "2.5 steps; expected a whole number"),
        ({"limit_validation": 2.5}, r"limit_validation is 2\.5"),
        ({"limit_steps": 2, "overfit_batches": 2}, "both set"),
    ],
)
def test_limits_that_say_nothing_are_refused(tiny: Make, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(tiny(**{f"training__{name}": value for name, value in changes.items()}), run=tmp_path / "run")


def test_validation_is_limited_over_all_classes(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    first = assemble.first_batches
    monkeypatch.setattr(assemble, "first_batches", lambda *given: seen.append(first(*given)) or seen[-1])
    train(tiny(training__limit_validation=1, training__epochs=1, training__limit_steps=1), run=tmp_path / "run")
    assert len(seen[0]) == 64  # four times the batch of training
    assert len(set(seen[0].targets.tolist())) == 10


def test_all_phases_are_in_a_dev_run(tiny: Make) -> None:
    phases = [{"epoch": 3, "size": 21}, {"epoch": 9, "start": 14, "stop": 28, "epochs": 40}]
    small = dev_run.in_small(tiny(sizes__phases=phases, training__epochs=90))
    assert [(phase.epoch, phase.epochs) for phase in small.sizes.phases] == [(1, 0), (2, 0)]
    assert (small.training.epochs, small.optimizer.epochs) == (4, 6)
    assert dev_run.in_small(tiny(training__limit_steps=2)).training.limit_steps == 2


@pytest.mark.slow
@pytest.mark.report
def test_dev_run_goes_through_all_and_keeps_nothing(
    anysize: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    done = anysize("train", "quickstart", "--fast-dev-run", "--model.name", "resnet8", "--data.limit", "200")
    assert done.returncode == 0, done.stderr
    assert "fast dev run: 12 steps at 14, 21, 28 px, validation, checkpoints" in done.stdout
    assert "report.html" not in done.stdout  # which is gone by then
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
    refused = anysize("train", "quickstart", "--fast-dev-run", "--out", "here")
    assert (refused.returncode, "leave --out or --run out" in refused.stderr) == (2, True)
    assert anysize("train", "quickstart", "--limit-batches", "2", "--training.limit-steps", "3").returncode == 2


def test_overfitting_a_mixture_that_moves_takes_it_as_it_ends(tiny: Make) -> None:
    points = [{"at": 0.0, "weights": {"14": 1.0}}, {"at": 1.0, "weights": {"28": 1.0}}]
    recipe = tiny(sizes__mix="points", sizes__points=points, training__overfit_batches=2, training__epochs=3)
    batches = [build_plan(recipe, 200).batches(epoch) for epoch in range(3)]
    assert [[batch.size for batch in each] for each in batches] == [[28, 28]] * 3
    assert len({tuple(batch.indices.tolist()) for each in batches for batch in each}) == 2


def test_all_batches_as_other_programs_write_it() -> None:
    from anysize.cli.train import _share

    assert [_share(text) for text in ("1.0", "1", "0.25", "7", "10", "")] == ["0", "1", "0.25", "7", "10", ""]
