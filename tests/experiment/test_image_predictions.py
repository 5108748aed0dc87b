"""What an evaluation leaves of each image: its figures follow from it, for every task."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anysize.experiment import evaluate as evaluating
from anysize.experiment.evaluate import evaluate
from anysize.experiment.run_folder import forget_results
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.reports.image_predictions import read_confusion, read_image_predictions
from anysize.reports.predictions import read_predictions


@pytest.mark.slow
def test_the_figures_of_classes_follow_from_the_rows_of_images(
    image_folder: Path, tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data__name": "folder", "data__root": str(image_folder), "data__limit": 0, "training__batch_size": 8}
    options = {"model__options": {"depth": 8, "widths": [8, 8, 16]}, "evaluation__pictures": 4, "sizes__base": 32}
    run = train(tiny(**changes, **options, training__epochs=1, sizes__mix="fixed"), run=tmp_path / "run")
    assert not (run / "predictions.csv").exists()
    table = evaluate(run, "28,32", latency=True)
    assert (table["latency"] > 0).all()
    rows = read_image_predictions(run)
    told = table[(table["size"] == 32) & table["calibrated"]].iloc[0]
    assert rows[["size", "calibrated"]].drop_duplicates().values.tolist() == [[32, True]]
    assert rows["image"].tolist() == [
        f"val/{name}/{i:03}.jpg" for name in ("apple", "banana", "cherry") for i in range(6)
    ]
    assert rows["truth"].tolist() == [path.split("/")[1] for path in rows["image"]]
    assert (rows["truth"] == rows["predicted"]).mean() == pytest.approx(told["top1"])
    assert -np.log(rows["score"]).mean() == pytest.approx(told["loss"], rel=1e-4)
    right = rows["truth"] == rows["predicted"]
    assert (rows["probability"][right] == rows["score"][right]).all()

    shown = read_predictions(run)
    mistakes = rows[~right].sort_values("probability", ascending=False, kind="stable")
    worst = rows.sort_values("score", kind="stable")["image"].head(4).tolist()
    names = [str(Path(entry["name"]).relative_to(image_folder)) for entry in shown["images"]]
    assert shown["seen"] == 18
    assert sorted(names[:4]) == sorted(worst)
    assert names[4:] == [image for image in mistakes["image"] if image not in worst][:2]
    assert [entry.get("certain", False) for entry in shown["images"]] == [False] * 4 + [True] * len(names[4:])

    monkeypatch.setattr(evaluating, "_NAMED", 5)
    evaluate(run, "28", calibrate=False, split="train")
    of_training = read_image_predictions(run, "train")
    assert len(of_training) == 5
    assert of_training["size"].unique().tolist() == [28]
    assert len(read_image_predictions(run)) == 18
    forget_results(run)  # as a training does that goes on: they are of other weights
    assert not (run / "predictions.csv").exists()


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_labels_and_masks_leave_their_names_and_scores(
    trained_scenes: Callable[[str], Path], tmp_path: Path, task: str
) -> None:
    run = shutil.copytree(trained_scenes(task), tmp_path / "run")
    table = evaluate(run, "48", calibrate=False).iloc[0]
    rows, confusion = read_image_predictions(run), read_confusion(run)
    assert len(rows) == table["images"]
    assert rows["image"].is_unique
    if task == "multilabel":
        assert -rows["score"].mean() == pytest.approx(table["loss"], rel=1e-5)
        wrong = rows["truth"] != rows["predicted"]
        assert wrong.any()
        assert (rows["probability"].notna() == wrong).all()
        assert rows["probability"].min() >= 0.5
        assert confusion.empty
        return
    assert rows["score"].between(0, 1).all()
    assert rows["probability"].isna().all()
    assert confusion["pixels"][confusion["true"] == confusion["predicted"]].sum() / confusion["pixels"].sum() == (
        pytest.approx(table["pixel_accuracy"])
    )
    by_class = pd.read_csv(run / "evaluation_tables.csv", keep_default_na=False)
    of_cell = by_class[(by_class["column"] == "share of pixels") & (by_class["value"].astype(float) > 0)]
    assert {*confusion["true"]} == {*of_cell["row"]} - {"mean of the classes"}
