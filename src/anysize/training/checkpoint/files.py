"""Checkpoints: safetensors and JSON in a folder, written beside and renamed into place.

A checkpoint holds `state.json` and a file of tensors for each part of the training state that has some:
`model.safetensors`, `optimizer.safetensors`, `averaged.safetensors`. `state.json` lists these files with length and
checksum, so that a damaged checkpoint is told apart from a good one before it is used. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from anysize.files import read_regular, read_text, remove
from anysize.forms import Unfit, fields
from anysize.machine import is_short
from anysize.models import trust
from anysize.models.checks import first_not_finite
from anysize.models.weights.types import unlike
from anysize.registry import NotFinite, UserError, in_a_line
from anysize.training.checkpoint.form import STATE
from anysize.training.checkpoint.tensors import write_tensors

FORMAT = 2
READ = (1, 2)
"""Formats that are read. In 1 the numbers of all parts stand under "progress"; `TrainState` knows where."""


_STATE_BYTES = 1 << 28


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used: a file is missing, short or altered."""


class LostFolder(UserError):
    """The folder that a run writes is no longer its own: it was moved, deleted, or is another run's now."""


class NotFiniteCheckpoint(DamagedCheckpoint, NotFinite):
    """A checkpoint that holds a value that is NaN or infinite: whoever wrote it had diverged."""


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


