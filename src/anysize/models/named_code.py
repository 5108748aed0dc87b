"""The code that a model's name stands for, `FILE.py:FUNCTION` or `MODULE:FUNCTION`, found without running any of it."""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anysize.files import read_regular
from anysize.registry import UserError, shown


@dataclasses.dataclass(frozen=True)
class Code:
    """Where code lies, with the function's name, and digests of its content and of the options of the call."""

    place: str
    content: str
    options: str


def is_code(name: str) -> bool:
    """Whether a model's name stands for code of somebody's own.

    >>> [is_code(name) for name in ("mine.py:net", "torch.hub:load", "timm:resnet18", "resnet18")]
    [True, True, False, False]
    """
    return ":" in name and not name.startswith("timm:")


def place_of(name: str) -> str:
    """The name with its file's whole path; that of a module as it is.

    >>> place_of("/srv/./nets.py:build"), place_of("torch.hub:load")
    ('/srv/nets.py:build', 'torch.hub:load')
    """
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is no path
            return f"{Path(source).expanduser().resolve()}:{function}"
    return name


def read_file(name: str) -> tuple[Path, bytes]:
    """The path of the file in `FILE.py:FUNCTION`, and its content.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    source = name.rpartition(":")[0]
    reason = f"there is no file {shown(source)}"
    with contextlib.suppress(ValueError, RuntimeError):  # it is no path
        path = Path(source).expanduser()
        try:
            if path.is_file():
                return path, read_regular(path)
        except OSError as error:
            reason = f"{shown(source)} cannot be read ({error.strerror})"
    raise UserError(f"model {shown(name)}: {reason}; expected FILE.py:FUNCTION") from None


def code_of(name: str, options: Mapping[str, Any] | None = None, content: bytes | None = None) -> Code:
    """The code that a name stands for. Options count for a function of a module, since a file's is made to take them.

    Args:
        name: of the model.
        options: of the call.
        content: of its file, where it is read already.

    Raises:
        UserError: there is no such file or module.
    """
    source, _, function = name.rpartition(":")
    digest = hashlib.blake2b(digest_size=16)
    if source.endswith(".py"):
        digest.update(read_file(name)[1] if content is None else content)
        return Code(place_of(name), digest.hexdigest(), "")
    place = source
    for part in _files_of(name, source):
        if isinstance(part, Path):
            place = str(part)
            part = part.read_bytes()
        digest.update(hashlib.blake2b(part).digest())
    called = json.dumps(dict(options or {}), sort_keys=True, default=repr).encode()
    return Code(f"{place}:{function}", digest.hexdigest(), hashlib.blake2b(called, digest_size=16).hexdigest())


def _files_of(name: str, module: str) -> Iterator[Path | bytes]:
    """The files of a module and of the packages that it lies in, from the outside; words for what has no file."""
    inside = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        whole = ".".join(parts[:count])
        spec = getattr(sys.modules.get(whole), "__spec__", None)
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        if spec is None and (count == 1 or inside is not None):  # importlib's own would import the package
            spec = next((found for finder in finders if (found := finder.find_spec(whole, inside))), None)
        if spec is None:
            raise no_module(name, module)
        inside = spec.submodule_search_locations
        if spec.origin and spec.has_location and Path(spec.origin).is_file():
            yield Path(spec.origin)
        else:
            yield f"{whole} {_version(parts[0])}".encode()


def no_module(name: str, module: str) -> UserError:
    """The error for a module that is not there."""
    return UserError(
        f"model {shown(name)}: there is no module {shown(module)}; install it, or give a file as FILE.py:FUNCTION"
    )


def _version(package: str) -> str:
    import importlib.metadata  # takes as long as half the command line

    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return sys.version
