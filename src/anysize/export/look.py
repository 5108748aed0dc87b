"""What an exported file is, found out before any of it is run."""

from pathlib import Path

from anysize.export.contents import Contents
from anysize.export.description import Description
from anysize.export.look_onnx import look_at_onnx
from anysize.export.look_program import look_at_program
from anysize.files import EXPORTED
from anysize.registry import UserError


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file, that is, ends as one does.

    >>> is_exported("runs/quickstart/export/model.onnx"), is_exported("runs/quickstart")
    (True, False)
    """
    return Path(path).suffix in EXPORTED and not Path(path).is_dir()


def look_at(path: str | Path) -> Contents:
    """Read what a file is, and run nothing of it.

    Raises:
        UserError: it is not there, truncated, no ONNX or pt2 file, refers to other files, has operators of another
            domain, or is not a network of images; one sentence says which.
    """
    path = Path(path)
    if path.suffix not in EXPORTED:
        raise UserError(f"{path} is no exported file; expected one that ends in {' or '.join(EXPORTED)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}; `anysize export` writes one")
    return look_at_onnx(path) if path.suffix == ".onnx" else look_at_program(path)


def read_description(path: str | Path) -> Description:
    """The description of a file that this package wrote.

    Raises:
        UserError: as `look_at`, and for a file of another program.
    """
    found = look_at(path).description
    if found is None:
        raise UserError(
            f"{path} was not written by anysize: nothing says how its images are prepared; give --data.mean, "
            "--data.std and --size"
        )
    return found
