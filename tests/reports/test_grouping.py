"""Runs that differ in their seed alone are one; folders stand for the runs in them."""

from pathlib import Path

import pandas as pd
import pytest
from made_runs import make_many, make_run

from anysize.reports.compare import read_runs
from anysize.reports.comparison_tables import differing_settings
from anysize.reports.finding import runs_in
from anysize.reports.grouping import group_runs, left_out


def test_seeds_of_one_recipe_are_a_group_and_other_recipes_are_not(tmp_path: Path) -> None:
    runs = read_runs(make_many(tmp_path, 6, epochs=3, seeds=3))
    groups = group_runs(runs)
    assert [(group.name, len(group.runs)) for group in groups] == [("run-1", 3), ("run-2", 3)]
    assert [group.name for group in group_runs(runs, together=False)] == [run.name for run in runs]
    tables = [run.metrics.set_index("epoch")["validation_top1"] for run in runs[:3]]
    together, curve = pd.concat(tables, axis=1), groups[0].curve
    pd.testing.assert_series_equal(curve.mean["validation_top1"], together.mean(axis=1), check_names=False)
    pd.testing.assert_series_equal(curve.lowest["validation_top1"], together.min(axis=1), check_names=False)
    pd.testing.assert_series_equal(curve.highest["validation_top1"], together.max(axis=1), check_names=False)
    assert groups[0].values("validation_top1") == [float(table.iloc[-1]) for table in tables]


def test_a_run_that_ended_before_the_others_is_left_out_of_their_mean(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "many" / f"seed-{seed}", seed=seed, epochs=4) for seed in (0, 1)]
    folders.append(make_run(tmp_path / "many" / "seed-2", seed=2, epochs=4, done=1))
    (group,) = group_runs(read_runs([tmp_path / "many"]))
    assert group.name == "many"
    assert [run.name for run in group.counted] == ["seed-0", "seed-1"]
    assert group.epoch == 4
    assert left_out([group]) == ["Left out of the mean of many, not finished: seed-2 (1 of 4 epochs)."]


def test_runs_that_still_train_are_taken_as_far_as_all_of_them_are(tmp_path: Path) -> None:
    for seed, done in ((0, 3), (1, 2)):
        make_run(tmp_path / f"seed-{seed}", seed=seed, epochs=9, done=done, validate_every=2)
    (group,) = group_runs(read_runs([tmp_path]))
    assert len(group.counted) == 2
    assert group.curve.mean.index.to_list() == [1, 2]
    by_epoch = [run.by_epoch("validation_top1")[2] for run in group.runs]
    assert group.values("validation_top1") == by_epoch  # at epoch 2, which both validated


def test_a_run_from_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    new, old = (make_run(tmp_path / name, seed=seed, epochs=2) for seed, name in enumerate(("new", "old")))
    recipe = (old / "recipe.toml").read_text().replace('norm = "batch"\n', "")
    (old / "recipe.toml").write_text(recipe)
    runs = read_runs([new, old])
    assert len(group_runs(runs, defaults={"model.norm": "batch"})) == 1
    groups = group_runs(runs, defaults={"model.norm": ""})
    assert differing_settings(groups).to_dict("index") == {"model.norm": {"new": "batch", "old": "the model's own"}}


def test_a_folder_stands_for_the_runs_in_it(tmp_path: Path) -> None:
    for name in ("run-10", "run-9", "sweep/seed-1", "sweep/seed-0", ".hidden", "a/b/c/too-deep"):
        make_run(tmp_path / "runs" / name, epochs=1)
    (tmp_path / "runs" / "notes").mkdir()
    make_run(tmp_path / "elsewhere", epochs=1)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    found = [str(folder.relative_to(tmp_path / "runs")) for folder in runs_in(tmp_path / "runs")]
    assert found == ["linked", "run-9", "run-10", "sweep/seed-0", "sweep/seed-1"]
    assert runs_in(tmp_path / "runs" / "run-9") == [tmp_path / "runs" / "run-9"]


@pytest.mark.parametrize("legend", [None, ["ten", "one", "two"]])
def test_runs_come_in_the_order_of_their_numbers_unless_they_are_named(
    tmp_path: Path, legend: list[str] | None
) -> None:
    folders = sorted(make_run(tmp_path / f"run-{number}", epochs=1) for number in (1, 2, 10))
    given = [folders[1], folders[0], folders[2]] if legend else folders
    names = [run.name for run in read_runs(given, legend)]
    assert names == (legend or ["run-1", "run-2", "run-10"])
