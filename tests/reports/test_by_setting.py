"""A metric against a setting of the recipe: medians and ranges over seeds, and what is left out and why."""

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bokeh.models import CategoricalScale, LinearScale, LogScale
from rich.console import Console

from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.by_setting import accuracy_by_setting, by_setting
from anysize.reports.compare import read_runs, write_comparison
from anysize.reports.console import show_table
from anysize.reports.setting_figure import setting_figure
from anysize.reports.tables import fitting_setting_table, setting_table

MakeRun = Callable[..., Path]
Sweep = Callable[..., list[Path]]
BATCH, NORM = "training.batch_size", "model.norm"


@pytest.fixture
def sweep(make_run: MakeRun) -> Sweep:
    def make(*runs: tuple[dict[str, Any], Sequence[float]], epochs: int = 2) -> list[Path]:
        """A run for each pair of settings and of its validation top-1, epoch by epoch."""
        folders: list[Path] = []
        for settings, top1 in runs:
            lines = {"training.epochs": epochs, "training.seed": len(folders), **settings}
            recipe = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
            rows = [
                {"epoch": i + 1, "validation_loss": 1 - value, "validation_top1": value, "train_loss": 0.5}
                for i, value in enumerate(top1)
            ]
            folders.append(make_run(f"run{len(folders)}", recipe=recipe, rows=rows or [{"epoch": 0}]))
            if not rows:
                (folders[-1] / run_files.METRICS).unlink()
        return folders

    return make


@pytest.fixture
def norms(sweep: Sweep) -> list[Path]:
    """Three seeds of online norm and one run of batch norm at batch size 2, a run of each at 128."""
    return sweep(
        ({BATCH: 128, NORM: "online"}, [0.5, 0.9]),
        ({BATCH: 2, NORM: "online"}, [0.5, 0.75]),
        ({BATCH: 2, NORM: "online"}, [0.9, 0.625]),
        ({BATCH: 2, NORM: "online"}, [0.5, 0.875]),
        ({BATCH: 2, NORM: "batch"}, [0.5, 0.25]),
        ({BATCH: 128, NORM: "batch"}, [0.5, 0.95]),
    )


def test_seeds_give_their_median_and_range(norms: list[Path]) -> None:
    table: Any = accuracy_by_setting(norms, BATCH, NORM)
    assert list(table.index) == [("online", 2), ("online", 128), ("batch", 2), ("batch", 128)]
    assert list(table.index.names) == [NORM, BATCH]
    assert table.columns.name == "validation_top1"
    assert table.loc[("online", 2)].to_list() == [0.75, 0.625, 0.875, 3]
    assert table.loc[("batch", 128)].to_list() == [0.95, 0.95, 0.95, 1]


def test_without_a_line_all_runs_are_one(norms: list[Path]) -> None:
    table = accuracy_by_setting(norms, BATCH)
    assert table["median"].to_dict() == {2: 0.6875, 128: pytest.approx(0.925)}
    assert table["runs"].to_dict() == {2: 4, 128: 2}
    assert by_setting(norms, BATCH).notes == (f"Runs of one point differ in more than their seed: {NORM}.",)


@pytest.mark.parametrize(
    ("metric", "column", "value"),
    [
        ("", "validation_top1", 0.625),
        ("loss", "validation_loss", 0.375),
        ("error", "validation_error", 0.375),
        ("train_loss", "train_loss", 0.5),
        ("best_top1", "validation_top1", 0.9),
        ("best_validation_loss", "validation_loss", 0.1),
    ],
)
def test_the_metric(norms: list[Path], metric: str, column: str, value: float) -> None:
    table = accuracy_by_setting(norms[2:3], BATCH, metric=metric)
    assert table.columns.name == column
    assert table["median"].item() == pytest.approx(value)


def test_unfinished_runs_are_left_out_and_named(sweep: Sweep) -> None:
    folders = sweep(({BATCH: 2}, [0.5, 0.75]), ({BATCH: 2}, [0.25]), ({BATCH: 4}, []))
    found = by_setting(read_runs(folders, untrained=True), BATCH)
    assert found.points["run"].to_list() == ["run0"]
    assert found.notes == ("Left out, not finished: run1 (1 of 2 epochs), run2 (0 of 2 epochs).",)
    found = by_setting(folders, BATCH, unfinished=True)
    assert found.summary()["median"].to_list() == [0.5]
    assert found.notes == (
        "Left out, no validation top-1: run2.",
        "Not finished: run1 (1 of 2 epochs).",
    )
    with pytest.raises(UserError, match=re.escape("run1 (1 of 2 epochs). Take unfinished runs with unfinished.")):
        by_setting(folders[1:2], BATCH)


