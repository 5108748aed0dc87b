"""Calibration whose strength is chosen: in evaluations, calibrated copies and validation, in one process and in two."""

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gloo_group import in_group
from PIL import Image

from anysize.evaluation.evaluator import Evaluator
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.train import train
from anysize.norms.choice import Choice
from anysize.norms.strength import statistics, store
from anysize.recipe import Recipe
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_checkpoint
from anysize.world import World

Make = Callable[..., Recipe]
CHOSEN = {"evaluation.calibration_strength": "chosen", "evaluation.pictures": 0, "data.workers": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Make) -> Path:
    recipe = tiny(data__limit=600, training__epochs=3, sizes__mix="fixed", evaluation__pictures=0)
    return train(recipe, run=tmp_path_factory.mktemp("run"))


def of_other_brightness(loaded: Any) -> None:
    """Make the statistics of the first norm those of images of another brightness, which a calibration mends."""
    spoilt = statistics(loaded.model)
    first = next(iter(spoilt))
    store(loaded.model, {**spoilt, first: (spoilt[first][0] + 1, 9 * spoilt[first][1])})


def chosen(run: Path, size: int = 28, spoil: bool = False, world: World | None = None, **settings: Any) -> Choice:
    loaded = load_run(run, "last", {**CHOSEN, **{f"evaluation.{name}": held for name, held in settings.items()}})
    if spoil:
        of_other_brightness(loaded)
    with make_evaluator(loaded, world=world).calibrated(loaded.model, size) as choice:
        return choice


def test_what_helps_is_taken_and_what_does_not_is_left(run: Path) -> None:
    spoilt = chosen(run, spoil=True)
    assert spoilt.strength > 0
    assert spoilt.after > spoilt.before + 0.1
    assert spoilt.images == 150
    assert spoilt.criterion == "top1 of held-out images"
    usual = chosen(run)
    assert usual.strength == 0 or usual.after > usual.before
    full = chosen(run, spoil=True, calibration_strength="full")
    assert (full.strength, full.part, full.scores) == (1, 1, {})


def test_held_out_images_judge_and_do_not_calibrate(run: Path) -> None:
    loaded = load_run(run, "last", {**CHOSEN, "evaluation.calibration_images": 0, "evaluation.judging_images": 40})
    evaluator = make_evaluator(loaded)
    used = np.concatenate([batch.indices for batch in evaluator.calibration_batches(loaded.model, 14)])
    assert len(evaluator.judging_images) == 40
    assert not set(used) & set(evaluator.judging_images)
    assert len(used) == len(set(used)) == 560
    everything = load_run(run, "last", {"evaluation.calibration_images": 0, "evaluation.calibration_strength": "full"})
    batches = make_evaluator(everything).calibration_batches(everything.model, 14)
    assert sum(len(batch.indices) for batch in batches) == 600


def test_a_table_tells_what_was_taken(run: Path) -> None:
    table = evaluate(run, [14, 28], overrides=CHOSEN)
    trained, judged = table[~table["calibrated"]], table[table["calibrated"]]
    assert trained["strength"].isna().all()
    assert judged["strength"].between(0, 1).all()
    assert judged["choice"].str.contains("top1 of held-out images").all()
    for _, row in judged[judged["strength"] == 0].iterrows():
        assert row["top1"] == trained.set_index("size").loc[row["size"], "top1"]
    full = evaluate(run, [14, 28], overrides={**CHOSEN, "evaluation.calibration_strength": "full"})
    assert (full[full["calibrated"]]["strength"] == 1).all()
    assert "choice" not in full
    written = pd.read_csv(run / "evaluation.csv")
    assert written["settings"].str.contains("evaluation.calibration_strength=full").sum() == 4


def test_a_calibrated_copy_tells_what_was_taken(run: Path) -> None:
    told: list[Choice] = []
    folder = calibrate(run, 14, overrides=CHOSEN, on_choice=told.append)
    copied = read_checkpoint(folder, "model", "preprocessing")
    state = copied.state["calibrated"]
    assert (state["size"], state["from"]) == (14, "last")
    assert (state["strength"], state["part"]) == (told[0].strength, told[0].part)
    assert 3 <= len(state["scores"]) <= 5
    name = next(iter(told[0].statistics))
    assert torch.equal(copied.model[f"{name}.running_mean"], told[0].statistics[name][0])


