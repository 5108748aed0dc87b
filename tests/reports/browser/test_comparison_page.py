"""A comparison in a browser: it draws the numbers of the files, and shows what the reader chooses."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import make_many
from page_checks import outside, violations

from anysize.reports import run_files
from anysize.reports.compare import write_comparison

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title = 'attacked'</script>"
Open = Callable[..., Any]

# By the label of its vertical axis, of each figure: its horizontal axis, and the visible curves by name.
_CURVES = """() => Object.fromEntries(Bokeh.documents.flatMap(each => each.roots()).map(figure => {
  const curves = figure.renderers.filter(one => one.glyph.type === "MultiLine").flatMap(one => {
    const data = one.data_source.data, shown = one.view.filter.booleans;
    const [xs, ys] = ["xs", one.glyph.ys.field].map(key => data[key].map(values => Array.from(values)));
    return data.name.map((name, i) => [name, shown[i], xs[i], ys[i]]);
  });
  return [figure.left[0].axis_label, [figure.below[0].axis_label,
    Object.fromEntries(curves.filter(one => one[1]).map(one => [one[0], [one[2], one[3]]])), figure.x_range.end]];
}))"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_many(tmp_path_factory.mktemp("runs"), 14, epochs=4)


@pytest.fixture
def open_comparison(open_page: Open, runs: list[Path], tmp_path: Path) -> Open:
    legend = [HOSTILE, *(f"run {i}" for i in range(1, 14))]
    return functools.partial(open_page, write_comparison(runs, tmp_path / "c.html", legend=legend))


def test_what_the_reader_chooses_is_what_is_drawn(open_comparison: Open, runs: list[Path]) -> None:
    opened = open_comparison()
    page = opened.page
    assert opened.complaints == []
    assert opened.asked_for == [page.url]
    assert page.title() == "Comparison of 14 runs"
    metrics = pd.read_csv(runs[0] / run_files.METRICS)
    axis, curves, _ = page.evaluate(_CURVES)["validation loss"]
    assert axis == "epoch"
    assert len(curves) == 14
    np.testing.assert_allclose(curves[HOSTILE], [metrics["epoch"], metrics["validation_loss"]], rtol=1e-6)

    page.get_by_role("checkbox", name="run 3", exact=True).uncheck()
    page.get_by_role("radio", name="FLOPs").first.check()
    page.wait_for_function("Bokeh.documents.every(each => each.is_idle)")
    axis, curves, end = page.evaluate(_CURVES)["training top-1 error (%)"]
    assert axis == "TFLOPs"
    assert "run 3" not in curves
    np.testing.assert_allclose(curves[HOSTILE][0], metrics["flops"] / 1e12, rtol=1e-6)
    assert end == pytest.approx(10, abs=1)

    page.get_by_role("searchbox").fill("run 1")
    assert page.locator(".runs label:visible").count() == 5  # 1 and 10 to 13
    page.get_by_role("button", name="none").click()
    assert len(page.evaluate(_CURVES)["validation loss"][1]) == 13 - 5

    page.get_by_role("button", name="last validation top-1").click()
    shown = page.locator(".sorted tbody tr td:nth-child(5)").all_text_contents()
    values = [float(text.rstrip("% =")) for text in shown]
    assert values == sorted(values, reverse=True)
    page.get_by_role("button", name="run", exact=True).click()
    assert page.locator(".sorted tbody tr td:first-child").all_text_contents()[1:4] == ["run 1", "run 2", "run 3"]


def test_the_pointer_is_told_which_run_it_is_on(open_comparison: Open) -> None:
    page = open_comparison(color_scheme="dark").page
    page.mouse.move(0, 0)
    figure = page.locator("figure.drawn").first
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box
    tip = page.locator(".bk-Tooltip").filter(visible=True)
    for part in range(10, 90):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * part / 100)
        page.wait_for_timeout(20)
        if tip.count():
            break
    told = tip.first.evaluate("el => el.shadowRoot.textContent").rpartition("}")[2]
    assert "run " in told or HOSTILE in told
    assert " at " in told
    assert page.title() == "Comparison of 14 runs"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_readable_at_any_width_in_both_schemes(open_comparison: Open, scheme: str, width: int) -> None:
    page = open_comparison(width, color_scheme=scheme, bypass_csp=True).page
    assert outside(page) == []
    assert violations(page) == []
