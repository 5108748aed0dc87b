"""What stands around a run never stops it: files that cannot be written or are damaged, and what the machine lacks."""

import errno
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from anysize.experiment import evaluate as evaluating
from anysize.experiment import introduce
from anysize.experiment.evaluate import evaluate
from anysize.experiment.loaded import recipe_of
from anysize.experiment.repeat import repeat
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.reports import html, run_files
from anysize.reports.reading import Run
from anysize.training.checkpoint import writer
from anysize.training.checkpoint.files import read_checkpoint

Tiny = Callable[..., Recipe]
Command = Callable[..., CompletedProcess[str]]

SHORT: dict[str, Any] = {
    "data__limit": 48,
    "sizes__mix": "fixed",
    "evaluation__calibrate": False,
    "evaluation__pictures": 1,
}
BESIDE = (run_files.ENVIRONMENT, run_files.METRICS, run_files.EVALUATION, run_files.LOG, run_files.PREDICTIONS)


class Full:
    """A disk on which the call of number `at` that makes or replaces a file or a folder fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.calls = -1, 0
        for module, name in ((os, "replace"), (os, "rename"), (os, "mkdir"), (os, "fsync")):
            monkeypatch.setattr(module, name, self.counted(getattr(module, name)))
        own = io.open

        def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wax"):
                self.count(file)
            return own(file, mode, *arguments, **named)

        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr("builtins.open", opened)

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count(arguments[0])
            return function(*arguments, **named)

        return call

    def count(self, file: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("around") / "run"
    return train(tiny(**SHORT, training__epochs=1), run=folder, console=Console(quiet=True))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a short run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.slow
def test_each_write_of_a_run_may_fail(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(introduce, "describe_environment", dict)  # it asks git, in a process
    monkeypatch.setattr(html, "write_report", lambda folder: run_files.write_atomically(folder / "report.html", "x"))
    disk, at, ends = Full(monkeypatch), 0, {"done": 0, "checkpoint": 0, "start": 0}
    told: list[str] = []
    while disk.calls >= disk.at:  # until a run makes fewer calls than that
        at += 1
        disk.at, disk.calls = at, 0
        screen = Console(file=io.StringIO(), width=200)
        try:
            folder = train(tiny(**SHORT, training__epochs=1), run=tmp_path / str(at), console=screen)
        except UserError as error:
            told.append(str(error))
            continue
        ends["done"] += 1
        assert read_checkpoint(folder / "checkpoints" / "last").state["progress"]["epoch"] == 1
        assert screen.file.getvalue().count("warning: ") <= 1  # type: ignore[attr-defined]
    for text in told:
        assert "No space left on device" in text
        assert text.startswith(("could not write the checkpoint ", f"cannot write {tmp_path}", "cannot write the run"))
        ends["checkpoint" if "checkpoint" in text else "start"] += 1
    assert all(ends.values())
    assert ends["done"] > 5


def test_files_that_are_in_the_way_or_damaged_are_said_and_training_goes_on(run: Path, tiny: Tiny) -> None:
    for name in (run_files.LOG, run_files.ENVIRONMENT):
        (run / name).unlink()
        (run / name / "below").mkdir(parents=True)
    (run / run_files.METRICS).write_bytes(b"epoch,step\n1,\xff\n")
    screen = Console(file=io.StringIO(), width=300)
    train(tiny(**SHORT), run=run, console=screen, allow_changes=True)
    told = screen.file.getvalue()  # type: ignore[attr-defined]
    for name in (run_files.LOG, run_files.ENVIRONMENT):
        assert told.count(f"cannot write {run / name}, and goes on without it: ") == 1
    assert "metrics.csv is damaged (it is no text in UTF-8" in told
    assert (run / "metrics.csv.damaged").read_bytes() == b"epoch,step\n1,\xff\n"
    assert pd.read_csv(run / run_files.METRICS)["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"), (b"secret\n", "one line alone, secret"),
        (b"size,top1\n28\n", "expected 2 cells as in the header"),
        (b"a,b\n1,2\n", "no column 'size'"),
        (b"size\n\xff\n", "no text in UTF-8"), (b"size\nx\n", "invalid literal"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_kept_and_a_new_one_begins(
    content: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "evaluation.csv"
    for name in ("evaluation.csv.damaged", "evaluation.csv.damaged2"):
        table.write_bytes(content)
        run_files.add_rows(table, [{"size": 28, "top1": 0.5}])
        assert run_files.read_rows(table) == [{"size": "28", "top1": "0.5"}]
        assert (tmp_path / name).read_bytes() == content
    assert why in caplog.text


def test_a_recipe_that_was_changed_or_cut_is_said(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / run_files.RECIPE
    assert recipe_of(run).sizes.base
    assert caplog.messages == []
    text = path.read_text()
    path.write_text(re.sub(r"(?s)(\[evaluation\].*?batch_size = )\d+", r"\g<1>9", text))
    assert recipe_of(run, {"evaluation.batch_size": 7}).evaluation.batch_size == 7
    (said,) = caplog.messages
    assert said.startswith(f"{path} differs from the settings in the checkpoint (evaluation.batch_size was ")
    assert said.endswith(" and is now 9); recipe.toml counts here")
    path.write_text(text.rstrip("\n"))
    assert Run.read(run).settings
    assert caplog.messages[1:] == [f"{path} does not end with a line break: it may be cut"]


def test_an_evaluation_is_shown_where_nothing_can_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, anysize: Command
) -> None:
    for name in (run_files.EVALUATION, run_files.PREDICTIONS, run_files.REPORT):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).unlink(missing_ok=True)

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(
            evaluating, "write_report", lambda folder: run_files.write_atomically(folder / "report.html", "x")
        )
        table = evaluate(run, [28], overrides={"data.limit": 48})
        done = anysize("evaluate", str(run), "--sizes", "28", "--data.limit", "48")
    assert table["size"].tolist() == [28, 28]
    assert table.attrs["written"] == []
    for name in (run_files.EVALUATION, run_files.PREDICTIONS, run_files.REPORT):
        assert f"cannot write {run / name}, and goes on without it: Disk quota exceeded" in caplog.text
    assert (done.returncode, "28 px" in done.stdout, "written" in done.stdout) == (0, True, False)


def test_predictions_and_comparisons_are_shown_where_they_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anysize: Command, image_folder: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    done = anysize("predict", str(run), str(image_folder / "val" / "apple"), "--out", "out")
    assert (done.returncode, "000.jpg" in done.stdout, "holds" in done.stdout) == (1, True, False)
    done = anysize("compare", str(run))
    assert done.returncode == 2
    assert "not evaluated at any size yet" in done.stdout
    assert done.stderr.startswith("anysize: cannot write comparison.html: Input/output error")


def test_a_console_that_is_full_and_a_copy_without_memory_end_no_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    def no_room(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(writer.CheckpointWriter, "_copied", no_room)
    folder = train(tiny(**SHORT, training__epochs=1), run=tmp_path / "run", console=Console(file=Gone()))
    log = (folder / run_files.LOG).read_text()
    assert log.count("the console cannot be written: Input/output error") == 1
    assert log.count("checkpoints are written while training waits: out of memory while copying one (Default") == 1
    assert read_checkpoint(folder / "checkpoints" / "last").state["progress"]["epoch"] == 1


def test_repeated_runs_without_metrics_are_told_apart_from_diverged_ones(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(file=io.StringIO(), width=300)
    for name in ("metrics.csv", "metrics.csv.damaged"):
        (tmp_path / "all" / "seed-0" / name).mkdir(parents=True)
    (tmp_path / "all" / "repeats.csv").mkdir()
    write = run_files.write_rows

    def without(path: Path, rows: Any) -> None:
        if path.parent.name == "seed-0":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, rows)

    monkeypatch.setattr(run_files, "write_rows", without)
    table = repeat(tiny(**SHORT, training__epochs=1), n=2, run=tmp_path / "all", console=screen)
    assert set(table["runs"]) == {1}
    assert "seed 0 is left out of the table: its metrics.csv cannot be read" in screen.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"no metrics.csv of the runs .* can be read; their checkpoints are whole"):
        repeat(tiny(**SHORT, training__epochs=1), n=1, run=tmp_path / "all", console=screen)
