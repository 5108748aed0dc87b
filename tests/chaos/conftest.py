"""What the chaos tests share: a process that forks, data in files, and one run of each case a session."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_runs
from forks import Done, Fate, Forks
from outcomes import SEED
from verbs import OTHER, SIZE

import anysize


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance that is of the seed and the name of the test, whatever else runs."""
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data sets; `forks` writes them."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Forks]:
    """Runs command lines, in an environment of their own."""
    home = tmp_path_factory.mktemp("home")
    root = Path(anysize.__file__).parent.parent
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anysize"  # with kernels that are compiled
    environment = {"PYTHONPATH": str(root), "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    environment["ANYSIZE_CACHE"] = os.environ.get("ANYSIZE_CACHE", str(cache))
    with Forks(environment, home / "forks.log") as made:
        tiny_runs.make_data(made, data)
        yield made


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, forks: Forks, data: Path) -> Callable[[str], tuple[Path, Done]]:
    """The unbroken run of a case, and how its command ended; trained once a session: to be read alone."""
    made: dict[str, tuple[Path, Done]] = {}

    def trained(case: str) -> tuple[Path, Done]:
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            run = folder / "run"
            done = forks(*tiny_runs.command(case, run, data), folder=folder, fate=Fate(below=str(run)))
            assert done.code == 0, done.said
            made[case] = run, done
        return made[case]

    return trained


@pytest.fixture(scope="session")
def folders(
    forks: Forks, whole: Callable[[str], tuple[Path, Done]], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool], Path]:
    """A run of a task that all verbs have added their files to, or one that was stopped in the middle."""
    made: dict[tuple[str, bool], Path] = {}

    def finished(task: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{task}-finished")
        run = shutil.copytree(whole(task)[0], folder / "run")
        for command in (
            ["evaluate", str(run), "--sizes", SIZE[task]],
            ["calibrate", str(run), "--size", OTHER[task]],
            ["quantize", str(run), "--no-onnx", "--no-compare"],
            ["export", str(run)],
            ["report", str(run)],
        ):
            done = forks(*command, folder=folder, report=command[0] == "report")
            assert done.code == 0, done.said
        return run

    def stopped(task: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{task}-stopped")
        run = folder / "run"
        writes = whole(task)[1].writes
        fate = Fate(at_write=int(0.6 * writes), number=signal.SIGTERM, below=str(run))
        done = forks(*tiny_runs.command(task, run, data, data__workers=0), folder=folder, fate=fate)
        assert done.code == 130, done.said
        return run

    def folder(task: str, ended: bool) -> Path:
        if (task, ended) not in made:
            made[task, ended] = finished(task) if ended else stopped(task)
        return made[task, ended]

    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The folder of a case, which goes when it is over: hundreds of them would fill a disk."""
    folder = tmp_path / "case"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
