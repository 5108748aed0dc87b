"""Files of a run folder that are damaged, replaced or altered, and a verb that meets them; `outcomes` has the rules.

Each case copies a run, changes one file of it, runs one command line, and looks at what was printed, at the numbers,
and at the files that lie around the run. A training that refuses and names `--resume` is given what it asks for.
"""

import dataclasses
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damages
import outcomes
import pytest
from forks import Done, Forks
from verbs import VERBS, Verb, kind_of, verbs_for

TASKS = ("averaged", "multilabel", "segmentation")
CASES, SHORT = 500, 16


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a verb does with the undamaged folder."""

    result: Any
    lines: set[str]


@pytest.fixture(scope="session")
def expected(
    forks: Forks, folders: Callable[[str, bool], Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Expected]:
    """What a verb does with the undamaged folder of a task; asked once a session."""
    made: dict[tuple[str, str], Expected] = {}

    def ask(task: str, name: str) -> Expected:
        if (task, name) not in made:
            place, verb = tmp_path_factory.mktemp("expected"), VERBS[name]
            run, out = shutil.copytree(folders(task, not verb.stopped), place / "run"), place / "out"
            out.mkdir()
            done = forks(*arguments(verb, task, run, out, data), folder=place, report=verb.report)
            assert done.code == 0, f"{task}, {name}: {done.said}"
            lines = outcomes.lines_of(done.said + log_of(run), place)
            made[task, name] = Expected(verb.result(task, run, out, done), lines)
        return made[task, name]

    return ask


def arguments(verb: Verb, task: str, run: Path, out: Path, data: Path) -> list[str]:
    """The command line of a verb; what trains does so in one process, so that a case takes a second."""
    words = verb.arguments(task, run, out, data)
    return [*words, "--data.workers", "0"] if words[:2] == ["train", "quickstart-segmentation"] else words


def pick(rng: random.Random, run: Path, verb: str) -> Path:
    """A file or folder of a run, four times of five one that the verb looks at."""
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() or rng.random() < 0.3]
    looked = [path for path in paths if verb in verbs_for(str(path.relative_to(run)))]
    chosen = looked if looked and rng.random() < 0.8 else paths
    kinds = sorted({kind_of(str(path.relative_to(run))) for path in chosen})
    weights = [3 if kind.endswith(("state.json", ".toml", "metrics.csv")) else 2 for kind in kinds]
    kind = rng.choices(kinds, weights)[0]
    return rng.choice([path for path in chosen if kind_of(str(path.relative_to(run))) == kind])


def change(rng: random.Random, path: Path, outside: Path) -> str:
    """Change a file, and say how."""
    while True:
        chosen = rng.choice(damages.OF_FOLDERS if path.is_dir() else rng.choice(damages.CHANGES))
        if path.is_dir() and chosen is damages.noise:
            shutil.rmtree(path)
        if told := chosen(path, rng, outside):
            return told


def may_differ(verb: str, name: str, before: bytes, path: Path, told: str) -> bool:
    """Whether what was changed is another file, and no damaged one, for this verb."""
    if name.startswith("checkpoints"):
        return "other values" in told or "with a checksum" in told
    if verb.startswith("train") and name in ("recipe.toml", "metrics.csv"):
        return False
    if told == "removed" and verb.startswith(("evaluate", "report")) and name.startswith(("evaluation", "predictions")):
        return True  # a run that was not evaluated yet
    if name == "steps.csv" and told in ("removed", "cut"):
        return True  # a run of before there was one, or one whose next line is being written
    if name == "recipe.toml" and verb in ("plan", "report"):
        return True  # they show what stands there, and an empty one is a recipe of defaults
    if name.endswith(".onnx"):
        return path.is_file() and path.stat().st_size > 100  # it has no checksum
    return damages.alike(before, path)


def tidy(run: Path) -> None:
    """Take away what cannot be read: the test would hang as the command must not."""
    for path in sorted(run.rglob("*")):
        target = path.resolve() if not path.is_symlink() or path.exists() else path
        if (path.is_symlink() and not path.exists()) or (not target.is_file() and not target.is_dir()):
            path.unlink()


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.slow if n < SHORT else pytest.mark.exhaustive) for n in range(CASES)],
)
def test_a_damaged_folder_is_used_rightly_or_said_or_refused(
    forks: Forks, folders: Callable[[str, bool], Path], expected: Callable[[str, str], Expected], data: Path,
    place: Path, rng: random.Random, number: int,
) -> None:  # fmt: skip
    task = rng.choice(TASKS) if number >= SHORT else TASKS[0]  # the folders of the others take longer than the cases
    fitting = {name: verb for name, verb in VERBS.items() if name != "policy" or task == "averaged"}
    name = rng.choices(list(fitting), [verb.weight for verb in fitting.values()])[0]
    verb = VERBS[name]
    run, out, outside = place / "run", place / "out", place / "outside"
    shutil.copytree(folders(task, not verb.stopped), run, symlinks=True)
    for folder in (out, outside, place / "tmp"):
        folder.mkdir()
    (outside / "secret.txt").write_text("a secret\n")
    path = pick(rng, run, name)
    before = path.read_bytes() if path.is_file() else b""
    told = change(rng, path, outside)
    inside = str(path.relative_to(run))
    case = f"[{number}] {task}, {name}: {inside}: {told}"
    others = may_differ(name, inside, before, path, told)
    known = outcomes.digest(place, leave_out := lambda each: each in (run, out, place / "tmp"))

    def go(words: list[str], what: str) -> Done:
        done = forks(*words, folder=place, report=verb.report, environment={"TMPDIR": str(place / "tmp")})
        outcomes.blame(outcomes.manner(done), what, done.said)
        outcomes.blame(outcomes.changed(known, outcomes.digest(place, leave_out)), what, done.said)
        return done

    words = arguments(verb, task, run, out, data)
    done = go(words, case)
    if done.code == 2 and name == "train" and (advice := re.search(r"--resume (previous|last)", done.err)):
        done = go([*words, "--resume", advice[1]], f"{case}, and then as it says, --resume {advice[1]}")
    if done.code == 2 or others:
        return
    wanted = expected(task, name)
    new = outcomes.lines_of(done.said + log_of(run), place) - wanted.lines
    if outcomes.names_one(new, outcomes.names_of(path, run)):
        return
    tidy(run)
    try:
        result = verb.result(task, run, out, done)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        result = repr(error)
    told = difference(wanted.result, result)
    if name.startswith("train") and inside.startswith("checkpoints/best"):  # which it does not read
        told = told if told and not told.startswith("best") else ""
    outcomes.blame(f"silent: {told}" if told else "", case, done.said)


def log_of(run: Path) -> str:
    """The log of a run, where it can be read."""
    path = run / "log.txt"
    return path.read_text(errors="replace") if path.is_file() and os.stat(path).st_size < 1 << 20 else ""


def difference(one: Any, other: Any) -> str:
    """Where two results differ first; empty where they are equal."""
    if one == other:
        return ""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return next(f"{key}: {difference(one[key], other[key])}" for key in one if one[key] != other[key])
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return next(difference(a, b) for a, b in zip(one, other, strict=True) if a != b)
    return f"{str(one)[:150]} and {str(other)[:150]}"
