"""What an evaluation says by class and by object size: its file, on the screen, and in the report."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from anysize.reports import run_files
from anysize.reports.console import show_table
from anysize.reports.evaluation_tables import table_rows, tables_at
from anysize.reports.figures import object_size_curves, object_size_figure
from anysize.reports.html import write_report
from anysize.reports.reading import Run
from anysize.reports.run_files import EVALUATION, EVALUATION_TABLES, add_rows
from anysize.reports.tables import evaluation_table

NAN = math.nan
SEGMENTATION = ("mean_iou", "pixel_accuracy", "iou_small", "iou_medium", "iou_large", "loss")
MULTILABEL = ("map", "cf1", "of1", "map_small", "map_medium", "map_large", "loss")


def evaluation_of(*metrics: str, sizes: tuple[int, ...] = (256, 1026), **changes: Any) -> pd.DataFrame:
    """An evaluation in which all values are distinct and wide: `changes` replace whole columns."""
    rows = [
        {"checkpoint": "last", "size": size, "calibrated": calibrated}
        | {name: 0.9 - 0.1 * place - 0.031 * column for column, name in enumerate(metrics)}
        | {"images": 5000, "images_per_second": 12345 + place, "flops": 2.551e11 + 1e9 * place}
        for place, (size, calibrated) in enumerate((size, how) for size in sizes for how in (False, True))
    ]
    frame = pd.DataFrame(rows)
    if "loss" in frame:
        frame["loss"] += 100
    return frame.assign(**changes)


def printed(frame: pd.DataFrame, width: int) -> str:
    file = io.StringIO()
    show_table(evaluation_table(frame), Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("metrics", [SEGMENTATION, MULTILABEL], ids=["segmentation", "multilabel"])
@pytest.mark.parametrize(("width", "most"), [(50, 3), (80, 2), (120, 1)])
def test_nothing_is_cut_on_the_console(metrics: tuple[str, ...], width: int, most: int) -> None:
    frame = evaluation_of(*metrics)
    table = evaluation_table(frame)
    text = printed(frame, width)
    assert max(map(len, text.splitlines())) <= width
    words = re.sub(r"\s+", " ", text)
    for row in table.rows:
        for cell in row:
            assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", words), cell
    for word in {word for name in table.header for word in name.split()}:
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", words), word
    parts = [line for line in text.splitlines() if re.match(r" *256 px", line)]
    assert len(parts) <= most  # each begins with the size
    assert " ".join(parts).count("GFLOPs") == 1


def test_a_metric_of_objects_that_there_are_none_of_is_left_out() -> None:
    frame = evaluation_of(*SEGMENTATION, iou_small=NAN, iou_large=[NAN, NAN, 0.25, 0.5])
    for twice in (False, True):
        table = evaluation_table(frame, all_twice=twice)
        assert not any("small" in name for name in table.header)
        large = table.header.index("IoU large\ncalibrated" if twice else "IoU large")
        assert [row[large] for row in table.rows] == ["-", "50.0%"]
    assert "medium" in printed(frame, 80)


def test_each_object_size_is_a_line_against_image_size() -> None:
    frame = evaluation_of("map", "map_small", "map_medium", "map_large", "loss")
    figures = object_size_figure(frame)
    assert list(figures) == ["mAP by image size and object size"]
    drawn = lines_of(figures["mAP by image size and object size"])
    assert list(drawn) == [
        f"{size} {how}" for size in ("small", "medium", "large") for how in ("as trained", "calibrated")
    ]
    values = frame.query("calibrated")["map_medium"]
    assert drawn["medium calibrated"] == ([256, 1026], pytest.approx((100 * values).tolist()))
    assert object_size_figure(evaluation_of("top1", "loss")) == {}


def test_sizes_of_objects_that_there_are_none_of_draw_no_line() -> None:
    figures = object_size_figure(evaluation_of(*SEGMENTATION, iou_small=NAN))
    assert list(figures) == ["IoU by image size and object size"]
    assert {name.split()[0] for name in lines_of(figures["IoU by image size and object size"])} == {"medium", "large"}
    assert object_size_figure(evaluation_of(*SEGMENTATION, iou_small=NAN, iou_medium=NAN, iou_large=NAN)) == {}


def test_validation_by_object_size_is_a_curve_over_the_epochs() -> None:
    metrics = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "validation_iou_small": [NAN] * 3,
            "validation_iou_medium": [0.1, NAN, 0.3],
            "validation_iou_large": [0.2, 0.3, 0.4],
        }
    )
    figures = object_size_curves(metrics)
    assert list(figures) == ["validation IoU by object size"]
    drawn = lines_of(figures["validation IoU by object size"])
    assert drawn["medium"] == ([1, 3], pytest.approx([10, 30]))  # an epoch without validation is no point
    assert list(drawn) == ["medium", "large"]
    assert object_size_curves(pd.DataFrame({"epoch": [1], "validation_top1": [0.5]})) == {}


def lines_of(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> x and y of the lines of a bokeh figure."""
    drawn = {}
    for renderer in figure.renderers:
        if type(renderer.glyph).__name__ == "Line":
            data = renderer.data_source.data
            drawn[renderer.name] = (list(data["x"]), list(data["y"]))
    return drawn


