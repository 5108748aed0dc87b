"""What `anysize data check` found, as a list of files that `data.exclude` takes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from anysize.data.check import SplitCheck
from anysize.data.copies import Copies
from anysize.data.exclude import excluded_by
from anysize.data.settings import DataSettings
from anysize.files import replacing
from anysize.registry import UserError, printable


def check_list(path: str, settings: DataSettings) -> None:
    """Raise a `UserError`, before anything is looked at, for a list that would replace a file, or says nothing."""
    if not settings.root:
        raise UserError(f"--fix {path} is given, but the images of {settings.name!r} are in no folder; leave it out")
    if os.path.lexists(Path(path).expanduser()) and _place(path) != _place(settings.exclude or os.devnull):
        raise UserError(
            f"{path} is there already; give --fix another name, or --data.exclude {path} besides, which keeps what it "
            "lists"
        )


def write_list(
    path: str,
    settings: DataSettings,
    splits: Sequence[SplitCheck],
    copies: Sequence[Copies],
    alike: Sequence[Copies],
    *,
    too_small: bool,
) -> int:
    """Write the names of all files that are to be left out, and return how many there are.

    Those that `data.exclude` lists already stay. Images that look alike are written behind a `#`, which stands for
    whoever looks at them.

    Args:
        copies, alike: images that have one content, and those that look alike.
        too_small: list the images that are too small, too.

    Raises:
        UserError: a name with a line break, or the list cannot be written.
    """
    root = os.path.abspath(Path(settings.root).expanduser())
    before = list(excluded_by(settings).paths)
    lines = _section("listed before", before, root)
    parts = (
        ("damaged", (name for split in splits for name in split.damaged)),
        ("too large", (name for split in splits for name in split.too_large)),
        ("missing", (name for split in splits for name in split.missing)),
        ("too small", (name for split in splits if too_small for name in split.too_small)),
        ("copies of other files", (name for each in copies for name in each.surplus)),
    )
    taken = set(before)
    for title, names in parts:
        new = [name for name in dict.fromkeys(map(os.path.abspath, names)) if name not in taken]
        taken.update(new)
        lines += _section(title, new, root)
    for each in alike:
        first, *others = (_line(name, root) for _, name in each.images)
        lines += ["", f"# looks like {first}; take the # away to leave it out", *(f"#{name}" for name in others)]
    try:
        with replacing(Path(path).expanduser()) as file:
            file.write(
                os.fsencode(
                    "\n".join([f"# left out of {printable(root)} by data.exclude".replace("\n", " "), *lines, ""])
                )
            )
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give --fix another place") from error
    return len(taken)


def _section(title: str, names: Iterable[str], root: str) -> list[str]:
    lines = [_line(name, root) for name in names]
    return ["", f"# {title}", *lines] if lines else []


def _line(path: str, root: str) -> str:
    """A file's name below root, or its whole path where it lies elsewhere."""
    path = os.path.abspath(path)
    name = path.removeprefix(os.path.join(root, ""))
    if "\n" in name or "\r" in name:
        raise UserError(f"{path} has a line break in its name, so that no list can hold it; rename it")
    return f"./{name}" if name.startswith("#") else name


def _place(path: str) -> str:
    return os.path.realpath(Path(path).expanduser())
