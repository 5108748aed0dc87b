"""Overlaid curves: what is drawn, what is shared, how many runs stay apart."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from made_runs import make_many, make_run

from anysize.reports.compare import read_runs, write_comparison
from anysize.reports.comparison_curves import training_section
from anysize.reports.grouping import group_runs
from anysize.reports.overlays import Overlaid, Overlay, legend_entries, thinner


def curve(entry: int, values: list[float]) -> Overlaid:
    y = np.array(values)
    at = {"epoch": np.arange(1.0, len(y) + 1), "flops": 1e15 * np.arange(1.0, len(y) + 1)}
    return Overlaid(entry, f"run {entry}", at, y, y - 0.1 * entry, y + 0.1 * entry)


def test_figures_share_their_places_and_hold_the_values_in_their_units() -> None:
    overlay = Overlay(legend_entries(["a", "b"]), {"epoch": 3.0, "flops": 3e15})
    missing = float("nan")
    loss = overlay.draw("loss", {"training": [curve(0, [3, 2, 1])], "validation": [curve(1, [2.5, missing, 1.5])]})
    top1 = overlay.draw("validation_top1", {"validation": [curve(0, [0.1, 0.2, 0.3])]})
    dashed, solid = (drawn for drawn in loss.renderers if drawn.glyph.__class__.__name__ == "MultiLine")
    assert dashed.glyph.line_dash == "dashed"
    assert [list(y) for y in solid.data_source.data["validation loss"]] == [[2.5, 1.5]]
    assert [list(x) for x in solid.data_source.data["x flops"]] == [[1, 3]]  # PFLOPs
    (alone,) = (drawn for drawn in top1.renderers if drawn.glyph.__class__.__name__ == "MultiLine")
    assert alone.data_source is dashed.data_source
    assert np.allclose(alone.data_source.data["validation validation_top1"][0], [10, 20, 30])
    (band,) = (drawn for drawn in loss.renderers if drawn.glyph.__class__.__name__ == "Patches")
    assert np.allclose(band.data_source.data["validation loss"][0], [2.4, 1.4, 1.6, 2.6])


def test_long_curves_of_many_runs_are_thinned_and_keep_their_ends() -> None:
    thin = thinner(curve(0, list(range(5000))), entries=100)
    assert len(thin.mean) == 1200
    assert thin.mean[0] == 0
    assert thin.mean[-1] == 4999
    assert len(thinner(curve(0, list(range(300))), entries=100).mean) == 300


def test_beyond_the_colours_each_figure_has_one_line_a_run(tmp_path: Path) -> None:
    groups = group_runs(read_runs(make_many(tmp_path, 9, epochs=2)))
    entries = legend_entries([group.name for group in groups])
    section = str(training_section(groups, entries, list(range(9)), ("loss", "lr"), "epoch"))
    assert re.findall("<h3[^>]*>(.*?)</h3>", section) == ["validation loss", "training loss", "learning rate"]
    for count in (8, 9, 40):
        entries = legend_entries([f"run {i}" for i in range(count)])
        assert len({(entry.color, entry.dash) for entry in entries}) == count
        assert (len({entry.dash for entry in entries}) == 1) == (count <= 8)


def test_the_page_of_runs_with_names_that_are_markup(tmp_path: Path) -> None:
    names = ["<img src=x onerror=alert(1)>", '"><script>alert(2)</script>', "{{ 7 * 7 }}"]
    folders: list[Any] = [make_run(tmp_path / f"run{i}", epochs=2, lr=0.1 * (i + 1)) for i in range(3)]
    body = write_comparison(folders, tmp_path / "c.html", legend=names).read_text(encoding="utf-8")
    after = body.partition("<main>")[2]
    assert "<img" not in after
    assert "<script>alert" not in body
    assert "{{ 7 * 7 }}</label>" in after