def detail_rows(names: tuple[str, ...] = ("cat", "dog")) -> list[dict[str, Any]]:
    """What evaluating at 64 and 96 px, as trained and calibrated, tells: values 0.1 apart."""
    rows = []
    for place, (size, calibrated) in enumerate(((64, False), (64, True), (96, False), (96, True))):
        tables = {
            "by class": {name: {"IoU": 0.1 * place + 0.01 * i, "objects": 1200.0} for i, name in enumerate(names)},
            "by object size": {"small": {"IoU": NAN, "objects": 0.0}},
        }
        rows += [{"checkpoint": "last", "size": size, "calibrated": calibrated, **row} for row in table_rows(tables)]
    return rows


def test_tables_come_back_from_their_file_as_they_were(make_run: Callable[..., Path]) -> None:
    run = make_run()
    add_rows(run / EVALUATION_TABLES, detail_rows())
    frame = Run.read(run).evaluation_tables
    assert len(frame) == 4 * (4 + 2)
    how, tables = tables_at(frame, 96)
    assert how == "at 96 px, calibrated"
    assert list(tables) == ["by class", "by object size"]
    assert tables["by class"].header == ["", "IoU", "objects"]
    assert tables["by class"].rows == [["cat", "30.0%", "1,200"], ["dog", "31.0%", "1,200"]]
    assert tables["by object size"].rows == [["small", "-", "0"]]
    turned = tables_at(frame[::-1], 96)[1]["by class"]  # calibrated ones first
    assert turned.header == ["", "objects", "IoU"]
    assert turned.rows == [["dog", "1,200", "31.0%"], ["cat", "1,200", "30.0%"]]
    for _ in range(2):  # rows of an earlier version stay; those that are written again do not stand there twice
        add_rows(run / EVALUATION_TABLES, [{**row, "split": "validation", "settings": ""} for row in detail_rows()])
    written = run_files.read_rows(run / run_files.EVALUATION_TABLES)
    assert [row["settings"] for row in written] == ["unknown"] * len(frame) + [""] * len(frame)


@pytest.mark.parametrize(("asked", "taken"), [(64, 64), (70, 64), (80, 64), (81, 96), (500, 96), (0, 64)])
def test_tables_are_of_the_size_next_to_the_base(asked: int, taken: int) -> None:
    frame = pd.DataFrame(detail_rows())
    assert tables_at(frame, asked)[0] == f"at {taken} px, calibrated"
    how, tables = tables_at(frame[~frame["calibrated"]], asked)
    assert how == f"at {taken} px"
    assert tables["by class"].rows[0][1] == {64: "0.0%", 96: "20.0%"}[taken]
    assert tables_at(pd.DataFrame(), asked) == ("", {})


def test_classes_may_have_any_name(make_run: Callable[..., Path]) -> None:
    names = ("NA", "null", "007", "7", "True", "a,b", '"', "<b>")
    run = make_run()
    add_rows(run / EVALUATION_TABLES, detail_rows(names))
    _, tables = tables_at(Run.read(run).evaluation_tables, 96)
    assert [row[0] for row in tables["by class"].rows] == list(names)
    assert [row[1] for row in tables["by class"].rows] == [f"{30 + i}.0%" for i in range(len(names))]


def test_the_report_has_the_tables_and_escapes_names(make_run: Callable[..., Path]) -> None:
    run = make_run(rows=[{"epoch": 1, "train_loss": 1.0, "validation_mean_iou": 0.4, "validation_size": 64}])
    add_rows(run / EVALUATION, evaluation_of(*SEGMENTATION, sizes=(64, 96)).to_dict("records"))
    add_rows(run / EVALUATION_TABLES, detail_rows(("<script>x</script>", "dog")))
    page = write_report(run).read_text()
    assert "by class, at 64 px, calibrated" in page
    assert "by object size, at 64 px, calibrated" in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "<script>x</script>" not in page
    assert "IoU by image size and object size" in page
    for value in evaluation_of(*SEGMENTATION, sizes=(64, 96))["iou_medium"]:
        assert f"{100 * value:.1f}%" in page


def test_fractions_are_percentages_and_counts_are_not() -> None:
    rows = [
        {"size": 8, "calibrated": np.False_, **row} for row in table_rows({"t": {"r": {"mAP": 0.5, "objects": 12.0}}})
    ]
    assert tables_at(pd.DataFrame(rows), 8)[1]["t"].rows == [["r", "50.0%", "12"]]
