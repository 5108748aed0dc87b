"""The console's tables hold the numbers of the files."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Console

from anysize.reports.compare import read_runs
from anysize.reports.comparison_tables import size_table
from anysize.reports.console import show_table
from anysize.reports.grouping import group_runs
from anysize.reports.tables import evaluation_table
from anysize.reports.text_table import TextTable


def drawn(table: TextTable) -> list[list[str]]:
    """The cells of a table on a terminal of the usual 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    show_table(table, console)
    assert isinstance(console.file, io.StringIO)
    return [re.split(r"\s{2,}", line.strip()) for line in console.file.getvalue().splitlines()]


def test_evaluation_table(evaluation: Callable[..., pd.DataFrame]) -> None:
    rows = drawn(evaluation_table(evaluation()))
    assert ["16 px", "53.1%", "61.2%", "81.2%", "0.388", "35,156", "7.68 MFLOPs"] in rows
    assert ["top-5, loss: calibrated"] in rows


def test_evaluation_table_without_calibration(evaluation: Callable[..., pd.DataFrame]) -> None:
    rows = drawn(evaluation_table(evaluation().query("not calibrated")))
    assert ["48 px", "58.3%", "78.3%", "0.417", "3,906", "69.1 MFLOPs"] in rows
    assert not any("calibrated" in cell for row in rows for cell in row)


def test_the_best_size_of_each_metric_stands_out(evaluation: Callable[..., pd.DataFrame]) -> None:
    table = evaluation_table(evaluation(), all_twice=True)
    assert [name.replace("\n", " ") for name in table.header[1:7]] == [
        "top-1 as trained",
        "top-1 calibrated",
        "top-5 as trained",
        "top-5 calibrated",
        "loss as trained",
        "loss calibrated",
    ]
    assert {table.rows[i][0] for i, _ in table.best} == {"32 px"}  # the highest accuracy, the lowest loss
    assert {j for _, j in table.best} == {1, 2, 3, 4, 5, 6}


def test_comparison_table(make_run: Callable[..., Path], evaluation: Callable[..., pd.DataFrame]) -> None:
    folders = [make_run("fixed", evaluation=evaluation()), make_run("mixed", evaluation=evaluation(0.05))]
    rows = drawn(size_table(group_runs(read_runs(folders), together=False), "top1"))
    assert ["run", "evaluated", "16 px", "32 px", "48 px"] in rows
    assert ["fixed", "as trained", "53.1%", "78.1%", "58.3%"] in rows
    assert ["mixed", "calibrated", "66.2%", "83.5%", "76.4%"] in rows


def test_names_fold_and_numbers_stay_in_a_narrow_console(
    make_run: Callable[..., Path], evaluation: Callable[..., pd.DataFrame]
) -> None:
    folders = [make_run("a-very-long-name-of-a-run-" * 4, evaluation=evaluation())]
    cells = [cell for row in drawn(size_table(group_runs(read_runs(folders), together=False), "top1")) for cell in row]
    assert {"53.1%", "78.5%", "71.4%"} <= set(cells)
    assert max(map(len, cells)) < 80


def test_a_loss_is_compared_as_a_loss(make_run: Callable[..., Path], evaluation: Callable[..., pd.DataFrame]) -> None:
    compared = size_table(group_runs(read_runs([make_run("only", evaluation=evaluation())])), "loss")
    assert compared.rows[1] == ["only", "calibrated", "0.388", "0.215", "0.286"]
    assert compared.best == {(1, 2), (1, 3), (1, 4)}


def test_a_table_in_parts_keeps_its_total_and_has_one_title() -> None:
    header = ["part", "module", *(f"number{i}" for i in range(9))]
    rows = [[f"layer{i}", "Sequential" * 3, *(f"{i}{j},000" for j in range(9))] for i in range(3)]
    table = TextTable(
        header, rows, labels=2, cut=[1], total=["all", "Network", *(f"{j}9,999" for j in range(9))],
        title="[red]a title", caption="a note",
    )  # fmt: skip
    lines = drawn(table)
    text = [cell for line in lines for cell in " ".join(line).split()]
    assert {f"{i}{j},000" for i in range(3) for j in range(9)} | {f"{j}9,999" for j in range(9)} <= set(text)
    assert text.count("all") > 1
    assert text.count("[red]a") == text.count("note") == 1