def test_the_log_says_how_long_a_run_of_equal_flops_is(sweep: Sweep) -> None:
    equal = {BATCH: 2, "training.equal_flops": True}
    folders = sweep((equal, [0.5, 0.7, 0.8]), (equal, [0.5, 0.6, 0.6]))
    for folder, done in zip(folders, (3, 2), strict=True):
        log = "".join(f"2026-01-01T00:00:00+00:00 INFO epoch {i + 1}/{5 - done + 1}  loss 1\n" for i in range(done))
        (folder / run_files.LOG).write_text(log)
    assert by_setting(folders, BATCH).notes == ("Left out, not finished: run1 (3 of 4 epochs).",)


def test_a_setting_in_a_table_and_one_that_is_not_set(sweep: Sweep) -> None:
    decay = f"{NORM}_options.alpha_fwd"
    folders = sweep(({decay: 0.999}, [0, 0.5]), ({decay: 0.99}, [0, 0.75]), ({NORM: "batch"}, [0, 0.25]))
    found = by_setting(folders, decay)
    assert found.where == (0.99, 0.999)
    assert found.notes[0] == f"Left out, {decay} is not set: run2."
    assert by_setting(folders, "training.epochs", decay).lines == ("0.99", "0.999", "not set")


def test_recipes_that_are_older_than_a_setting_have_its_default(sweep: Sweep) -> None:
    folders = sweep(({BATCH: 2}, [0, 0.5]), ({BATCH: 2, NORM: ""}, [0, 0.75]), ({BATCH: 2, NORM: "group"}, [0, 0.25]))
    table = accuracy_by_setting(folders, BATCH, NORM, defaults={NORM: ""})
    assert table["runs"].to_dict() == {("the model's own", 2): 2, ("group", 2): 1}
    assert by_setting(folders[:2], BATCH, defaults={NORM: ""}).notes == ()
    assert list(accuracy_by_setting(folders, NORM).index) == ["the model's own", "group"]


def test_other_settings_that_differ_are_named(sweep: Sweep) -> None:
    folders = sweep(
        ({BATCH: 2, NORM: "batch", "optimizer.lr": 0.1, "data.limit": 0}, [0, 0.5]),
        ({BATCH: 4, NORM: "batch", "optimizer.lr": 0.2, "data.limit": 0}, [0, 0.5]),
        ({BATCH: 2, NORM: "group", "optimizer.lr": 0.1, "data.limit": 0, f"{NORM}_options.num_groups": 8}, [0, 0.5]),
        ({BATCH: 4, NORM: "group", "optimizer.lr": 0.2, "data.limit": 9, f"{NORM}_options.num_groups": 8}, [0, 0.5]),
    )
    expected = f"optimizer.lr (goes with {BATCH}), data.limit, {NORM}_options.num_groups (goes with {NORM})."
    assert by_setting(folders, BATCH, NORM).notes == (f"Other settings differ from point to point: {expected}",)


def test_the_batch_of_all_processes_is_no_secret(sweep: Sweep) -> None:
    folders = sweep(({BATCH: 2}, [0, 0.5]), ({BATCH: 4}, [0, 0.5]), ({BATCH: 8}, [0, 0.5]))
    for folder, processes in zip(folders, (1, 1, 4), strict=True):
        (folder / run_files.ENVIRONMENT).write_text(json.dumps({"world_size": processes}))
    assert by_setting(folders, BATCH).notes == (
        f"Other settings differ from point to point: world_size (goes with {BATCH}).",
    )


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((2, 16), LogScale),
        ((2, 15), LinearScale),
        ((0, 128), LinearScale),
        ((0.5, 4), LogScale),
        ((8,), LinearScale),
        (("sgd", "adam"), CategoricalScale),
        ((True, False), CategoricalScale),
        ((1, "1:2"), CategoricalScale),
    ],
)
def test_the_horizontal_axis(sweep: Sweep, values: Sequence[Any], scale: type) -> None:
    found = by_setting(sweep(*(({"some.setting": value}, [0, 0.5]) for value in values)), "some.setting")
    assert isinstance(setting_figure(found).x_scale, scale)


def test_the_figure_draws_every_run(norms: list[Path]) -> None:
    figure = setting_figure(by_setting(norms, BATCH, NORM))
    glyphs: dict[str, list[Any]] = {}
    for renderer in figure.renderers:
        glyphs.setdefault(type(renderer.glyph).__name__, []).append(renderer)
    assert [list(line.data_source.data["median"]) for line in glyphs["Line"]] == [[75, 90], [25, 95]]
    bars = glyphs["Segment"][0].data_source.data
    assert (list(bars["lowest"]), list(bars["highest"])) == ([62.5, 90], [87.5, 90])
    every = [runs for runs in glyphs["Scatter"] if "y" in runs.data_source.data]
    assert [sorted(runs.data_source.data["y"]) for runs in every] == [[62.5, 75, 87.5, 90], [25, 95]]
    online, batch = (list(line.data_source.data["x"]) for line in glyphs["Line"])
    assert [online[0] < 2 < batch[0] < 3, 100 < online[1] < 128 < batch[1]] == [True, True]  # side by side
    assert [item.label.value for item in figure.legend[0].items] == ["online", "batch"]
    assert figure.xaxis[0].ticker.ticks == [2, 128]


