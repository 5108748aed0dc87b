"""Foreign files to Python data: PyTorch's two formats and safetensors, without running code from the file."""

import argparse
import os
import pathlib
import pickle
import pickletools
import re
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from anysize.files import open_regular, read_regular
from anysize.machine import is_short
from anysize.models.weights.contents import ForeignCheckpoint, find_contents
from anysize.registry import UserError

Global = Callable[..., Any] | tuple[Callable[..., Any], str]

_NUMBER = re.compile(r">?(b1|[iuf][1248])")
"""numpy's codes of truth values, whole and floating-point numbers."""


class _Type:
    """Stands for a numpy type that a file names; numpy's own would take sizes and layout in memory from the file."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.code = f">{self.code}"


def _scalar(kind: object = None, value: object = None) -> Any:
    """The number in a numpy scalar; None for what is no number."""
    if not isinstance(kind, _Type) or not isinstance(value, bytes) or not _NUMBER.fullmatch(kind.code):
        return None
    return np.frombuffer(value, kind.code, count=1)[0]


def _harmless() -> list[Global]:
    """Classes beside the tensors that only hold values; everything else that a pickle may name is refused."""
    found: list[Global] = [
        (argparse.Namespace, "argparse.Namespace"),  # torchvision's and timm's `args`
        (types.SimpleNamespace, "types.SimpleNamespace"),
        (_scalar, "numpy.core.multiarray.scalar"),  # a best accuracy, of numpy 1 ...
        (_scalar, "numpy._core.multiarray.scalar"),  # ... and numpy 2
        (_Type, "numpy.dtype"),
    ]
    for path in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):  # one of the two cannot be made here
        kind = pathlib.PureWindowsPath if "Windows" in path else pathlib.PurePosixPath
        found += [(kind, f"pathlib.{path}"), (kind, f"pathlib._local.{path}")]
    return found


def read_foreign(path: str | Path, *, averaged: bool = False) -> ForeignCheckpoint:
    """Read a checkpoint that another program wrote; tensors stay on disk where the format allows it.

    Takes PyTorch's files of any version (`.pth`, `.pth.tar`, `.pt`, `.bin`: the name does not matter) and safetensors.
    The weights may be the file itself or lie under `state_dict`, `model`, `model_state_dict` and the like. Prefixes of
    wrappers (`module.`, `_orig_mod.`) are taken off.

    Args:
        path: the file.
        averaged: take the averaged weights that some trainings keep beside (`model_ema`, `state_dict_ema`).

    Raises:
        UserError: no such file, no checkpoint, a damaged one, one that wants to run code (nothing of it is run), or
            one without weights.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "last.pth.tar"
    >>> torch.save({"epoch": 7, "arch": "tiny", "state_dict": {"module.fc.weight": torch.zeros(2, 3)}}, file)
    >>> foreign = read_foreign(file)
    >>> list(foreign.tensors), foreign.arch, foreign.epoch, foreign.prefix
    (['fc.weight'], 'tiny', 7, 'module.')
    """
    path = Path(path).expanduser()
    held, form = read_held(path)
    return find_contents(held, path, form, averaged)


def read_held(path: Path) -> tuple[Any, str]:
    """What a file of another program's holds, as plain data, and the format of the file in words.

    Raises:
        UserError: as `read_foreign`, but for what stands in it.
    """
    try:
        _check_is_file(path)
        with open_regular(path) as file:
            start = file.read(512)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read: {reason}; expected a file that you may read") from None
    _check_start(path, start)
    if start.startswith(b"PK\x03\x04"):
        _check_is_plain(path)
        return _load(path, "PyTorch", mmap=True), "PyTorch"
    if _is_safetensors(start):
        return _load_safetensors(path), "safetensors"
    old = "PyTorch before 1.6"
    return _load(path, old, mmap=False), old


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        ours = (path / "recipe.toml").is_file() or (path / "state.json").is_file()
        hint = "it is one of anysize's own: give it as model.weights" if ours else "give the file in it"
        raise UserError(f"{path} is a folder; expected a checkpoint file: {hint}")
    if not path.is_file():
        raise UserError(f"there is no file {path}; expected a checkpoint such as model_best.pth.tar")


def _check_start(path: Path, start: bytes) -> None:
    """Tell what is no checkpoint by its first bytes."""
    if not start:
        raise UserError(f"{path} is empty; expected a checkpoint: copy or download it again")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not a checkpoint, as a failed download leaves it; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs, not the checkpoint it stands for; fetch it with git lfs pull")
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        line = start.decode().strip().splitlines()[:1]
        raise UserError(
            f"{path} is text ({''.join(line)[:40]!r}), not a checkpoint; expected .pth, .pt or .safetensors"
        )


def _check_is_plain(path: Path) -> None:
    """Refuse compressed entries, which PyTorch never writes: a small file could fill any memory."""
    if not zipfile.is_zipfile(path):
        return  # damaged: said where it is read
    with zipfile.ZipFile(path) as archive:
        entries = [one for one in archive.infolist() if "/code/" not in one.filename]  # TorchScript's, never read
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in entries):
        raise UserError(
            f"{path} is a compressed zip archive, which no PyTorch checkpoint is; expected .pth, .pt or .safetensors: "
            "unpack it where there is one inside"
        )


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        if str(path).encode(errors="replace") != os.fsencode(path):  # the library takes no other path than UTF-8
            return {"state_dict": safetensors.torch.load(read_regular(path))}
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {**(file.metadata() or {}), "state_dict": tensors}
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        if is_short(error):
            raise
        raise UserError(
            f"{path} is no whole safetensors file ({_size(path)}): {error}; copy or download it again"
        ) from None


def _load(path: Path, kind: str, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # of TorchScript, of pickles made by Python 2
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap or None)
    except Exception as error:  # torch raises whatever a damaged file leads to
        if is_short(error):
            raise
        raise UserError(_explain(path, kind, error)) from None


def _explain(path: Path, kind: str, error: Exception) -> str:
    """One sentence on why torch could not read a file."""
    said = str(error)
    wanted = re.search(r"(?:GLOBAL|[Uu]nsupported class) (\w+\.[\w.]+)", said)
    name = wanted.group(1) if wanted else _first_global(path)
    if name:
        return (
            f"{path} is refused: it asks for {name}, which could run code, and nothing of it was run; expected tensors "
            "and plain values: where it was made, save model.state_dict() alone"
        )
    if "TorchScript" in said:
        return f"{path} is a TorchScript program, not a checkpoint; where it was made, save module.state_dict()"
    if "legacy .tar" in said or "magic number" in said:
        return f"{path} is no checkpoint that PyTorch reads: it is another kind of file, or older than PyTorch 0.2"
    if kind == "PyTorch" and zipfile.is_zipfile(path):
        if any(name.endswith("/data.pkl") for name in zipfile.ZipFile(path).namelist()):
            remedy = "where it was made, save model.state_dict() with torch.save's own pickle protocol"
            return f"{path} is a PyTorch file that cannot be read without running code; {remedy}"
        return f"{path} is a zip archive, but no PyTorch checkpoint; expected .pth, .pt or .safetensors"
    if kind == "PyTorch" or "EOF" in said or isinstance(error, EOFError) or "truncated" in said:
        return f"{path} is cut short or damaged ({_size(path)}); copy or download it again"
    return f"{path} is no checkpoint that PyTorch reads without running code; expected .pth, .pt or .safetensors"


def _first_global(path: Path) -> str:
    """The first class or function that a plain pickle names and that is not harmless; read, not run."""
    known = {entry[1] for entry in _harmless() if isinstance(entry, tuple)} | {"collections.OrderedDict"}
    strings: list[str] = []
    try:
        with open_regular(path) as file:
            if file.read(1) != pickle.PROTO:
                return ""
            file.seek(0)
            for opcode, argument, _ in pickletools.genops(file):
                if isinstance(argument, str) and "UNICODE" in opcode.name:
                    strings.append(argument)
                elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                    name = str(argument).replace(" ", ".") if argument else ".".join(strings[-2:])
                    if name not in known:
                        return name
    except Exception:  # damaged: another sentence says so
        return ""
    return ""


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