def write_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    keep: Path | None = None,
    *,
    kept: int = 1,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Write `checkpoint` to `folder`; a checkpoint that was there is renamed to `keep`, or removed once replaced.

    The files are written and synced under another name first: whatever happens, `folder` or `keep` is whole.

    Args:
        folder, checkpoint, keep: where to, what, and the new name of what was there.
        kept: that many earlier ones stay: what was at `keep` becomes KEEP-2, that KEEP-3, and so on; of a name that has
            a number the next ones follow.
        check: raises `LostFolder` where nothing may be written; called first, and before anything takes its place.

    Raises:
        UserError: the files could not be written (a full disk, no permission); what was there before is untouched.
        NotFinite: a value is NaN or infinite; what was there before is untouched.
    """
    new, replaced = beside(folder), aside(folder)
    contents = {f"{part}.safetensors": tensors for part, tensors in checkpoint.tensors.items() if tensors}
    files = {}
    check()
    try:
        remove(new)  # of a save that was killed
        new.mkdir(parents=True)
        for name, tensors in contents.items():
            length, checksum = write_tensors(new / name, tensors)
            files[name] = {"bytes": length, "blake2b": checksum}
        state = {"format": FORMAT, **checkpoint.state, "files": files}
        _write_synced(new / "state.json", _serialise_state(state))
        _sync_folder(new)
        check()
        if os.path.lexists(folder):
            remove(replaced)
            if keep is not None:
                _make_way(keep, kept)
            folder.rename(keep or replaced)
        new.rename(folder)
        _sync_folder(folder.parent)
        _clear(replaced)
    except OSError as error:
        check()  # a folder that went away meanwhile is told as such
        _clear(new)
        needed = sum(value.nbytes for tensors in contents.values() for value in tensors.values()) / 2**20
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room and give the same command again" if full else "give a folder that can be written"
        raise UserError(
            f"could not write the checkpoint {folder} ({needed:.1f} MiB): {error.strerror or error}; what was "
            f"written before is untouched: {remedy}"
        ) from error
    except LostFolder:
        raise  # what lies there may be another run's
    except UserError as error:
        _clear(new)
        if isinstance(error, NotFinite):
            raise NotFinite(f"the checkpoint {folder} is not written, since {error}; what was there stays") from error
        raise


def _make_way(keep: Path, kept: int) -> None:
    """Give each of the earlier checkpoints the name of the one before it, and remove those that are too many."""
    name, _, number = keep.name.partition("-")
    first = int(number or 1)
    places = [keep, *(keep.with_name(f"{name}-{first + i}") for i in range(1, kept))]
    for path in keep.parent.glob(f"{name}-*"):
        follows = path.name.removeprefix(f"{name}-")
        if path not in places and follows.isdecimal() and int(follows) > first:
            _clear(path)
    for newer, older in reversed([*itertools.pairwise(places)]):
        if newer.exists():
            _clear(older)
            newer.rename(older)
    _clear(keep)


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        remove(path)


def beside(folder: Path) -> Path:
    """Where a checkpoint is written, before it takes its place."""
    return folder.with_name(f".{folder.name}.new")


def aside(folder: Path) -> Path:
    """Where a checkpoint lies while its successor takes its place."""
    return folder.with_name(f".{folder.name}.old")


def read_checkpoint(folder: Path, *needed: str) -> Checkpoint:
    """Read a checkpoint onto the CPU after checking its files; `needed` as for `read_state`.

    Raises:
        DamagedCheckpoint: a file is missing, short, altered, or no file; the message names it.
        NotFiniteCheckpoint: a tensor, which is named, has a value that is NaN or infinite.
        UserError: a format that this version does not read.
    """
    state = read_state(folder, *needed)
    tensors = {}
    for name, expected in state["files"].items():
        try:
            data = read_regular(folder / name, expected["bytes"])
        except OSError as error:
            if is_short(error):
                raise
            raise DamagedCheckpoint(f"checkpoint {folder} is damaged: {name}: {error.strerror}") from None
        if len(data) != expected["bytes"] or _checksum(data) != expected["blake2b"]:
            raise DamagedCheckpoint(
                f"checkpoint {folder} is damaged: {name} has {len(data)} bytes that do not match the checksum of the "
                f"{expected['bytes']} bytes written"
            )
        try:
            tensors[Path(name).stem] = safetensors.torch.load(data)
        except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise DamagedCheckpoint(f"checkpoint {folder} is damaged: {name}: {in_a_line(error)}") from None
        if damaged := first_not_finite(tensors[Path(name).stem]):
            raise NotFiniteCheckpoint(
                f"checkpoint {folder} is not used: {damaged} in {name} is NaN or infinite, so its training had diverged"
            )
    if "model" not in tensors:
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: it has no model.safetensors")
    return Checkpoint(tensors, state)


def read_state(folder: Path, *needed: str) -> dict[str, Any]:
    """Read `state.json` of a checkpoint alone; it says something of what is `needed`, such as "preprocessing".

    Raises:
        DamagedCheckpoint: it is missing, not JSON, or not what was written.
        UserError: a format that this version does not read.
    """
    try:
        whole = json.loads(read_text(folder / "state.json", _STATE_BYTES))
        state: dict[str, Any] = whole["state"]
        checksum = whole["blake2b"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if is_short(error):
            raise
        told = getattr(error, "strerror", None) or f"it is no JSON of a checkpoint: {error}"
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: state.json: {in_a_line(told)}") from None
    if checksum != _checksum(json.dumps(state).encode()):
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: state.json does not match its checksum")
    if not isinstance(state, dict) or state.get("format") not in READ:
        held = state.get("format") if isinstance(state, dict) else None
        raise UserError(
            f"checkpoint {folder} has format {in_a_line(held)}; this version of anysize reads formats "
            f"{' and '.join(map(str, READ))}"
        )
    try:
        STATE(state, "")
        fields(**dict.fromkeys(needed, lambda value, where: value))(state, "state.json")
    except Unfit as error:
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: state.json: {error}") from None
    trust.found(state.get("model"), folder / "state.json")
    return state


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers on the CPU, contiguous, by name."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy `tensors` into `model`, in place.

    Raises:
        UserError: names, shapes or types differ, as with a checkpoint of another model; the message shows a few.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems += [f"{name} {how}" for name in own if name in tensors and (how := unlike(tensors[name], own[name]))]
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
    with path.open("xb") as file:
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
