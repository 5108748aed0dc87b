"""Checkpoints written beside the training: what is written is what there was at the save, and errors come out."""

import errno
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from anysize.registry import UserError
from anysize.training.checkpoint import files
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint
from anysize.training.checkpoint.writer import CheckpointWriter


class Gate:
    """Holds a write up until it is opened, then lets it through or fails it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.error: OSError | None = None
        write = files.write_tensors

        def gated(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[int, str]:
            assert self.open.wait(30)
            if self.error:
                raise self.error
            return write(path, tensors)

        monkeypatch.setattr(files, "write_tensors", gated)


def make(value: float) -> Checkpoint:
    weight = torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last)
    return Checkpoint({"model": {"w": weight}, "optimizer": {"w/m": torch.full((3,), value)}}, {"sums": {"a": value}})


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_what_changes_after_a_save_is_not_in_it_and_writes_keep_their_order(tmp_path: Path, gate: Gate) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    held = make(1.0)
    with CheckpointWriter(background=True) as writer:
        for value in (1.0, 2.0, 3.0):  # the same tensors, changed in place as steps do
            for tensors in held.tensors.values():
                for tensor in tensors.values():
                    tensor.fill_(value)
            held.state["sums"]["a"] = value
            writer.write(last, held, previous)
            assert not writer.failed
            assert value > 1 or not last.exists()  # it waits at the gate
            gate.open.set()
        held.tensors["model"]["w"].fill_(-1.0)
        held.state["sums"]["a"] = -1.0
        writer.wait()
        assert writer.slowest > 0
    for folder, value in ((last, 3.0), (previous, 2.0)):
        read = read_checkpoint(folder)
        assert read.state["sums"] == {"a": value}
        assert torch.equal(read.model["w"], torch.full((2, 3, 4, 4), value))
        assert torch.equal(read.tensors["optimizer"]["w/m"], torch.full((3,), value))


def test_tensors_of_another_shape_or_name_are_copied_anew(tmp_path: Path) -> None:
    with CheckpointWriter(background=True) as writer:
        writer.write(tmp_path / "last", make(1.0))
        other = Checkpoint({"model": {"w": torch.arange(5), "v": torch.ones(2).expand(3, 2)}}, {})
        writer.write(tmp_path / "last", other)
    read = read_checkpoint(tmp_path / "last")
    assert read.tensors.keys() == {"model"}
    assert torch.equal(read.model["w"], torch.arange(5))
    assert torch.equal(read.model["v"], torch.ones(3, 2))


def test_an_error_is_told_once_and_the_next_save_is_made(tmp_path: Path, gate: Gate) -> None:
    last = tmp_path / "last"
    gate.error = OSError(errno.ENOSPC, "No space left on device")
    writer = CheckpointWriter(background=True)
    writer.write(last, make(1.0))
    assert not writer.failed  # nobody waits for it
    gate.open.set()
    with pytest.raises(UserError, match=r"could not write the checkpoint .*last .*No space left.*make room"):
        writer.write(last, make(2.0))
    gate.error = None
    writer.write(last, make(3.0))
    writer.wait()
    assert read_checkpoint(last).state["sums"] == {"a": 3.0}
    gate.error = OSError(errno.EACCES, "Permission denied")
    writer.write(last, make(4.0))
    while not writer.failed:
        time.sleep(0.001)
    with pytest.raises(UserError, match=r"Permission denied; .* untouched: give a folder"), writer:
        pass
    assert read_checkpoint(last).state["sums"] == {"a": 3.0}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_another_error_is_not_hidden_by_that_of_a_write(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.error = OSError(errno.ENOSPC, "No space left on device")
    gate.open.set()
    writer = CheckpointWriter(background=True)
    writer.write(tmp_path / "last", make(1.0))
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError
    assert "No space left on device" in caplog.text


def test_in_the_foreground_a_write_is_done_when_it_returns(tmp_path: Path, gate: Gate) -> None:
    gate.open.set()
    with CheckpointWriter() as writer:
        writer.write(tmp_path / "last", make(1.0))
        assert read_checkpoint(tmp_path / "last").state["sums"] == {"a": 1.0}
        gate.error = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(UserError, match="No space left"):
            writer.write(tmp_path / "last", make(2.0))
