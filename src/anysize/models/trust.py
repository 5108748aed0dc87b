"""Who consented to run the code that a model's name stands for: `FILE.py:FUNCTION` or `MODULE:FUNCTION`.

    with anysize.trusting_code():               # on the command line: --trust-code
        table = anysize.evaluate("runs/from-somebody-else")

A name that the user gives, on the command line or to a function of the library, is consent (`consent`). One that stands
in a file, such as a recipe, a run folder or an exported network, is noted when the file is read (`found`), and is run
in `trusting_code` alone, or where this user consented before to the same content (`remember`). In a command every name
counts as one of a file that the user has not given (`command_line`). `check` decides, before anything of the code is
imported. The package's models, torchvision's and timm's by their names are no code of others.

What is remembered lies in the user's own folder (`XDG_CONFIG_HOME/anysize`, else `~/.config/anysize`): the place of
the code, a digest of its content, and for a function of a module the options, since some run what an option names. The
place counts, too: a copy elsewhere may import what lies beside it. Imports no torch.
"""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from anysize.files import is_private, open_regular, replacing
from anysize.models.named_code import code_of, is_code, place_of
from anysize.registry import UserError, printable, shown

_MOST = 1 << 24  # bytes that are read of the file of what is remembered

log = logging.getLogger("anysize")

_consented: set[str] = set()
_found: dict[str, str] = {}
_in_command = ContextVar("in_command", default=False)
_trusting = ContextVar("trusting", default=False)


class NotTrusted(UserError):
    """Code that a file names, and that the user has not consented to run."""


def consent(name: object) -> None:
    """Note that the user gives this name of a model, and so wants to run what it stands for."""
    if isinstance(name, str) and is_code(name):
        _consented.add(place_of(name))


def consent_unless_found(name: str) -> None:
    """As `consent`, for a name in a `Recipe` that the caller made or that was read from a file."""
    if not {name, place_of(name)} & _found.keys():
        consent(name)


def found(model: object, file: object = "") -> None:
    """Note that a file holds this table of a model: its `name` is none that the user has given."""
    name = model.get("name") if isinstance(model, Mapping) else None
    if isinstance(name, str) and is_code(name):
        for key in {name, place_of(name)}:  # the working directory may be another when the model is built
            _found[key] = str(file) or _found.get(key, "")


@contextlib.contextmanager
def trusting_code(trust: bool = True) -> Iterator[None]:
    """For a block, run the code that files name as the model of a run or a recipe, and remember it as trusted.

    >>> with trusting_code():
    ...     pass
    """
    before = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(before)


@contextlib.contextmanager
def command_line(trust: bool) -> Iterator[None]:
    """For a block, which is a command, run no code but what the user has named, or with `trust`."""
    before = _in_command.set(True)
    try:
        with trusting_code(trust):
            yield
    finally:
        _in_command.reset(before)


def check(name: str, options: Mapping[str, Any] | None = None, content: bytes | None = None) -> None:
    """Raise an error unless the user consented to run the code that a name stands for; nothing of it is run.

    Args:
        name: of the model.
        options: that the function is about to be called with; None: it is only looked up.
        content: of its file, where it is read already.

    Raises:
        NotTrusted: the user has not.
        UserError: there is no such file or module.
    """
    key = place_of(name)
    file = _found.get(key, _found.get(name))
    if key in _consented or (file is None and not _in_command.get()):
        return
    if _trusting.get():
        remember(name, options)
        return
    code = code_of(name, options, content)
    held = _remembered().get(code.place, {})
    same = held.get("content") == code.content
    if same and (options is None or not code.options or code.options in held["options"]):
        return
    changed = ", which has changed since you trusted it" * bool(held and not same)
    raise NotTrusted(
        f"{printable(file or 'a file')} names code to build the model with, {shown(name)}{changed}; nothing of it was "
        "run: look at it, and give --trust-code if you trust it (in Python: with anysize.trusting_code())"
    )


def remember(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Remember that the user consents to run the code that a name stands for as it is now, with these options.

    Where that cannot be written, it is said once, and nothing else happens. Other names are none to remember, nor is
    code without a file, such as that of a notebook.
    """
    if not is_code(name):
        return
    try:
        code, everything = code_of(name, options), _remembered()
    except UserError:
        return
    held = everything.get(code.place, {})
    known = held["options"] if held.get("content") == code.content else []
    called = [code.options] if code.options and options is not None else []
    now = {"content": code.content, "options": sorted({*known, *called})}
    if now == held:
        return
    try:
        path = _memory()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps({**everything, code.place: now}, indent=1).encode())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        _say_once(f"that you trust {shown(name)} cannot be remembered ({reason}): a run of it asks for --trust-code")


def _remembered() -> dict[str, Any]:
    """What is remembered by place; nothing where the file is not there, is damaged, or may be written by others."""
    with contextlib.suppress(OSError, RuntimeError, ValueError), open_regular(_memory()) as file:
        if is_private(os.fstat(file.fileno())):
            held = json.loads(file.read(_MOST))
            return {place: entry for place, entry in held.items() if _is_entry(entry)} if isinstance(held, dict) else {}
        _say_once(f"{_memory()} may be written by others, so nothing that it says is trusted: chmod 600 makes it yours")
    return {}


def _is_entry(entry: object) -> bool:
    options = entry.get("options") if isinstance(entry, dict) else None
    return isinstance(options, list) and all(isinstance(each, str) for each in options)


def _memory() -> Path:
    """The file of what is remembered."""
    base = os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "anysize" / "trusted.json"


@functools.cache
def _say_once(text: str) -> None:
    log.warning("%s", text)
