"""Runs are followed through their whole life: begun, growing, stalled, ended, killed, resumed, replaced, deleted."""

import os
import shutil
import time
from pathlib import Path

import pytest
from made_runs import add_steps, hold, make_run, step

from anysize.registry import UserError
from anysize.reports import live, run_files
from anysize.reports.growing import GrowingSteps
from anysize.reports.live import Followed, Watched, check_paths
from anysize.reports.live_terminal import runs_table, watch

AT = "2026-01-01T00:00:00+00:00"  # in a log


def look(watched: Watched) -> dict[str, Followed]:
    watched.looked = -1e9  # it would not look twice in half a second
    watched.look()
    return {run.name: run for run in watched.runs}


def test_rows_are_read_as_they_come_and_a_file_that_is_another_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / run_files.STEPS
    steps = GrowingSteps(path)
    assert not steps.look()
    add_steps(tmp_path, step(10), step(20))
    assert steps.look()
    assert not steps.look()
    with path.open("a") as file:
        file.write("30,0.3,15.0")  # half a row
    assert not steps.look()
    assert steps.table["step"].to_list() == [10, 20]
    text = path.read_text()
    path.write_text(text.replace("20,0.2", "21,0.2").replace("30,0.3,15.0", "") + "")  # cut and changed in place
    assert steps.look()
    assert steps.table["step"].to_list() == [10, 21]
    run_files.write_rows(path, [step(10), step(12), step(14), step(16), step(18)])  # longer, and another file
    assert steps.look()
    assert steps.table["step"].to_list() == [10, 12, 14, 16, 18]
    path.unlink()
    assert steps.look()
    assert steps.table.empty


def test_what_is_no_such_row_is_left_out_and_what_follows_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = GrowingSteps(tmp_path / run_files.STEPS)
    add_steps(tmp_path, step(10))
    steps.look()
    for odd in ("11,NaN,x\n", "\x00,\n", "5," + ",".join("1" * 8) + "\n", "inf" + ",1" * 8 + "\n"):
        with (tmp_path / run_files.STEPS).open("a") as file:
            file.write(odd)
        assert steps.look()
    add_steps(tmp_path, step(20))
    steps.look()
    assert steps.table["step"].to_list() == [10, 20]
    assert "is left out" in caplog.text
    (tmp_path / run_files.STEPS).unlink()
    os.mkfifo(tmp_path / run_files.STEPS)
    assert steps.look()
    assert steps.table.empty


def test_the_states_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("running", "stalled", "killed", "gone", "elsewhere", "stopped", "failed", "ended", "last-epoch"):
        done = 4 if name in ("ended", "last-epoch") else 2
        make_run(tmp_path / name, epochs=4, done=done)
    for name in ("running", "stalled", "last-epoch"):
        hold(tmp_path / name)
    hold(tmp_path / "killed", pid=2**22 + 1)  # more than any process has
    hold(tmp_path / "gone", host="elsewhere", age=400)
    hold(tmp_path / "elsewhere", host="elsewhere", pid=2**22 + 1, age=100)
    old = time.time() - live.STALL_SECONDS - 10
    for file in (tmp_path / "stalled").iterdir():
        os.utime(file, (old, old)) if file.name != ".owner" else None
    (tmp_path / "failed" / run_files.LOG).write_text(f"{AT} INFO epoch 2/4  x\n{AT} ERROR the run ends: it is NaN\n")
    (tmp_path / "stopped" / run_files.LOG).write_text(f"{AT} ERROR the run ends: a\n{AT} INFO the run ends: stopped\n")
    found = look(Watched([tmp_path]))
    assert {name: run.state for name, run in found.items()} == {
        "running": "running", "stalled": "stalled", "killed": "killed", "gone": "killed", "elsewhere": "running",
        "stopped": "stopped", "failed": "failed", "ended": "ended", "last-epoch": "running",
    }  # fmt: skip
    assert set(list(found)[:4]) == {"running", "stalled", "elsewhere", "last-epoch"}  # those that train come first


def test_a_run_that_begins_grows_is_deleted_and_comes_again(tmp_path: Path) -> None:
    watched = Watched(check_paths([str(tmp_path)]))
    assert look(watched) == {}
    folder = make_run(tmp_path / "run", epochs=4, done=1, evaluated=False)
    hold(folder)
    first = look(watched)["run"]
    version = first.version
    assert first.progress().epoch == 1
    look(watched)
    assert first.version == version  # nothing is drawn anew where nothing has come
    add_steps(folder, step(110), step(160, loss=0.25))
    assert look(watched)["run"] is first
    assert first.version > version
    progress = first.progress()
    assert (progress.epoch, progress.planned, progress.loss) == (1.6, 4, 0.25)
    assert progress.left == pytest.approx(2.4 * 50)  # two steps a second, a hundred steps an epoch
    assert (progress.images_per_second, progress.waiting) == (320, 0.25)
    shutil.rmtree(folder)
    assert look(watched) == {}
    make_run(tmp_path / "run", epochs=8, done=3)
    again = look(watched)["run"]
    assert again is not first
    assert (again.progress().epoch, again.progress().planned, again.state) == (3, 8, "stopped")


def test_a_damaged_run_is_followed_with_what_fits(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", epochs=4, done=2)
    (folder / run_files.METRICS).write_text("no,table\n1\n")
    (folder / run_files.RECIPE).write_bytes(b"\xff = [")
    (folder / ".owner").write_text("[]")
    run = look(Watched([folder]))["run"]
    assert run.progress().epoch == 0
    (row,) = runs_table([run]).rows
    assert row[:4] == ["run", "running", "0", "-"]


def test_the_table_once_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(Watched([tmp_path / "runs"]))
    assert "runs yet" in capsys.readouterr().out  # on one line, however long the folder's name
    folder = make_run(tmp_path / "runs" / "a\x1b[2J", epochs=4, done=2)
    hold(folder)
    add_steps(folder, step(250))
    watch(Watched([tmp_path / "runs"]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = next(row for row in rows if row[:1] == ["a\\x1b[2J"])
    assert row[1:4] == ["running", "2.5/4", "0.004"]
    assert row[5:7] == ["320", "25.0%"]


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, said in (("nowhere", "is not there"), ("file", "is no folder")):
        with pytest.raises(UserError, match=f"{name} {said}; give run folders"):
            check_paths([str(tmp_path / name)])
