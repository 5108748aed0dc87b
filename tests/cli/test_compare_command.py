"""`anysize compare`: what a terminal shows, and the CSV file."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest
from made_runs import make_many, make_run

from anysize.cli.compare import command
from anysize.reports import compare

Command = Callable[..., CompletedProcess[str]]


def test_runs_of_several_seeds_on_the_terminal_and_as_csv(anysize: Command, tmp_path: Path) -> None:
    make_many(tmp_path / "runs", 6, epochs=2, seeds=3)
    make_run(tmp_path / "runs" / "run-2-seed-3", norm="online", lr=0.02, seed=3, epochs=2, done=1)
    done = anysize("compare", "runs", "--csv", "table.csv")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert any(row[:3] == ["run-1", "3", "batch"] for row in rows)
    assert "not finished: run-2-seed-3 (1 of 2 epochs)" in done.stdout
    assert "the comparison is comparison.html\nthe comparison is table.csv" in done.stdout
    table = pd.read_csv(tmp_path / "table.csv", index_col="run")
    assert table["group"].to_dict()["run-2-seed-1"] == "run-2"
    assert sorted(table["seed"]) == [0, 0, 1, 1, 2, 2, 3]
    assert set(table["model.norm"]) == {"batch", "online"}
    assert table["top1_32px_calibrated"].notna().all()
    assert "sizes.mix" not in table  # in which no recipe differs

    alone = anysize("compare", "runs", "--no-group", "--out", "", "--csv", "nowhere/table.csv")
    assert alone.returncode == 2
    assert "cannot write nowhere/table.csv" in alone.stderr
    assert "run-2-seed-3" in alone.stdout.split("top-1 by image size")[0]


def test_page_and_terminal_show_tables_that_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a difference is chance is computed for them: the same answer, and not twice the time."""
    made = []
    for name in ("summary_table", "size_table"):
        make = getattr(compare, name)
        monkeypatch.setattr(compare, name, lambda *given, make=make, name=name: made.append(name) or make(*given))
    runs = [make_run(tmp_path / name, epochs=2, reach=reach) for name, reach in (("a", 0.8), ("b", 0.7))]
    command(*map(str, runs), out=str(tmp_path / "c.html"), csv=str(tmp_path / "c.csv"))
    assert sorted(made) == ["size_table", "summary_table"]
