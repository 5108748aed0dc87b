"""What the texts tell a reader to type works: Python blocks run, commands parse, recipes load, links lead somewhere."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import expand
from torch import nn

from anysize.cli import build_app, parse_settings
from anysize.recipe import Recipe, load_recipe, override
from anysize.recipes import recipe_names
from anysize.sizes.schedule import build_schedule
from anysize.training.optimizer import RegimeOptimizer

ROOT = Path(__file__).parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
IDS = [path.relative_to(ROOT).as_posix() for path in TEXTS]
texts = pytest.mark.parametrize("path", TEXTS, ids=IDS)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """The commands of a text's sh blocks as lists of words, without comments; those in a loop once for each value."""
    lines = expand("\n".join(blocks(path, "sh")))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def by_length(path: Path):
    """The examples of most texts train networks, which takes tens of seconds."""
    return pytest.param(path, id=path.stem, marks=() if path.stem == "online_norm" else pytest.mark.slow)


@pytest.mark.parametrize("path", [by_length(path) for path in TEXTS if blocks(path, "python")])
def test_python_examples_run(path, tmp_path):
    """The blocks of a text run one after the other in a fresh interpreter, in an empty folder."""
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks(path, "python")), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@texts
def test_commands_are_ones_that_the_command_line_takes(path):
    app = build_app()
    for words in commands(path):
        if words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
        if words[0] != "anysize" or words[1].startswith("-"):
            continue
        assert words[1] in [name for name in app if not name.startswith("-")], words
        _, bound, unused = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert not unused, words
        recipe = Recipe()
        if words[1] in ("train", "plan") and not words[2].endswith(".toml") and not words[2].startswith("runs/"):
            recipe = load_recipe(words[2])
        if words[1] == "recipes" and len(words) > 2:
            assert words[3] in recipe_names(bases=True), words
        if "settings" in bound.signature.parameters:
            positional = [name for name, p in bound.signature.parameters.items() if p.kind == p.POSITIONAL_ONLY]
            rest = bound.args[len(positional) :]
            if words[1:3] in (["data", "export"], ["data", "pack"], ["data", "unpack"]):
                rest = rest[1:]  # the folder
            override(recipe, parse_settings(rest))


@texts
def test_recipes_in_the_texts_load(path, tmp_path):
    for i, block in enumerate(blocks(path, "toml")):
        (tmp_path / f"{i}.toml").write_text(block, encoding="utf-8")
        recipe = load_recipe(str(tmp_path / f"{i}.toml"))
        build_schedule(recipe.sizes, base=32, epochs=recipe.training.epochs)
        RegimeOptimizer(nn.Linear(2, 2), recipe.optimizer)


@texts
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (path.parent / target).exists(), target


def test_page_of_settings_is_what_the_settings_say():
    spec = importlib.util.spec_from_file_location("make_settings_doc", ROOT / "tools" / "make_settings_doc.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.settings_page(), "run python tools/make_settings_doc.py"