def test_pictures_without_labels_judge_by_agreement_with_the_size_of_training(run: Path, tmp_path: Path) -> None:
    source = make_evaluator(load_run(run, "last")).validation
    for index in range(60):
        Image.fromarray(source.image(index)[0].numpy()).save(tmp_path / f"{index}.png")
    loaded = load_run(run, "last", CHOSEN)
    evaluator = make_evaluator(loaded, tmp_path)
    with evaluator.calibrated(loaded.model, 24) as choice:
        assert choice.criterion == "agreement with 28 px"
        assert choice.images == 15
        assert 0.5 < choice.before <= 1
    with evaluator.calibrated(loaded.model, 28) as choice:  # of which only the network itself could tell
        assert choice.before == 1
        assert not choice
    table = evaluate(run, [24], calibration=tmp_path, overrides=CHOSEN)
    assert "agreement with 28 px" in table["choice"].iloc[1]


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_labels_and_masks_are_judged_with_and_without_targets(
    trained_scenes: Callable[[str], Path], task: str, tmp_path: Path
) -> None:
    run = trained_scenes(task)
    loaded = load_run(run, "last", {**CHOSEN, "evaluation.judging_images": 4})
    evaluator = make_evaluator(loaded)
    with evaluator.calibrated(loaded.model, 32) as by_labels:
        assert by_labels.criterion == "score of held-out images"
        assert by_labels.images == 4
        assert math.isfinite(by_labels.before)
    for index in range(16):
        Image.fromarray(evaluator.validation.image(index).permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    with make_evaluator(loaded, tmp_path).calibrated(loaded.model, 32) as by_agreement:
        assert by_agreement.criterion == "agreement with 48 px"
        assert by_agreement.images == 4
        assert 0 <= by_agreement.before <= 1


def job(rank: int) -> dict[str, Any]:
    run = Path(os.environ["ANYSIZE_TEST_RUN"])
    choice = chosen(run, 14, spoil=True, world=World.here())
    taken = {"taken": [choice.strength, choice.part], "scores": [*choice.scores.values()], "images": choice.images}
    return taken | {"agreement": agreement(run, World.here())}


def agreement(run: Path, world: World) -> list[float]:
    """The scores without labels, of the same pictures in batches of other sizes, which processes share otherwise."""
    loaded = load_run(run, "last", {**CHOSEN, "evaluation.batch_size": 4})
    evaluator = make_evaluator(loaded, os.environ["ANYSIZE_TEST_PICTURES"], world)
    with evaluator.calibrated(loaded.model, 21) as choice:
        return [*choice.scores.values()]


@pytest.mark.slow
def test_two_processes_choose_alike_and_as_one(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pictures = make_evaluator(load_run(run, "last")).validation, tmp_path / "pictures"
    pictures.mkdir()
    for index in range(30):
        Image.fromarray(source.image(index)[0].numpy()).save(pictures / f"{index}.png")
    monkeypatch.setenv("ANYSIZE_TEST_RUN", str(run))
    monkeypatch.setenv("ANYSIZE_TEST_PICTURES", str(pictures))
    both = in_group(2, job, tmp_path, seconds=400)
    assert both[0] == both[1]
    alone = chosen(run, 14, spoil=True)
    assert both[0]["images"] == alone.images
    assert both[0]["taken"] == [alone.strength, alone.part]
    assert both[0]["scores"] == pytest.approx([*alone.scores.values()], abs=0.02)
    assert both[0]["agreement"] == pytest.approx(agreement(run, World()), abs=0.15)


def test_a_validation_tells_what_was_taken_and_resumes_to_the_bit(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(data__limit=120, evaluation__pictures=0, evaluation__calibration_strength="chosen")
    whole = train(recipe, run=tmp_path / "whole")
    assert (whole / "log.txt").read_text().count("calibration for 28 px: ") == 2
    measure, calls = Evaluator.evaluate, itertools.count()

    def stopped_once(self: Evaluator, *arguments: Any, **named: Any) -> Any:
        if next(calls) == 1:
            raise Interrupted("stopped in the second validation")
        return measure(self, *arguments, **named)

    monkeypatch.setattr(Evaluator, "evaluate", stopped_once)
    with pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "parts")
    parts = train(recipe, run=tmp_path / "parts")
    for name in ("last", "best"):
        one, other = (read_checkpoint(each / "checkpoints" / name, "model").model for each in (whole, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)
    rows = [pd.read_csv(each / "metrics.csv")["validation_loss"].tolist() for each in (whole, parts)]
    assert rows[0] == rows[1]
