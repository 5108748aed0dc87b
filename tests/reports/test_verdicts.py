"""Differences are told from chance as the tests of statistics tell them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run
from scipy import stats

from anysize.reports.compare import Comparison, read_runs
from anysize.reports.comparison_tables import summary_table
from anysize.reports.grouping import Group, group_runs
from anysize.reports.image_predictions import write_image_predictions
from anysize.reports.verdicts import SPREAD, mcnemar, paired_bootstrap, student, verdicts
from anysize.tasks.records import Judged


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 199])
def test_students_distribution(freedom: int) -> None:
    for t in (0.0, 0.3, 1.96, 12.0):
        assert student(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-9)


def test_two_groups_are_judged_as_by_the_t_test() -> None:
    one, other = [0.912, 0.915, 0.909], [0.905, 0.911, 0.903, 0.907]
    first, second = verdicts("top1", [one, other])
    assert first.best
    assert second.chance == pytest.approx(stats.ttest_ind(one, other).pvalue)
    assert second.by == SPREAD


def test_all_that_hold_the_best_value_are_marked_and_none_is_as_good_as_itself() -> None:
    judged = verdicts("validation_loss", [[0.5], [0.25], [0.25], [math.nan], []])
    assert [verdict.best for verdict in judged] == [False, True, True, False, False]
    assert not any(verdict.as_good for verdict in judged)
    assert [verdict.chance for verdict in judged] == [None] * 5  # single runs that nobody can pair


def test_right_and_wrong_answers_to_the_same_images() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random(3000) < 0.8, rng.random(3000) < 0.78
    ahead, behind = int((one & ~other).sum()), int((~one & other).sum())
    assert mcnemar(one, other) == pytest.approx(stats.binomtest(ahead, ahead + behind).pvalue, rel=1e-6)
    assert mcnemar(one, one) == 1.0


def test_the_bootstrap_agrees_with_the_t_test_of_pairs() -> None:
    rng = np.random.default_rng(2)
    one = rng.normal(size=400)
    for shift in (0.0, 0.1, 0.5):
        other = one + rng.normal(shift, 1.0, 400)
        chance = stats.ttest_rel(one, other).pvalue
        assert paired_bootstrap(one, other) == pytest.approx(chance, abs=0.06)
    assert paired_bootstrap(one, one + 1) < 0.01


def answer(group: Group, right: np.ndarray, **made: Any) -> None:
    how = {"checkpoint": "last", "split": "validation", "settings": "", "size": 32, "calibrated": True} | made
    judged = {f"{i}.png": Judged("cat", "cat" if each else "dog", 0.5, 0.5) for i, each in enumerate(right)}
    write_image_predictions(group.runs[0].folder, how, judged)


def test_single_runs_are_paired_where_both_tell_their_answers_to_the_same_images(tmp_path: Path) -> None:
    reaches = {"best": 0.9, "near": 0.89, "far": 0.7, "other-images": 0.6, "other-size": 0.5, "untold": 0.4}
    folders = [
        make_run(tmp_path / name, epochs=2, reach=reach, lr=reach, evaluated=False) for name, reach in reaches.items()
    ]
    groups = group_runs(read_runs(folders))
    right = np.arange(300) % 10 < 9
    answer(groups[0], right)
    answer(groups[1], np.roll(right, 1))
    answer(groups[2], np.arange(300) % 10 < 7)
    answer(groups[3], right[:200])
    answer(groups[4], ~right, size=48)
    table, _ = summary_table(groups)
    cells = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["p"] for row in cells] == ["", "100.0%", "< 0.1%", "", "", ""]
    assert [row["last validation top-1"].endswith("=") for row in cells] == [False, True, False, False, False, False]
    assert "the last evaluation to the same images (paired)" in table.caption
    assert {column for _, column in table.best} == {list(table.header).index("last validation top-1")}
    assert cells[0]["to the best"] == ""


def test_the_spread_of_repeats_marks_what_is_as_good_at_each_size(tmp_path: Path) -> None:
    for lr, reach in ((0.1, 0.85), (0.2, 0.852), (0.3, 0.7)):
        for seed in range(3):
            make_run(tmp_path / f"lr{lr}-seed-{seed}", seed=seed, epochs=2, lr=lr, reach=reach)
    groups = group_runs(read_runs([tmp_path]))
    assert [group.seeds for group in groups] == ["3 runs"] * 3
    ((_, _, table),) = Comparison([], groups).by_size
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert all(cell.endswith(" =") for cell in rows["lr0.1", "calibrated"])
    assert not any("=" in cell for cell in rows["lr0.3", "calibrated"])
    assert all("±" in cell for cells in rows.values() for cell in cells)
    assert "the spread of runs that differ in their seed alone" in table.caption
