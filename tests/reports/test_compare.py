"""Runs side by side: what differs, which is better at which size."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anysize.cli.compare import command
from anysize.registry import UserError
from anysize.reports.compare import Comparison, read_runs, write_comparison
from anysize.reports.comparison_tables import (
    by_metric,
    comparison_frame,
    differing_settings,
    summary_table,
)
from anysize.reports.grouping import group_runs

MakeRun = Callable[..., Path]
Evaluation = Callable[..., pd.DataFrame]


def test_the_summary(make_run: MakeRun, metrics_row: Callable[..., dict[str, Any]]) -> None:
    rows = [
        metrics_row(1, validation_top1=0.5),
        metrics_row(2, validation_top1=0.75),
        metrics_row(3, validation_top1=0.7),
    ]
    groups = group_runs(read_runs([make_run("a", rows=rows), make_run("b", epochs=2)]), together=False)
    summary = comparison_frame(groups).set_index("run")
    assert summary.loc["a"].dropna().to_dict() == {
        "group": "a",
        "epochs": 3,
        "best_validation_top1": 0.75,
        "best_epoch": 2,
        "last_validation_top1": 0.7,
        "images": 19200,
        "seconds": 37.5,
        "flops": 4.5e12,
    }
    assert summary.loc["b", "best_epoch"] == 2


def test_a_loss_is_best_when_lowest(make_run: MakeRun) -> None:
    rows = [{"epoch": epoch, "validation_loss": loss} for epoch, loss in ((1, 0.5), (2, 0.25), (3, 0.75))]
    summary = comparison_frame(group_runs(read_runs([make_run(rows=rows)])))
    assert summary["best_validation_loss"].item() == 0.25
    assert summary["best_epoch"].item() == 2
    assert summary["flops"].isna().all()


def test_accuracy_by_size_of_runs_evaluated_at_other_sizes(make_run: MakeRun, evaluation: Evaluation) -> None:
    half = evaluation(0.05).query("size <= 32 and calibrated")
    folders = [
        make_run("fixed", evaluation=evaluation()),
        make_run("mixed", evaluation=half),
        make_run("no-evaluation"),
    ]
    ((_, _, table),) = Comparison.of(read_runs(folders), together=False).by_size
    assert list(table.header) == ["run", "evaluated", "16 px", "32 px", "48 px"]
    assert table.rows[1:] == [
        ["fixed", "calibrated", "61.2%", "78.5%", "71.4%"],
        ["mixed", "calibrated", "66.2%", "83.5%", "-"],
    ]
    frame = comparison_frame(group_runs(read_runs(folders), together=False)).set_index("run")
    assert frame.loc["mixed", "top1_16px_calibrated"] == pytest.approx(0.662)
    assert frame["top1_48px_calibrated"].isna().to_list() == [False, True, True]


def test_runs_that_were_only_evaluated_have_no_results_of_training(make_run: MakeRun, evaluation: Evaluation) -> None:
    folders = [make_run(name, mix=name, evaluation=evaluation()) for name in ("B+", "fixed")]
    for folder in folders:
        (folder / "metrics.csv").unlink()
    table, values = summary_table(group_runs(read_runs(folders)))
    assert list(table.header) == ["run", "sizes.mix"]
    assert values == [[], []]


def test_the_page(make_run: MakeRun, evaluation: Evaluation, tmp_path: Path) -> None:
    folders = [
        make_run("fixed", mix="fixed", evaluation=evaluation()),
        make_run("mixed", mix="B+", evaluation=evaluation(0.05)),
    ]
    path = write_comparison(folders, tmp_path / "comparison.html", legend=["A & B", "</script>"], x="flops")
    body = path.read_text().split("<main>")[1].replace("<wbr>", "")
    assert not re.search(r'src="|href="[^#]', body)
    assert body.count("</script>") == body.count("<script")
    for expected in (
        "A &amp; B",
        "&lt;/script&gt;",
        "76.4%",
        "sizes.mix",
        ">fixed</td>",
        "TFLOPs",
        "top-5 error",
    ):
        assert expected in body, expected
    assert "training.epochs" not in body  # the same in both


@pytest.mark.parametrize("x", ["epoch", "step", "images", "flops", "seconds"])
def test_columns_with_and_without_split(make_run: MakeRun, tmp_path: Path, x: str) -> None:
    folders = [make_run("a"), make_run("b")]
    columns = ["error", "train_error", "validation_error5", "top1", "lr"]
    body = write_comparison(folders, tmp_path / "c.html", columns=columns, x=x, colors=["red", "#00f"]).read_text()
    titles = re.findall(r"<h3>(.*?)</h3>", body.split(">Training</h2>")[1])
    assert titles == ["top-1 error", "training top-1 error", "validation top-5 error", "top-1", "learning rate"]


def test_a_run_that_lacks_a_column_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    bare = make_run("bare", rows=[{"epoch": 1, "train_loss": 0.5}])
    body = write_comparison([make_run("full"), bare], tmp_path / "c.html", columns=["error"], group=False).read_text()
    assert "not recorded: bare" in body


def test_runs_of_different_tasks_have_a_table_each(
    make_run: MakeRun, evaluation: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = evaluation().drop(columns="top5").rename(columns={"top1": "mean_iou"})
    folders = [make_run("labels", evaluation=evaluation()), make_run("masks", evaluation=masks)]
    groups = by_metric(group_runs(read_runs(folders), together=False))
    assert {metric: [group.name for group in of_metric] for metric, of_metric in groups.items()} == {
        "top1": ["labels"],
        "mean_iou": ["masks"],
    }
    command(*map(str, folders), out=str(tmp_path / "c.html"), group=False)
    shown = capsys.readouterr().out.partition("top-1 by image size")[2]
    assert shown.index("labels") < shown.index("mean IoU by image size")
    assert "masks" in shown.split("mean IoU by image size")[1]
    page = (tmp_path / "c.html").read_text()
    assert "<h3>top-1 by image size</h3>" in page
    assert "<h3>mean IoU by image size</h3>" in page


def test_runs_of_one_folder_name_are_told_apart(make_run: MakeRun) -> None:
    runs = read_runs([make_run("seed0/run"), make_run("seed1/run")])
    assert [run.name for run in runs] == ["seed0/run", "seed1/run"]


def test_recipe_differences(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a", mix="B+"), make_run("b", recipe="[sizes]\nmix = 'B+'\nbase = 32\n")])
    differences = differing_settings(group_runs(runs))
    assert sorted(differences.index) == ["data.name", "model.name", "sizes.base", "training.epochs"]
    assert differences.loc["sizes.base"].to_dict() == {"a": "-", "b": "32"}
    assert differences["b"].eq("-").to_dict() == {key: key != "sizes.base" for key in differences.index}


def test_bad_requests_are_sentences(make_run: MakeRun, tmp_path: Path) -> None:
    run, other, empty = make_run("a"), make_run("b"), make_run("empty")
    (empty / "metrics.csv").unlink()
    page = tmp_path / "c.html"
    for arguments, options, message in (
        ([], {}, "no run to compare"),
        ([run, tmp_path / "empty" / "none"], {}, "is no folder with"),
        ([run, empty], {}, "empty has no metrics.csv and no evaluation.csv"),
        ([run, run], {}, "2 runs are called"),
        ([run, other], {"legend": ["one"]}, "legend has 1 names for 2 runs"),
        ([run, other], {"colors": ["red"]}, "colors has 1 colours for 2 runs"),
        ([run, other], {"colors": ["red", "bleu-ish"]}, "unknown colour 'bleu-ish'"),
        ([run, other], {"columns": ["validation_eror"]}, "did you mean 'validation_error'"),
        ([run, other], {"x": "epohc"}, "did you mean 'epoch'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            write_comparison(arguments, page, **options)
    assert not page.exists()


def test_a_folder_of_repeated_runs_stands_for_its_seeds(make_run: MakeRun) -> None:
    one, other, alone = make_run("many/seed-0"), make_run("many/seed-1"), make_run("alone")
    assert [run.folder for run in read_runs([one.parent, alone])] == [one, other, alone]
