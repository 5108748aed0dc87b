"""What the chaos tests share: a process that forks, data in files, and one run of each case a session."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_runs
from forks import Done, Fate, Forks
from outcomes import SEED

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


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The folder of a case, which goes when it is over: hundreds of them would fill a disk."""
    folder = tmp_path / "case"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
