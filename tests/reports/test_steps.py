"""steps.csv: appended to, cut where a run goes on, read while it grows, and thinned for drawings."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from anysize.reports import run_files
from anysize.reports.curves import step_curves
from anysize.reports.figures import sizes_figure
from anysize.reports.reading import Run, thinned
from anysize.reports.run_log import RunLog
from anysize.reports.steps import StepsFile
from anysize.training.step_rows import MOST_ROWS, is_due, steps_a_row

HEADER = "step,sizes,loss\n"


def written(path: Path, *steps: int) -> StepsFile:
    file = StepsFile(path)
    for step in steps:
        file.add({"step": step, "sizes": {28: 1.0}, "loss": 1 / step})
    file.close()
    return file


def test_half_a_row_is_cut_off_with_what_is_behind_the_step(tmp_path: Path) -> None:
    path = tmp_path / run_files.STEPS
    written(path, 10, 20, 30)
    whole = path.read_text()
    path.write_text(whole + '40,"{""2')
    assert Run.read(_run(tmp_path)).steps["step"].tolist() == [10, 20, 30]
    file = StepsFile(path)
    file.cut(30)
    assert path.read_text() == whole
    file.cut(20)
    file.add({"step": 30, "sizes": {28: 1.0}, "loss": 1 / 30})
    file.close()
    assert path.read_text() == whole
    StepsFile(path).cut(0)
    assert not path.exists()


def test_a_column_that_comes_later_is_empty_in_rows_of_before(tmp_path: Path) -> None:
    file = written(tmp_path / run_files.STEPS, 10)
    file.add({"step": 20, "loss": 0.5, "top1": 0.25})
    file.add({"step": 30, "loss": 0.5})
    file.close()
    steps = Run.read(_run(tmp_path)).steps
    assert steps["top1"].fillna(-1).tolist() == [-1, 0.25, -1]
    assert steps["sizes"].tolist() == ['{"28": 1.0}', "", ""]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\n",
        HEADER.encode() + b"one,{},1\n",
        b"epoch\n1\n",
        HEADER.encode() + b'1,"{""x"": 2}",1\n',
        b"step\n2\n1\n",
    ],
)
def test_a_damaged_file_is_left_out_and_kept_where_a_run_goes_on(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / run_files.STEPS
    path.write_bytes(content)
    assert Run.read(_run(tmp_path)).steps.empty
    if b"step" not in content or b"one" in content:  # what cannot be cut
        StepsFile(path).cut(10)
        assert path.with_name("steps.csv.damaged").read_bytes() == content


def test_no_link_is_followed_and_a_full_disk_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text("secret")
    (tmp_path / run_files.STEPS).symlink_to(other)
    with RunLog(tmp_path, epochs=1) as log:
        log.cut_steps(0)
        log.steps([{"step": 1, "loss": 1.0}], now=True)
        assert not (tmp_path / run_files.STEPS).is_symlink()

        def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(log._steps, "flush", full)
        for step in (2, 3):
            log.steps([{"step": step, "loss": 1.0}], now=True)
    assert other.read_text() == "secret"
    assert (tmp_path / run_files.LOG).read_text().count("No space left on device") == 1
    assert pd.read_csv(tmp_path / run_files.STEPS)["step"].tolist() == [1, 2, 3]


def test_a_run_of_any_length_has_a_bounded_number_of_rows() -> None:
    length = SimpleNamespace(total_steps=10_000_000)
    every = steps_a_row(length.total_steps, 7)
    assert every % 7 == 0
    assert length.total_steps / every <= MOST_ROWS
    assert [step for step in range(2, 2 * every + 1) if is_due(step, length, 7)] == [every, 2 * every]
    assert is_due(1, length, 7)
    assert is_due(length.total_steps, length, 7)


def test_a_drawing_has_means_of_the_rows_in_between() -> None:
    steps = pd.DataFrame(
        {"step": range(1, 6), "loss": [5.0, 3.0, 2.0, 0.0, 1.0], "sizes": ['{"8": 1.0}'] * 4 + ['{"9": 1.0}']}
    )
    thin = thinned(steps, most=2)
    assert thin.to_dict("list") == {
        "step": [3, 5],
        "loss": [pytest.approx(10 / 3), 0.5],
        "sizes": ['{"8": 1.0}', '{"8": 0.5, "9": 0.5}'],
    }
    assert thinned(steps, most=5) is steps


def _run(folder: Path) -> Path:
    (folder / run_files.RECIPE).write_text("")
    return folder


def test_sizes_by_step_have_a_bar_from_each_row_to_the_next(tmp_path: Path) -> None:
    ends, shares = [1, 10, 20], [{28: 1.0}, {14: 0.25, 28: 0.75}, {14: 1.0}]
    drawn = sizes_figure("step", ends, shares)
    data = drawn.renderers[0].data_source.data
    assert [*zip(data["first"], data["last"], strict=True)] == [(1, 1), (2, 10), (11, 20)]
    assert data["14 px"] == [0.0, 25.0, 100.0]
    rows = pd.DataFrame({"step": ends, "sizes": map(json.dumps, shares), "loss": [3.0, 2.0, 1.0]})
    assert any("share of images (%) by step" in card for card in step_curves(rows))
    assert len(step_curves(rows.drop(columns="sizes"))) == len(step_curves(rows)) - 1
