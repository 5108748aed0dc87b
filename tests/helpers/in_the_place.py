"""What may stand in the place of a file of a run folder, damaged or from somebody else."""

import os
from collections.abc import Callable
from pathlib import Path


def sparse(path: Path) -> None:
    """A file of a tebibyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "own").write_text("own")


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/file"),
    "a folder": folder,
    "empty": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b"epoch,\xe9\n\xff,\xfe\n"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "sparse": sparse,
    "text": lambda path: path.write_text('epoch,"size\nlock = <b>{'),
}


def replaced(path: Path, kind: str) -> Path:
    """Put something of this kind in the place of a file or a link."""
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path
