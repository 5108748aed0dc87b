"""What a user sees while a run trains, and what is kept of it."""

import datetime
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anysize.reports import run_files, run_log
from anysize.reports.reading import Run
from anysize.reports.run_log import RunLog

Row = Callable[..., dict[str, Any]]


class Clock:
    """Stands in for the module `time` in the log: moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_log, "time", clock)
    return clock


def screen(*, terminal: bool = False, width: int = 140) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def step(log: RunLog, number: int, loss: Any = 0.512) -> None:
    log.step(
        3, number, 981, 24, loss=loss, metrics={"top1": 0.812}, lr=0.1, images_per_second=1210.4, seconds_left=3725.0
    )


def test_plain_lines_come_every_ten_seconds(tmp_path: Path, clock: Clock) -> None:
    console = screen()
    with RunLog(tmp_path, epochs=8, console=console) as log:
        for number in range(1, 982):  # 25 steps a second: 39 seconds
            clock.now = 1000 + number / 25
            step(log, number)
    lines = shown(console).splitlines()
    assert len(lines) == 3
    assert lines[0] == ("epoch 3/8  step 250/981  24 px  loss 0.512  top-1 81.2%  1,210 img/s  1:02:05 left  lr 0.1")


def test_a_line_says_how_long_images_are_waited_for(tmp_path: Path, clock: Clock) -> None:
    console = screen()
    with RunLog(tmp_path, epochs=8, console=console) as log:
        for waited in (0.344, 0.004):
            clock.now += 11
            values = {"loss": 0.5, "metrics": {}, "lr": 0.1, "images_per_second": 1210.4, "seconds_left": 3725.0}
            log.step(3, 7, 981, 24, **values, waiting=waited)
    assert ["1,210 img/s  34% waiting  1:02:05 left" in line for line in shown(console).splitlines()] == [True, False]


def test_a_plain_line_is_one_line_however_narrow_the_console(tmp_path: Path, clock: Clock) -> None:
    console = screen(width=40)
    with RunLog(tmp_path, epochs=8, console=console) as log:
        log.message("word " * 30 + "[bold]")
        clock.now += 11
        step(log, 1)
    assert len(shown(console).splitlines()) == 2
    assert "[bold]" in shown(console)


def test_values_are_evaluated_only_when_shown(tmp_path: Path, clock: Clock) -> None:
    asked = []

    def loss() -> float:
        asked.append(clock.now)
        return 0.25

    with RunLog(tmp_path, epochs=8, console=screen(terminal=True)) as log:
        for number in range(100):
            clock.now += 0.01
            step(log, number, loss)
    assert len(asked) in (9, 10)  # a second at ten lines a second


def test_a_terminal_gets_a_live_line_and_messages_stay(tmp_path: Path, clock: Clock, metrics_row: Row) -> None:
    console = screen(terminal=True)
    with RunLog(tmp_path, epochs=8, console=console) as log:
        clock.now += 1
        step(log, 412)
        log.message("calibrated with 3,200 images")
        log.epoch(metrics_row(3))
    text = shown(console)
    assert "412/981" in text
    assert "24 px" in text
    assert "calibrated with 3,200 images\n" in text.replace("\r\n", "\n")
    assert "epoch 3/8  loss" in text


def test_the_epoch_line_says_how_validation_was_done(tmp_path: Path, metrics_row: Row) -> None:
    console = screen()
    with RunLog(tmp_path, epochs=8, console=console) as log:
        log.epoch(metrics_row(1, validation_loss=0.48, validation_top1=0.83, train_loss=0.512, train_top1=0.812))
        nothing = dict.fromkeys(("validation_loss", "validation_top1", "validation_top5"), float("nan"))
        log.epoch(metrics_row(2, **nothing))
        log.epoch({"epoch": 3, "train_loss": 0.5, "validation_mean_iou": 0.625, "validation_calibrated": False})
    first, second, third = shown(console).splitlines()
    assert first == (
        "epoch 1/8  loss 0.512  top-1 81.2%  |  "
        "validation loss 0.480  top-1 83.0%  top-5 81.1% (calibrated at 32 px)  |  1,210 images/s"
    )
    assert "validation" not in second
    assert third == "epoch 3/8  loss 0.500  |  validation mean IoU 62.5%"


def test_log_txt_has_time_and_level(tmp_path: Path) -> None:
    with RunLog(tmp_path, epochs=8, console=screen()) as log:
        log.message("started")
    console = screen()
    with RunLog(tmp_path, epochs=8, console=console) as log:  # a resumed run goes on in the same file
        log.warning("2 images could not be read")
    assert shown(console) == "warning: 2 images could not be read\n"
    first, second = (tmp_path / run_files.LOG).read_text().splitlines()
    assert first.endswith(" INFO started")
    assert second.endswith(" WARNING 2 images could not be read")
    assert datetime.datetime.fromisoformat(first.split()[0]).utcoffset() == datetime.timedelta(0)


def test_the_table_of_epochs_is_written_anew_each_time(tmp_path: Path, metrics_row: Row) -> None:
    with RunLog(tmp_path, epochs=8, console=screen()) as log:
        log.table([metrics_row(epoch) for epoch in range(1, 6)])
    untouched = (tmp_path / run_files.METRICS).read_text().splitlines()[:4]
    rows = run_files.read_rows(tmp_path / run_files.METRICS)[:3]
    with RunLog(tmp_path, epochs=8, console=screen()) as log:
        log.table(rows)
        assert (tmp_path / run_files.METRICS).read_text().splitlines() == untouched
        log.table([*rows, metrics_row(4, train_loss=0.0625)])
    metrics = Run.read(tmp_path).metrics
    assert metrics["epoch"].to_list() == [1, 2, 3, 4]
    assert metrics["train_loss"].iloc[-1] == 0.0625
    assert json.loads(metrics["sizes"].iloc[-1]) == {"16": 0.25, "32": 0.75}


def test_a_run_that_starts_again_has_no_rows(tmp_path: Path, metrics_row: Row) -> None:
    with RunLog(tmp_path, epochs=8, console=screen()) as log:
        log.table([metrics_row(1)])
        log.table([])
        assert not (tmp_path / run_files.METRICS).exists()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_live_line_fits(tmp_path: Path, clock: Clock, width: int) -> None:
    """What matters least is left out, and nothing is cut; how far a validation is has the line in between."""
    console = screen(terminal=True, width=width)
    with RunLog(tmp_path, epochs=200, console=console) as log:
        clock.now += 1
        step(log, 412)
        clock.now += 1
        log.doing("evaluating at 24 px: 128 of 1,000 images")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(console))
    assert "…" not in plain
    assert all(len(part) <= width for part in re.split(r"[\r\n]+", plain))
    assert "412/981  24 px  loss 0.512" in plain
    assert ("lr 0.1" in plain) == (width >= 100)
    assert "1:02:05 left" in plain
    assert "128 of 1,000 images" in plain
