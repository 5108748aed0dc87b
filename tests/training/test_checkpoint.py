"""Checkpoints: whole or refused, never half."""

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from anysize.registry import UserError
from anysize.training.checkpoint import files as module
from anysize.training.checkpoint.files import (
    Checkpoint,
    DamagedCheckpoint,
    load_model,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
)
from anysize.training.checkpoint.store import find_checkpoint


def make(value: float) -> Checkpoint:
    tensors = {"model": {"w": torch.full((4, 3), value)}, "optimizer": {"w/momentum": torch.ones(4, 3)}}
    return Checkpoint(tensors, {"progress": {"step": value}})


def test_what_is_written_is_read_and_the_last_save_becomes_previous(tmp_path: Path) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    for value in (1.0, 2.0, 3.0):
        write_checkpoint(last, make(value), keep=previous)
    assert float(read_checkpoint(last).model["w"][0, 0]) == 3.0
    assert float(read_checkpoint(previous).model["w"][0, 0]) == 2.0
    assert read_checkpoint(last).state["progress"] == {"step": 3.0}
    assert torch.equal(read_checkpoint(last).tensors["optimizer"]["w/momentum"], torch.ones(4, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]


def test_tensors_of_any_layout_and_type(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "transposed": torch.randn(3, 5).t(),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "shared": shared,
        "part of it": shared[1:3],
        "one value many times": torch.ones(1).expand(4, 4),
        "number": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "half": torch.randn(3).bfloat16(),
        "truth": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64).conj(),
        "unsigned": torch.tensor([1, 65535], dtype=torch.uint16),
    }
    write_checkpoint(tmp_path / "last", Checkpoint({"model": tensors}, {}))
    read = read_checkpoint(tmp_path / "last").model
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name
    with pytest.raises(UserError, match=r"tensor w is of type torch\.complex128, which safetensors does not hold"):
        write_checkpoint(tmp_path / "last", Checkpoint({"model": {"w": torch.ones(1, dtype=torch.complex128)}}, {}))
    assert read_checkpoint(tmp_path / "last").model.keys() == tensors.keys()


def test_after_a_crash_between_two_renames_the_old_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "best"
    write_checkpoint(best, make(1.0))
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if target == best:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(best, make(2.0))
    monkeypatch.undo()
    assert not best.exists()
    found = find_checkpoint(tmp_path, "best")
    assert found is not None
    assert float(read_checkpoint(found).model["w"][0, 0]) == 1.0
    write_checkpoint(best, make(3.0))
    assert find_checkpoint(tmp_path, "best") == best
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


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


def test_a_place_that_cannot_be_written_is_not_called_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory; .* untouched: give a folder that can be written"):
        write_checkpoint(tmp_path / "file" / "last", make(1.0))


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    tensors = model_tensors(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"weight has shape \(2, 3\), the model's \(2, 4\)"):
        load_model(nn.Linear(4, 2), tensors, tmp_path)
    with pytest.raises(UserError, match=r"another model: .*bias is not in the model"):
        load_model(nn.Linear(3, 2, bias=False), tensors, tmp_path)


def test_another_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "last", make(1.0))
    monkeypatch.setattr(module, "READ", (98, 99))
    with pytest.raises(UserError, match="has format 2; this version of anysize reads formats 98 and 99"):
        read_checkpoint(tmp_path / "last")