def test_text_on_the_horizontal_axis_has_no_line(norms: list[Path]) -> None:
    figure = setting_figure(by_setting(norms, NORM, BATCH))
    assert figure.x_range.factors == ["online", "batch"]
    assert "Line" not in {type(renderer.glyph).__name__ for renderer in figure.renderers}


def test_the_table(norms: list[Path]) -> None:
    table = setting_table(by_setting(norms[:-1], BATCH, NORM))
    assert table.header == [NORM, "2", "128"]
    assert table.rows == [["online", "75.0%\n(62.5-87.5)\nn=3", "90.0%"], ["batch", "25.0%", "-"]]
    assert table.best == {(0, 1), (0, 2)}
    assert setting_table(by_setting(norms, BATCH, NORM, "loss")).best == {(0, 1), (1, 2)}


def test_the_table_of_equally_many_seeds_says_so_once(norms: list[Path]) -> None:
    found = by_setting(norms[1:3], BATCH, NORM)
    assert setting_table(found).rows == [["online", "68.8%\n(62.5-75.0)"]]
    assert setting_table(found).caption == "median (lowest-highest) of 2 runs"
    assert setting_table(by_setting(norms, BATCH, NORM)).caption == "median (lowest-highest) n=runs"
    assert setting_table(by_setting(norms[:2], BATCH, NORM)).caption == ""


def test_a_table_that_is_too_wide_for_the_console_changes_its_shape(sweep: Sweep) -> None:
    sizes, norms = [2**i for i in range(12)], ["online", "batch", "group", "layer", "instance", "none"]
    found = by_setting(sweep(*(({BATCH: size, NORM: norm}, [0, 0.5]) for norm in norms for size in sizes)), BATCH, NORM)

    def drawn(width: int) -> list[list[str]]:
        console = Console(file=io.StringIO(), width=width)
        show_table(fitting_setting_table(found, width), console)
        assert isinstance(console.file, io.StringIO)
        return [line.split() for line in console.file.getvalue().splitlines()]

    assert [NORM, *map(str, sizes)] in drawn(140)
    assert [BATCH, *norms] in drawn(70)
    assert ["2048", *["50.0%"] * 6] in drawn(70)
    assert ["batch", "2048", "50.0%"] in drawn(50)


def test_the_page(norms: list[Path], tmp_path: Path) -> None:
    (norms[0] / run_files.METRICS).unlink()  # it ended before its first epoch did
    (norms[5] / run_files.METRICS).write_text("epoch,validation_loss,validation_top1\n1,0.5,0.5\n")
    path = write_comparison(norms, tmp_path / "c.html", x=BATCH, line=NORM)
    body = path.read_text().split("<main>")[1]
    headings = re.findall(r"<h[23]>(.*?)</h", body)
    assert headings[0] == f"Validation top-1 by {BATCH} and {NORM}"
    assert {"Summary", "loss", "top-1 error"} <= set(headings)  # the curves are there too
    assert "75.0% (62.5-87.5) n=3" in body
    assert "Left out, not finished: run0 (0 of 2 epochs), run5 (1 of 2 epochs)." in body
    assert re.findall("</svg>(.*?)</label>", body) == ["online", "batch", "left out"]
    assert not re.search(r'src="|href="[^#]', body)


def test_bad_requests_are_sentences(norms: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "c.html"
    for options, message in (
        ({"x": "training.batchsize"}, f"unknown x axis 'training.batchsize': did you mean '{BATCH}'?"),
        ({"x": "trainig.copies"}, "did you mean 'training.copies'?"),
        ({"x": BATCH, "line": "model.nrom"}, f"unknown setting 'model.nrom': did you mean '{NORM}'?"),
        ({"x": BATCH, "line": BATCH}, f"x and line are both '{BATCH}'"),
        ({"x": BATCH, "metric": "topp1"}, "unknown metric 'topp1': did you mean 'top1'?"),
        ({"x": BATCH, "metric": "best_epoch"}, "unknown metric 'best_epoch'"),
        ({"line": NORM}, "line goes with an x that is a setting, such as training.batch_size; x is 'epoch'"),
        ({"x": "step", "unfinished": True}, "unfinished goes with an x that is a setting"),
        ({"x": "training.copies"}, "no run to compare by training.copies. Left out, training.copies is not set: run0"),
    ):
        defaults = {"training.copies": None}
        with pytest.raises(UserError, match=re.escape(message)):
            write_comparison(norms, page, defaults=defaults, **options)
    assert not page.exists()
