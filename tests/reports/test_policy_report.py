"""The scale policy in a run folder and in its report."""

from pathlib import Path

import pandas as pd
import pytest

from anysize.reports import run_files
from anysize.reports.html import write_report
from anysize.reports.policy_report import class_figure, policy_figure, summarise, write_scale_policy
from anysize.reports.reading import Run


@pytest.fixture
def table() -> pd.DataFrame:
    """Four images of two classes, two blocks."""
    return pd.DataFrame(
        {
            "image": [0, 1, 2, 3] * 2,
            "label": [0, 0, 1, 1] * 2,
            "block": ["layer1.0"] * 4 + ["layer2.1"] * 4,
            "low_share": [0.1, 0.3, 0.5, 0.7, 0.2, 0.2, 0.6, 0.6],
        }
    )


def test_summary_by_block_and_class(table: pd.DataFrame) -> None:
    summary = summarise(table, ["NA", "dog"], 32).set_index(["label", "block"])
    assert summary.loc[("", "layer1.0"), "low_share"] == pytest.approx(0.4)
    assert summary.loc[("", "layer1.0"), "low_share_sd"] == pytest.approx(0.2236, abs=1e-4)
    assert summary.loc[("dog", "layer2.1"), ["images", "low_share", "low_share_sd", "size"]].tolist() == pytest.approx(
        [2, 0.6, 0, 32]
    )
    assert set(summarise(table.drop(columns="label"), [], 32)["label"]) == {""}


def test_written_read_and_drawn(table: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / run_files.RECIPE).write_text("")
    assert "Scale policy" not in write_report(tmp_path).read_text()
    summary = summarise(table, ["NA", "dog"], 32)  # a class may be called NA
    write_scale_policy(tmp_path, summary)
    read = Run.read(tmp_path).scale_policy
    pd.testing.assert_frame_equal(read, summary, check_dtype=False)
    page = write_report(tmp_path).read_text()
    assert "Scale policy" in page
    assert "over 4 images at 32 px" in page


def test_figures_hold_the_figures(table: pd.DataFrame) -> None:
    summary = summarise(table, ["cat", "dog"], 32)
    points = policy_figure(summary).renderers[-1].data_source.data
    assert list(points["mean"]) == pytest.approx([40, 40])
    assert list(points["high"] - points["low"]) == pytest.approx([2 * 22.36, 2 * 20], abs=0.01)
    drawn = class_figure(summary)
    assert drawn is not None
    assert drawn.x_range.factors == ["layer1.0", "layer2.1"]
    assert drawn.y_range.factors == ["cat", "dog"]  # by their use of half resolution
    cells = drawn.renderers[0].data_source.data
    assert dict(zip(zip(cells["label"], cells["block"], strict=True), cells["difference"], strict=True))[
        ("cat", "layer1.0")
    ] == pytest.approx(-20)
    assert class_figure(summarise(table.drop(columns="label"), [], 32)) is None


def test_of_many_classes_the_extremes_are_drawn() -> None:
    many = pd.DataFrame(
        {"image": range(100), "label": range(100), "block": "layer1.0", "low_share": [i / 100 for i in range(100)]}
    )
    drawn = class_figure(summarise(many, [f"c{i}" for i in range(100)], 32))
    assert drawn is not None
    assert drawn.y_range.factors == [f"c{i}" for i in (*range(12), *range(88, 100))]
