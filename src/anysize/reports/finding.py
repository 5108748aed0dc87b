"""Run folders: the runs that a folder stands for, and their order."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from anysize.reports import run_files

_DEPTH = 2  # runs/sweep/seed-0: a folder of repeats in a folder of runs
_MOST = 10_000  # folders that are looked at
_RUN = (run_files.RECIPE, run_files.METRICS, run_files.EVALUATION)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts names as people count: numbers in them by their value.

    >>> sorted(["run-10", "run-2", "Run-1"], key=natural_key)
    ['Run-1', 'run-2', 'run-10']
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part[:15]), part) if part[:1].isdecimal() else (-1, part) for part in parts]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a file by which a run is known."""
    try:
        return any((folder / name).is_file() for name in _RUN)
    except OSError:  # it may not be looked into
        return False


def runs_in(folder: Path) -> list[Path]:
    """The run folders that a folder stands for: itself, or else those in it, also of `train --repeat`; in their order.

    Hidden folders are left out, and so is what lies deeper than a folder of repeats in this one.

    >>> runs_in(Path("/nowhere"))
    []
    """
    if is_run(folder):
        return [folder]
    found: list[Path] = []
    level, looked = [folder], 0
    for _ in range(_DEPTH):
        below: list[Path] = []
        for parent in level:
            with contextlib.suppress(OSError):
                below += [path for path in itertools.islice(parent.iterdir(), _MOST) if not path.name.startswith(".")]
        below = [path for path in below[: _MOST - looked] if path.is_dir()]  # run folders may be links
        looked += len(below)
        runs = {path for path in below if is_run(path)}
        found += runs
        level = [path for path in below if path not in runs]
    ordered = sorted(found, key=lambda path: len(path.parts))
    once = {path.resolve(): path for path in reversed(ordered)}  # links may lead to one folder several times
    return sorted(once.values(), key=lambda path: natural_key(str(path)))


def naturally_ordered(folders: Sequence[Path]) -> list[Path]:
    """Folders in the order of people's counting where a shell has sorted them by letters, else as they were given.

    >>> given = ["fixed-1", "fixed-10", "fixed-2", "all-2", "all-1"]
    >>> [path.name for path in naturally_ordered([Path(name) for name in given])]
    ['fixed-1', 'fixed-2', 'fixed-10', 'all-2', 'all-1']
    """
    pieces: list[list[Path]] = []
    for folder in folders:  # each pattern of a command line gives names that rise
        if pieces and str(folder) > str(pieces[-1][-1]):
            pieces[-1].append(folder)
        else:
            pieces.append([folder])
    return [folder for piece in pieces for folder in sorted(piece, key=lambda path: natural_key(str(path)))]


def common_name(names: Iterable[str]) -> str:
    """What the names of runs that differ in their seed alone have in common; empty: nothing that tells.

    >>> common_name(["mixed/seed-0", "mixed/seed-1"]), common_name(["fixed_s1", "fixed_s2"]), common_name(["a", "b"])
    ('mixed', 'fixed', '')
    >>> common_name(["batch-16-seed-8", "batch-16-seed-9"]), common_name(["size-32", "size-33"])
    ('batch-16', 'size')
    """
    first, last = min(names := list(names)), max(names)
    same = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    same = re.sub(r"[0-9]+$", "", same) if len(same) < max(map(len, names)) else same  # 1 of 10 and 11
    return re.sub(r"([-_/. ]|(?<![a-zA-Z])(s|seed|run)(?=[-_/. ]*$))+$", "", same, flags=re.IGNORECASE)
