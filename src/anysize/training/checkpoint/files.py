"""Checkpoints: safetensors and JSON in a folder, written beside and renamed into place.

A checkpoint holds `state.json` and a file of tensors for each part of the training state that has some:
`model.safetensors`, `optimizer.safetensors`, `averaged.safetensors`. `state.json` lists these files with length and
checksum, so that a damaged checkpoint is told apart from a good one before it is used. Nothing is ever unpickled.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from anysize.machine import is_short
from anysize.registry import UserError, shown
from anysize.training.checkpoint.tensors import write_tensors

FORMAT = 2
READ = (1, 2)
"""Formats that are read. In 1 the numbers of all parts stand under "progress"; `TrainState` knows where."""


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written: a file is missing, short or altered."""


@dataclasses.dataclass
class Checkpoint:
    """Tensors by part ("model", "optimizer", ...) and name, and everything else as JSON-ready data."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]

    @property
    def model(self) -> Mapping[str, Tensor]:
        """Parameters and buffers of the model."""
        return self.tensors["model"]

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers to use the model with: the averaged ones where the run keeps such."""
        return self.tensors.get("averaged", self.model)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: Path | None = None) -> None:
    """Write `checkpoint` to `folder`; a checkpoint that was there is renamed to `keep`, or removed once replaced.

    The files are written and synced under another name first: whatever happens, `folder` or `keep` is whole.

    Raises:
        UserError: the files could not be written (a full disk, no permission); what was there before is untouched.
    """
    beside, replaced = folder.with_name(f".{folder.name}.new"), aside(folder)
    contents = {f"{part}.safetensors": tensors for part, tensors in checkpoint.tensors.items() if tensors}
    files = {}
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a save that was killed
        beside.mkdir(parents=True)
        for name, tensors in contents.items():
            length, checksum = write_tensors(beside / name, tensors)
            files[name] = {"bytes": length, "blake2b": checksum}
        state = {"format": FORMAT, **checkpoint.state, "files": files}
        _write_synced(beside / "state.json", _serialise_state(state))
        _sync_folder(beside)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            if keep is not None:
                shutil.rmtree(keep, ignore_errors=True)
            folder.rename(keep or replaced)
        beside.rename(folder)
        _sync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        needed = sum(value.nbytes for tensors in contents.values() for value in tensors.values()) / 2**20
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room and give the same command again" if full else "give a folder that can be written"
        raise UserError(
            f"could not write the checkpoint {folder} ({needed:.1f} MiB): {error.strerror or error}; what was "
            f"written before is untouched: {remedy}"
        ) from error


def aside(folder: Path) -> Path:
    """Where a checkpoint lies while its successor takes its place."""
    return folder.with_name(f".{folder.name}.old")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU after checking its files.

    Raises:
        DamagedCheckpoint: a file is missing, short or altered; the message names it.
        UserError: a format that this version does not read.
    """
    state = read_state(folder)
    tensors = {}
    for name, expected in state["files"].items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            if is_short(error):
                raise
            raise DamagedCheckpoint(f"checkpoint {folder} is damaged: {name}: {error.strerror}") from None
        if len(data) != expected["bytes"] or _checksum(data) != expected["blake2b"]:
            raise DamagedCheckpoint(
                f"checkpoint {folder} is damaged: {name} has {len(data)} bytes that do not match the checksum of the "
                f"{expected['bytes']} bytes written"
            )
        tensors[Path(name).stem] = safetensors.torch.load(data)
    return Checkpoint(tensors, state)


def read_state(folder: Path) -> dict[str, Any]:
    """Read `state.json` of a checkpoint alone.

    Raises:
        DamagedCheckpoint: it is missing or not JSON.
        UserError: a format that this version does not read.
    """
    try:
        whole = json.loads((folder / "state.json").read_text())
        state: dict[str, Any] = whole["state"]
        checksum = whole["blake2b"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_short(error):
            raise
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: state.json: {shown(repr(error))}") from None
    if checksum != _checksum(json.dumps(state).encode()):
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: state.json does not match its checksum")
    if state.get("format") not in READ:
        raise UserError(
            f"checkpoint {folder} has format {state.get('format')}; this version of anysize reads formats "
            f"{' and '.join(map(str, READ))}"
        )
    return state


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers on the CPU, contiguous, by name."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy `tensors` into `model`, in place.

    Raises:
        UserError: names or shapes differ, as with a checkpoint of another model; the message shows the first few.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{source} is a checkpoint of another model: {'; '.join(problems[:3])}{more}; give the recipe it was "
            "trained with"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _serialise_state(state: dict[str, Any]) -> bytes:
    return json.dumps({"blake2b": _checksum(json.dumps(state).encode()), "state": state}, indent=1).encode()


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
