"""A folder of files that is there whole or not at all: what is written by `anysize data export` and `unpack`."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from anysize.files import name_beside
from anysize.registry import UserError


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when the block ends well, and is removed otherwise.

    Raises:
        UserError: the folder is there already, or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as there:
    ...     with new_folder(Path(there) / "new") as beside:
    ...         _ = (beside / "a.txt").write_text("whole")
    ...     (Path(there) / "new/a.txt").read_text()
    'whole'
    """
    folder = folder.expanduser().absolute()
    if folder.exists():
        raise UserError(f"{folder} is there already; name a new folder, or remove it first")
    beside = name_beside(folder)
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}), and nothing of it is left; make room, or name "
            "another folder"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
