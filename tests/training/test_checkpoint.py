"""Checkpoints: whole or refused, never half."""

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training import checkpoint as module
from anysize.training.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    load_model,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
)


def make(value: float) -> Checkpoint:
    return Checkpoint({"w": torch.full((4, 3), value)}, {"w/momentum": torch.ones(4, 3)}, {"progress": {"step": value}})


def test_what_is_written_is_read_and_the_last_save_becomes_previous(tmp_path: Path) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    for value in (1.0, 2.0, 3.0):
        write_checkpoint(last, make(value), keep=previous)
    assert float(read_checkpoint(last).model["w"][0, 0]) == 3.0
    assert float(read_checkpoint(previous).model["w"][0, 0]) == 2.0
    assert read_checkpoint(last).state["progress"] == {"step": 3.0}
    assert torch.equal(read_checkpoint(last).optimizer["w/momentum"], torch.ones(4, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    write_checkpoint(tmp_path / "last", make(1.0))
    path = tmp_path / "last" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[0 if name == "state.json" else -3] ^= 0x40
        path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=name):
        read_checkpoint(tmp_path / "last")


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    write_checkpoint(last, make(1.0), keep=previous)
    write = module.write_tensors

    def full(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[int, str]:
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, tensors)

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(UserError, match=r"could not write the checkpoint .*last .*No space left on device.*make room"):
        write_checkpoint(last, make(2.0), keep=previous)
    assert float(read_checkpoint(last).model["w"][0, 0]) == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    tensors = model_tensors(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"weight has shape \(2, 3\), the model's \(2, 4\)"):
        load_model(nn.Linear(4, 2), tensors, tmp_path)
    with pytest.raises(UserError, match=r"another model: .*bias is not in the model"):
        load_model(nn.Linear(3, 2, bias=False), tensors, tmp_path)


def test_another_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "last", make(1.0))
    monkeypatch.setattr(module, "FORMAT", 98)
    with pytest.raises(UserError, match="has format 1; this version of anysize reads format 98"):
        read_checkpoint(tmp_path / "last")
