"""A run whose head and norms are fine-tuned for one size: in each task, killed, by size, and what evaluation tells."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from image_files import write_folder
from interruption import stopped_after

from anysize.experiment import adapt as module
from anysize.experiment.adapt import FOLDER, adapt
from anysize.experiment.calibrate import calibrate
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training.checkpoint.files import read_checkpoint

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny(data__limit=64, training__epochs=1, model__norm_by_size=True, sizes__mix="B+")
    return train(recipe, run=tmp_path_factory.mktemp("adapt") / "run")


def changed(run: Path, name: str, other: str = "last") -> set[str]:
    before, after = (load_run(run, each).model.state_dict() for each in (other, name))
    return {key for key, value in after.items() if key not in before or not torch.equal(value, before[key])}


def test_head_and_norms_learn_and_evaluation_tells_the_cost(
    run: Path, anysize: Callable[..., CompletedProcess[str]]
) -> None:
    made = adapt(run, 40, lr=0.1)
    assert made == run / "checkpoints/adapted-40"
    assert not (run / FOLDER).exists()
    differ = changed(run, "adapted-40")
    assert {"fc.weight", "fc.bias", "bn1.weight", "layer3.0.bn2.running_var"} <= differ
    assert not [name for name in differ if "conv" in name]
    told = read_checkpoint(made).state
    assert told["preprocessing"]["image_size"] == 40
    assert told["preprocessing"]["trained_size"] == 28
    table = evaluate(run, [28, 40])
    rows = table.set_index(["checkpoint", "size", "calibrated"])
    assert rows.loc[("adapted-40", 40, False), "prepared_flops"] == told["adapted"]["flops"]
    assert told["adapted"]["images"] == 64
    shown = anysize("evaluate", str(run), "--sizes", "40").stdout
    assert "adapted" in shown
    alone = evaluate(run, [40], checkpoint="adapted-40", calibrate=False)
    assert alone["loss"][0] == pytest.approx(rows.loc[("adapted-40", 40, False), "loss"])


def test_after_few_steps_the_statistics_are_those_of_the_size(run: Path) -> None:
    alike = {"evaluation.calibration_strength": "full", "augment.crop": "none", "augment.flip": 0.0}
    made = adapt(run, 36, steps=1, overrides=alike)
    assert read_checkpoint(made).state["adapted"]["steps"] == 1
    again = calibrate(run, 36, checkpoint="adapted-36", overrides=alike)
    adapted, calibrated = (read_checkpoint(each).model for each in (made, again))
    assert adapted.keys() == calibrated.keys()
    for name, value in adapted.items():  # other batches calibrate, since the recipes' differ
        torch.testing.assert_close(calibrated[name], value, rtol=0.02, atol=0.002)


def test_killed_and_called_again_it_ends_with_the_same_weights(run: Path) -> None:
    with pytest.raises(Interrupted), stopped_after(2):
        adapt(run, 20)
    assert not (run / "checkpoints/adapted-20").exists()
    adapt(run, 20)
    broken = read_checkpoint(run / "checkpoints/adapted-20")
    adapt(run, 20)
    whole = read_checkpoint(run / "checkpoints/adapted-20")
    assert all(torch.equal(value, broken.model[name]) for name, value in whole.model.items())
    assert whole.state["adapted"] == broken.state["adapted"]


def test_stopped_while_it_calibrates_it_goes_on_with_data_that_have_moved(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "before", 6, ending="png")
    recipe = tiny(data__name="folder", data__root=str(data), data__limit=0, training__epochs=1)
    run = train(recipe, run=tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(module, "calibrate", stopped)
        with pytest.raises(KeyboardInterrupt):
            adapt(run, 24)
    assert not (run / "checkpoints/adapted-24").exists()
    data.rename(tmp_path / "after")
    made = adapt(run, 24, overrides={"data.root": str(tmp_path / "after")})
    assert read_checkpoint(made).state["adapted"]["images"] == 12


def stopped(*args: object, **options: object) -> Path:
    raise KeyboardInterrupt


def test_a_copy_of_other_weights_is_not_shown(run: Path) -> None:
    adapt(run, 24, steps=1)
    assert "adapted-24" in set(evaluate(run, [24], calibrate=False)["checkpoint"])
    assert set(evaluate(run, [24], checkpoint="best", calibrate=False)["checkpoint"]) == {"best"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_other_tasks_adapt_too(task: str, tiny_scenes: Callable[..., Recipe], tmp_path: Path) -> None:
    run = train(tiny_scenes(task, training__epochs=1), run=tmp_path / task)
    adapt(run, 64, steps=2)
    assert set(evaluate(run, [64], calibrate=False)["checkpoint"]) == {"last", "adapted-64"}
    frozen = [name for name in changed(run, "adapted-64") if "conv1.weight" in name]
    assert not frozen


@pytest.mark.parametrize(
    "taught",
    [
        {"training__distill": "averaged-larger", "training__average_steps": 1, "training__second_size": "largest"},
        {"training__both_sizes": True, "training__consistency": 0.5, "training__consistency_loss": "smooth-l1"},
    ],
)
def test_what_was_taught_by_another_size_adapts_at_one(tiny: Make, tmp_path: Path, taught: dict[str, Any]) -> None:
    recipe = tiny(data__limit=32, training__epochs=1, sizes__mix="B+", **taught)
    assert adapt(train(recipe, run=tmp_path / "run"), 24, steps=1).is_dir()


def test_what_cannot_be_adapted_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        adapt(tmp_path, 32)
    with pytest.raises(UserError, match="epochs is 0"):
        adapt(run, 32, epochs=0)
