"""What counts as a good end of a command that meets a damaged or hostile folder. There are three of them.

1. Right. The command ends with status 0, and its numbers are those that it gives for the undamaged folder: all columns
   but the times, all weights bit for bit, all text of a page but for the names of folders.
2. Said. The command ends with status 0 or 1, and a line that it does not print for the undamaged folder names the file:
   its own name, or for a file of a checkpoint, of predictions or of exported models the name of their folder.
3. Refused. The command ends with status 2, and prints one line of at most 600 characters that begins with "anysize: ";
   a table may follow it.

Everything else is a fault, whose name is the first word of what a test says of it:

- traceback: Python's own error messages, or any other status, a signal among them.
- hang: the command computes nothing for eight seconds, or takes two minutes.
- memory: it takes more than a gigabyte beside the loaded package, or meets the limit of three.
- silent: the numbers are others, and nothing names the file.
- long: the line of a refusal has more than 600 characters, or there are several.
- escape: what is printed has characters that steer a terminal.
- outside: a file outside the run folder and of the places that the command line names was changed, made or removed.
- code: something that a file names was run. - tag: something that a file holds is a part of the page, not its text.

One thing is nobody's fault. A file whose form is whole, with the columns, keys and kinds of values that it had, is not
damaged but another one: a digit of evaluation.csv that was altered cannot be told from what was measured. Verbs may use
such a file as it is, unless the folder holds a record of what it was: files of a checkpoint have checksums, and a
training that goes on knows its settings and the rows of metrics.csv. A checkpoint whose checksum was made anew is
another one, too, but for weights that are not finite, which are never used without a word.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from forks import Done

SEED = os.environ.get("ANYSIZE_CHAOS_SEED", "0")
"""Another one tries other cases. What fails is repeated alone by the seed and the number of the case in its name."""

LONGEST = 600
MOST_MEMORY = 1 << 30

_STEERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NUMBERS = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


def lines_of(said: str, place: Path) -> set[str]:
    """The lines that a command prints, without its numbers and the folder it ran in: what they are the same in."""
    return {_NUMBERS.sub("#", line.replace(str(place), "")).strip() for line in re.split(r"[\n\r]", said)}


def manner(done: Done) -> str:
    """The fault in how a command ended and what it printed, if there is one."""
    if done.hung:
        return "hang: it was ended"
    if "MemoryError" in done.said or done.memory > MOST_MEMORY:
        return f"memory: {done.memory / 2**20:,.0f} MiB"
    if "Traceback (most recent call last)" in done.said or done.code not in (0, 1, 2):
        last = [line for line in done.err.splitlines() if line.strip()][-1:]
        return f"traceback: status {done.code}: {''.join(last)[:200]}"
    if found := _STEERS.search(done.said):
        return f"escape: {done.said[max(0, found.start() - 100) : found.start() + 20]!r}"
    if done.code == 2:
        told = done.err.strip().splitlines()
        refused = [line for line in told if line.startswith("anysize: ")]
        if len(refused) != 1 or any(len(line) > LONGEST for line in told):
            longest = max(map(len, told), default=0)
            return f"long: {len(refused)} lines that begin with anysize, the longest has {longest} characters"
    return ""


def blame(fault: str, case: str, said: str) -> None:
    """Fail with a fault in the first line, which pytest's summary shows, and what was printed below it."""
    if fault:
        shown = said if len(said) < 4000 else f"{said[:1500]}\n[...]\n{said[-2500:]}"
        pytest.fail(f"{fault} | ANYSIZE_CHAOS_SEED={SEED} {case}\n{shown}", pytrace=False)


def names_one(said: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a line names one of the files."""
    return any(name in line for line in said for name in names)


def names_of(path: Path, run: Path) -> list[str]:
    """The names that a message may call a file of a run by."""
    inside = path.relative_to(run).parts
    return [path.name, *([inside[-2]] if len(inside) > 1 else [])]


def digest(folder: Path, leave_out: Callable[[Path], bool] = lambda path: False) -> dict[str, str]:
    """What lies below a folder, and its content: two of them differ where anything was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(leave_out(each) for each in (path, *path.parents)):
            continue
        mode = path.lstat().st_mode
        content = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            content = hashlib.blake2b(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = f"{stat.S_IFMT(mode):o} {content}"
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> str:
    """The fault of a command that changed what is outside, if it did."""
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return f"outside: {', '.join(sorted(names)[:5])}" if names else ""
