"""Files of a run are whole or as they were before, and tables come back as they were written."""

import os
from pathlib import Path

import pytest

from anysize.registry import UserError
from anysize.reports.run_files import read_rows, write_atomically, write_rows


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"state\.json: No space left on device"):
        write_atomically(path, b"new and longer")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "report.html", "text")


def test_rows_keep_their_text_and_gain_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_rows(path, [{"epoch": 1, "lr": 0.1 + 0.2, "sizes": {"16": 0.25}, "loss": float("nan"), "top1": None}])
    first = read_rows(path)
    assert first == [
        {"epoch": "1", "lr": "0.30000000000000004", "sizes": '{"16": 0.25}', "loss": "", "top1": ""},
    ]
    write_rows(path, [*first, {"epoch": 2, "mean_iou": 0.5}])
    rows = read_rows(path)
    assert rows[0] == first[0] | {"mean_iou": ""}
    assert rows[1]["mean_iou"] == "0.5"
    assert rows[1]["lr"] == ""


def test_no_rows_are_no_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_rows(path, [{"epoch": 1}])
    write_rows(path, [])
    assert not path.exists()
    assert read_rows(path) == []
