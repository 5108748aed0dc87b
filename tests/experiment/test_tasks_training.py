"""Labels and masks from a recipe to a report, on the embedded scenes: training, stopping, evaluating."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from loading import eval_batches
from rich.console import Console
from test_train import assert_same_bits, stop_at

from anysize.data.export import export_dataset
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import load_run, make_evaluator
from anysize.experiment.targets import eval_transform
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports.console import show_table
from anysize.reports.evaluation_tables import table_rows
from anysize.reports.reading import Run
from anysize.reports.tables import evaluation_table
from anysize.stopping import Interrupted
from anysize.tasks.records import Summary

Make = Callable[..., Recipe]
Trained = Callable[[str], Path]

TASKS = ("multilabel", "segmentation")
BEST = {"multilabel": "map", "segmentation": "mean_iou"}
VALUES = {
    "multilabel": ["map", "cf1", "of1", "map_small", "map_medium", "map_large", "loss"],
    "segmentation": ["mean_iou", "pixel_accuracy", "iou_small", "iou_medium", "iou_large", "loss"],
}
LABEL = {"multilabel": "mAP", "segmentation": "mean IoU"}
TABLE = {"multilabel": "all labels and by object size", "segmentation": "by object size"}


@pytest.fixture
def copied(trained_scenes: Trained, tmp_path: Path) -> Trained:
    """A copy of the trained run of a task, to write into."""
    return lambda task: Path(shutil.copytree(trained_scenes(task), tmp_path / task))


def listed(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "predictions/predictions.json").read_text())
    return found


@pytest.mark.parametrize("task", TASKS)
def test_a_run_is_followed_and_judged_by_its_own_metrics(trained_scenes: Trained, task: str) -> None:
    run = trained_scenes(task)
    metrics = pd.read_csv(run / "metrics.csv")
    assert set(metrics.filter(like="validation_")) - {"validation_calibrated", "validation_size"} == {
        f"validation_{name}" for name in VALUES[task]
    }
    best = load_run(run, "best").checkpoint.state["metrics"][BEST[task]]
    assert best == metrics[f"validation_{BEST[task]}"].max()
    read = Run.read(run)
    assert read.main_metric == f"validation_{BEST[task]}"
    assert read.best(read.main_metric)[0] == best
    page = (run / "report.html").read_text()
    assert f"best validation {LABEL[task]}" in page
    assert f"{'mAP' if task == 'multilabel' else 'IoU'} by object size" in page
    assert "<h2>Predictions</h2>" in page
    assert not (run / "evaluation.csv").exists()


@pytest.mark.parametrize("task", TASKS)
def test_the_pictures_are_the_worst_of_all_and_the_worst_comes_first(trained_scenes: Trained, task: str) -> None:
    run = trained_scenes(task)
    found = listed(run)
    assert (found["size"], found["calibrated"], found["seen"]) == (48, True, 24)
    scores = [entry["score"] for entry in found["images"]]
    assert len(scores) == 5
    assert scores == sorted(scores)
    loaded = load_run(run, "last")
    evaluator = make_evaluator(loaded)
    expected = {}
    with evaluator.calibrated(loaded.model, 48), torch.inference_mode():
        transform = eval_transform(loaded.recipe, loaded.preprocessing)
        for batch in eval_batches(evaluator.validation, transform, 48, batch_size=5):
            for row, output in enumerate(evaluator.task.predictions(loaded.model.eval(), batch)):
                index = int(batch.indices[row])
                shown = evaluator.task.show(output, batch.targets[row])
                expected[evaluator.validation.describe(index)] = shown.score
    worst = sorted(expected, key=lambda name: expected[name])[:5]
    assert [entry["name"] for entry in found["images"]] == worst
    assert scores == pytest.approx([expected[name] for name in worst], rel=1e-4)
    panels = ["image", "truth", "prediction"] if task == "segmentation" else ["image"]
    for entry in found["images"]:
        assert list(entry["pictures"]) == panels
        assert all((run / "predictions" / name).stat().st_size for name in entry["pictures"].values())


@pytest.mark.parametrize("task", TASKS)
def test_stopped_and_resumed_the_bits_are_the_same(
    tiny_scenes: Make, trained_scenes: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    stop_at(monkeypatch, 1, 3)
    stops = 0
    while True:
        try:
            broken = train(tiny_scenes(task), run=tmp_path / "broken")
            break
        except Interrupted:
            stops += 1
    assert stops == 2
    assert_same_bits(trained_scenes(task), broken)
    ours, theirs = listed(broken), listed(trained_scenes(task))
    assert ours == theirs


def test_a_run_that_goes_on_forgets_what_was_measured_before(
    tiny_scenes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = tmp_path / "run", tiny_scenes("multilabel")
    stop_at(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(recipe, run=run)
    evaluate(run, [32], calibrate=False)
    before = listed(run)
    assert not before["calibrated"]
    assert all((run / name).exists() for name in ("evaluation.csv", "evaluation_tables.csv"))
    train(recipe, run=run)
    assert not (run / "evaluation.csv").exists()
    assert not (run / "evaluation_tables.csv").exists()
    assert listed(run)["calibrated"]


@pytest.mark.report
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_writes_its_figures_its_tables_and_a_report_with_both(copied: Trained, task: str) -> None:
    run = copied(task)
    table = evaluate(run, [32, 48])
    assert list(table["size"]) == [32, 32, 48, 48]
    assert list(table["calibrated"]) == [False, True, False, True]
    rest = ["images", "images_per_second", "flops", "strength", "part", "prepared_flops"]
    assert list(table.columns[5:]) == [*VALUES[task], *rest]
    assert (table["images"] == 24).all()
    pd.testing.assert_frame_equal(pd.read_csv(run / "evaluation.csv"), table)
    last = pd.read_csv(run / "metrics.csv").iloc[-1]
    for name in VALUES[task]:  # as the validation of the last epoch, which was calibrated at the base size
        assert table[name][3] == pytest.approx(last[f"validation_{name}"], rel=1e-5)
    details = Run.read(run).evaluation_tables
    assert len(details.groupby(["size", "calibrated"])) == 4
    assert set(details["table"]) == {"by class", TABLE[task]}
    at = details[(details["size"] == 48) & details["calibrated"]].set_index(["row", "column"])["value"]
    if task == "segmentation":
        assert at["small", "IoU"] == pytest.approx(table["iou_small"][3])
        assert at["mean of the classes", "IoU"] == pytest.approx(table["mean_iou"][3])
    else:
        validation = make_evaluator(load_run(run)).validation
        assert at["Bag", "images"] == validation.targets.any(axis=1)[:, validation.classes.index("Bag")].sum()
    page = (run / "report.html").read_text()
    assert f"{LABEL[task]} by image size" in page
    assert "image size and object size" in page
    assert "by class, at 48 px, calibrated" in page
    assert page.count('src="data:image/') == (5 * 3 if task == "segmentation" else 5 + 2)  # and certain mistakes


def measured(run: Path, size: int, **overrides: Any) -> Summary:
    """What evaluating a run with settings replaced tells, without its report."""
    loaded = load_run(run, "last", {key.replace("__", "."): value for key, value in overrides.items()})
    return make_evaluator(loaded).evaluate(loaded.model, size)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation__scales": (0.75, 1.0)},
        {"evaluation__flip": True},
        {"evaluation__window": 32},
        {"evaluation__window": 32, "evaluation__scales": (0.5, 1.0), "evaluation__flip": True},
    ],
)
def test_scales_flips_and_windows_change_what_is_predicted(trained_scenes: Trained, changes: dict[str, Any]) -> None:
    run = trained_scenes("segmentation")
    plain = measured(run, 48, data__limit=4).values
    other = measured(run, 48, data__limit=4, **changes).values
    assert other["images"] == plain["images"] == 4
    assert other["loss"] != pytest.approx(plain["loss"], rel=1e-4)
    assert np.isfinite(other["loss"])


@pytest.mark.parametrize("task", TASKS)
def test_exported_and_read_back_the_scenes_are_evaluated_alike(
    trained_scenes: Trained, tmp_path: Path, task: str
) -> None:
    pytest.importorskip("pycocotools")
    root = export_dataset("scenes", "coco", tmp_path / "coco", images=24)
    run = trained_scenes(task)
    coco = {"data__name": "coco", "data__root": str(root), "data__areas": (256.0, 2304.0), "data__workers": 0}
    for size in (32, 48):
        ours, theirs = measured(run, size), measured(run, size, **coco)
        for name in VALUES[task]:
            assert theirs.values[name] == pytest.approx(ours.values[name], rel=1e-5), name
        assert table_rows(theirs.tables) == [
            row | {"value": pytest.approx(row["value"], rel=1e-4, nan_ok=True)} for row in table_rows(ours.tables)
        ]
        assert len(table_rows(ours.tables)) > 30


def test_other_limits_of_object_sizes_move_objects_between_them(trained_scenes: Trained) -> None:
    run = trained_scenes("segmentation")
    usual, wide = (measured(run, 32, **changes) for changes in ({}, {"data__areas": (1e-3, 1e6)}))
    objects = {size: row["objects"] for size, row in usual.tables["by object size"].items()}
    assert min(objects.values()) > 0
    assert wide.tables["by object size"]["medium"]["objects"] == sum(objects.values())
    assert np.isnan(wide.values["iou_small"])
    assert wide.values["mean_iou"] == usual.values["mean_iou"]


def test_objects_of_one_size_alone_are_evaluated_and_printed(copied: Trained) -> None:
    table = evaluate(copied("segmentation"), [32], calibrate=False, overrides={"data.areas": (1e-3, 1e6)})
    console = Console(file=io.StringIO(), width=80)
    show_table(evaluation_table(table), console)
    assert "medium" in console.file.getvalue()
    assert "small" not in console.file.getvalue()


def test_without_pictures_there_are_none(tiny_scenes: Make, tmp_path: Path) -> None:
    recipe = tiny_scenes("multilabel", data__limit=8, evaluation__pictures=0, training__epochs=1)
    run = train(recipe, run=tmp_path / "run")
    assert not (run / "predictions").exists()


def test_what_does_not_fit_the_task_is_said_before_training(tiny_scenes: Make, tmp_path: Path) -> None:
    for changes, expected in (
        ({"data__name": "fashion-mini"}, "'fashion-mini' has one class an image, and the task wants masks"),
        ({"augment__mixup": 0.2}, r"augment\.mixup is set, but the task 'segmentation' does not use it"),
        ({"augment__cutout": 4}, r"augment\.cutout is 4"),
        ({"data__resize": "center-crop"}, r"data\.resize is 'center-crop', which cuts off parts"),
        ({"evaluation__crops": "5"}, r"evaluation\.crops is 5"),
    ):
        with pytest.raises(UserError, match=expected):
            train(tiny_scenes("segmentation", data__limit=4, **changes), run=tmp_path / "run")
        assert not (tmp_path / "run/checkpoints").exists()
