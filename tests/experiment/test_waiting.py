"""A run tells how much of its time it waits for images, and once what helps."""

import time
from pathlib import Path

import pandas as pd
import pytest
from image_files import varied, write_folder

from anysize.data import waiting
from anysize.data.source import FileSource
from anysize.experiment.train import train
from anysize.training.state import Progress

SETTINGS = {
    "model.name": "cifar_resnet", "model.options": {"depth": 8, "widths": [4, 4, 4]}, "sizes.mix": "fixed",
    "training.epochs": 2, "training.equal_flops": False, "training.batch_size": 4, "evaluation.pictures": 0,
    "sizes.base": 16,
}  # fmt: skip


def test_waiting_is_in_the_table_and_its_remedies_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_SECONDS", 0.0)  # of a minute
    data = FileSource.data

    def slow(self: FileSource, index: int) -> bytes:
        time.sleep(0.02)
        return data(self, index)

    monkeypatch.setattr(FileSource, "data", slow)
    folder = {**SETTINGS, "data.root": str(write_folder(tmp_path / "images", 6, varied)), "data.workers": 0}
    run = train("folder", folder, run=tmp_path / "folder")
    shares = pd.read_csv(run / "metrics.csv")["waiting"]
    assert shares.between(0.1, 1).all()
    said = "of the last minute went by waiting for images: raise data.workers (0 now; "
    log = (run / "log.txt").read_text()
    assert log.count(said) == 1
    assert "or set data.decode to scaled, or pack the images at several sizes (anysize data pack)" in log

    in_memory = train("quickstart", {**SETTINGS, "data.limit": 20}, run=tmp_path / "memory")
    assert pd.read_csv(in_memory / "metrics.csv")["waiting"].between(0, 1).all()
    assert "waiting for images" not in (in_memory / "log.txt").read_text()  # there is nothing that would help


def test_progress_of_older_checkpoints_begins_to_wait_at_nothing() -> None:
    progress = Progress(epoch_waiting=3.0)
    state = progress.state_dict()
    assert state.pop("epoch_waiting") == 3.0
    progress.load_state_dict(state)
    assert progress.epoch_waiting == 0.0
