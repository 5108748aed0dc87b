"""Random recipes and command lines, of settings with huge, tiny, negative and odd values: each works, or ends in one
sentence.

The cases follow from ANYSIZE_CHAOS_SEED (default 0) on, ANYSIZE_CHAOS_CASES of each test; a case that fails says how
it is repeated. `make test-slow` has a few, `make test-all` a thousand.
"""

import os
import random
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

import odd_recipes
import pytest

from anysize.cli import _main
from anysize.experiment.train import train

A_FEW = pytest.param(0, marks=pytest.mark.slow)
BLOCKS = [A_FEW, *(pytest.param(block, marks=pytest.mark.exhaustive) for block in range(1, 10))]
"""Blocks of seeds, so that several processes share them."""


def seeds(block: int, few: int, many: int) -> list[int]:
    return [10_000 * block + seed for seed in odd_recipes.chaos_seeds(many if block else few)]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_random_recipe_is_planned_or_says_one_sentence(block: int, tmp_path: Path) -> None:
    taken = 0
    for seed in seeds(block, 16, 60):
        case = odd_recipes.odd_overrides(random.Random(seed))
        with odd_recipes.told(seed, case):
            recipe = odd_recipes.loads(case)
            if recipe is not None:
                odd_recipes.reads_back(recipe, tmp_path)
                taken += odd_recipes.plans(recipe)
    assert taken or "ANYSIZE_CHAOS_CASES" in os.environ  # else the cases ask nothing


@pytest.mark.parametrize("block", BLOCKS)
def test_a_random_recipe_trains_or_says_one_sentence(block: int, tmp_path: Path) -> None:
    for seed in seeds(block, 3, 10):
        case = odd_recipes.odd_overrides(random.Random(seed))
        with odd_recipes.told(seed, case):
            odd_recipes.trains(case, tmp_path / str(seed))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("quickstart", odd_recipes.KEPT, run=tmp_path_factory.mktemp("chaos") / "run")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_random_command_line_works_or_says_one_sentence(
    block: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def answers(line: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["anysize", *line])
        cast(TextIOWrapper, sys.stderr).reconfigure(errors="backslashreplace")  # as Python's own is, and not pytest's
        code: Any = 0
        try:
            _main(sys.argv[1:])
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr().err
        assert code in (0, 2), (code, said)
        assert "Traceback" not in said
        if code and not said.startswith("\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}"):  # of cyclopts: no such option
            assert said.startswith("anysize: ")
            odd_recipes.says_one_sentence(ValueError(said.removesuffix("\n")))

    for seed in seeds(block, 16, 60):
        line = odd_recipes.odd_command_line(random.Random(seed), [str(run), "nowhere"])
        with odd_recipes.told(seed, line):
            answers(line)
