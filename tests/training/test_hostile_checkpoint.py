"""A checkpoint that is damaged with a right checksum, or from somebody else: a sentence, and nothing else is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_the_place import KINDS, replaced
from torch import nn

from anysize.training.checkpoint.files import (
    Checkpoint,
    DamagedCheckpoint,
    _checksum,
    _serialise_state,
    read_checkpoint,
    read_state,
    write_checkpoint,
)
from anysize.training.optimizer import RegimeOptimizer
from anysize.training.regime import constant
from anysize.training.settings import OptimizerSettings

MODEL = {"name": "resnet8", "num_classes": 2, "in_channels": 3, "changes": []}
SAID = {"model": MODEL, "preprocessing": {"image_size": 8}, "images": 4, "progress": {"step": 1, "best": float("nan")}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "last", Checkpoint({"model": {"w": torch.ones(2)}}, SAID))
    return tmp_path / "last"


def says(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what `state.json` says, with a checksum that fits."""
    path = folder / "state.json"
    state = json.loads(path.read_text())["state"]
    change(state)
    path.write_bytes(_serialise_state(state))


def refused(folder: Path, said: str) -> None:
    with pytest.raises(DamagedCheckpoint, match=said) as error:
        read_checkpoint(folder, "model", "preprocessing")
    assert len(str(error.value)) < len(str(folder)) + 250
    assert "\n" not in str(error.value)


def test_a_sound_one_is_read(folder: Path) -> None:
    says(folder, lambda state: state)
    assert read_checkpoint(folder, "model", "preprocessing").model["w"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["state.json", "model.safetensors"])
def test_what_is_no_file_of_ours(folder: Path, name: str, kind: str) -> None:
    replaced(folder / name, kind)
    refused(folder, f"is damaged: {name}")


@pytest.mark.parametrize(
    "name",
    [
        "/dev/zero", "../other.safetensors", "a/../model.safetensors", "state.json", "", ".", "x" * 300,
        "\x1b[2J.safetensors",
    ],
)  # fmt: skip
def test_names_stay_in_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    says(folder, lambda state: state["files"].update({name: state["files"]["model.safetensors"]}))
    refused(folder, "is damaged: state.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(files=[]),
        lambda state: state.update(files={}),
        lambda state: state.update(files={"model.safetensors": 7}),
        lambda state: state["files"]["model.safetensors"].update(bytes="8"),
        lambda state: state["files"]["model.safetensors"].update(bytes=-1),
        lambda state: state["files"]["model.safetensors"].update(blake2b=None),
        lambda state: state.pop("model"),
        lambda state: state.pop("preprocessing"),
        lambda state: state.update(model="resnet8"),
        lambda state: state["model"].update(num_classes=10**12),
        lambda state: state["model"].update(changes=[{"name": "quantized", "options": {"bits": "8", "keep": []}}]),
        lambda state: state["preprocessing"].update(image_size="x" * 5000),
        lambda state: state["preprocessing"].update(mean=[float("nan")] * 3),
        lambda state: state["preprocessing"].update(classes={"a": 1}),
        lambda state: state["progress"].update(epoch=-1),
        lambda state: state["progress"].update(step="2"),
        lambda state: state.update(data={"train": []}),
    ],
)
def test_what_is_said_fits_its_form(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    says(folder, change)
    refused(folder, "is damaged: ")


def test_a_file_of_another_length_is_not_read(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(1 << 40)
    refused(folder, r"model\.safetensors: it has 1,099,511,627,776 bytes, of at most")


def test_whole_files_that_are_no_safetensors(folder: Path) -> None:
    content = b"\xff" * 64
    (folder / "model.safetensors").write_bytes(content)
    says(folder, lambda state: state["files"]["model.safetensors"].update(bytes=64, blake2b=_checksum(content)))
    refused(folder, r"model\.safetensors: ")


def test_links_are_replaced_and_not_followed(folder: Path) -> None:
    other = folder.parent / "other"
    os.rename(folder, other)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    for name in ("last", ".last.new", ".last.old", "previous"):
        (folder.parent / name).symlink_to(other)
    written = Checkpoint({"model": {"w": torch.zeros(2)}}, SAID)
    for keep in (None, folder.parent / "previous", folder.parent / "previous"):
        write_checkpoint(folder, written, keep)
    assert read_state(folder)["images"] == 4
    assert not folder.is_symlink()
    assert not (folder.parent / "previous").is_symlink()
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda value: value[:1]])
def test_moments_are_as_their_parameters(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    optimizer = RegimeOptimizer(model, OptimizerSettings(name=constant("adam")))
    optimizer.apply(0.0)
    optimizer.torch.step()
    held = optimizer.state_dict()
    optimizer.load_state_dict(held)
    with pytest.raises(ValueError, match=r"weight/exp_avg is torch.float.*, and not as its parameter"):
        optimizer.load_state_dict({**held, "weight/exp_avg": change(held["weight/exp_avg"])})
