"""What the texts tell a reader to type works: Python blocks run, commands parse, recipes load, links lead somewhere."""

import functools
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import cyclopts
import pytest
from page_commands import expand, run
from torch import nn

import anysize
from anysize.cli import build_app, parse_settings
from anysize.recipe import Recipe, documented_settings, load_recipe, override
from anysize.recipes import recipe_names
from anysize.sizes.schedule import build_schedule
from anysize.training.optimizer import RegimeOptimizer

ROOT = Path(__file__).parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")])
IDS = [path.relative_to(ROOT).as_posix() for path in TEXTS]
texts = pytest.mark.parametrize("path", TEXTS, ids=IDS)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
command_line = functools.cache(build_app)
known_settings = functools.cache(lambda: {row[0] for row in documented_settings()})
FILES = (".csv", ".html", ".json", ".onnx", ".safetensors", ".toml", ".txt", ".yaml", ".yml")
PROGRAMS = {"anysize", "aws", "make", "pip", "python", "python3", "source", "srun", "torchrun"}


def read(path: Path) -> str:
    """A text in Markdown; a notebook's cells of code as blocks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(path), re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.MULTILINE | re.DOTALL)


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
    app = command_line()
    for words in commands(path):
        assert words[0] in PROGRAMS, words
        if words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
        if words[0] == "pip":
            extras = [name for group in re.findall(r"\[(.*?)\]", " ".join(words)) for name in group.split(",")]
            assert set(extras) <= PROJECT["optional-dependencies"].keys(), words
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        if words[0] in ("torchrun", "srun") and "anysize" in words:
            words = words[words.index("anysize") :]
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
def test_what_a_sentence_names_is_there(path):
    """Commands with their options, settings, targets of make, and files of the repository."""
    app, settings = command_line(), known_settings()
    sections = "|".join(sorted({name.partition(".")[0] for name in settings}))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(path)):
        text = " ".join(span.split())
        for name, ending in re.findall(rf"(?:^|--)((?:{sections})\.[\w-]+)(\S*)", text):
            if ending[:1] not in ("(", ".") and not name.endswith((*FILES, "_")):
                assert name.replace("-", "_") in settings, text
        if text.startswith("anysize ") and not text.startswith("anysize -"):
            words = shlex.split(re.sub(r"\|\S+", "", text))[1:]  # of "onnx|pt2" the first
            assert words[0] in [name for name in app if not name.startswith("-")], text
            try:
                _, _, unused = app.parse_args(words, exit_on_error=False, print_error=False)
                assert not unused, text
            except cyclopts.MissingArgumentError:
                pass  # a sentence may leave out what is trained
        if text.startswith("make "):
            assert re.search(rf"^{text.split()[1]}:", makefile, re.MULTILINE), text
        for name in re.findall(r"^(?:benchmarks|docs|src|tests|tools)/[\w./*-]+", text):
            assert [*ROOT.glob(name.rstrip("/."))], text


@texts
def test_recipes_in_the_texts_load(path, tmp_path):
    for i, block in enumerate(blocks(path, "toml")):
        (tmp_path / f"{i}.toml").write_text(block, encoding="utf-8")
        recipe = load_recipe(str(tmp_path / f"{i}.toml"))
        build_schedule(recipe.sizes, base=32, epochs=recipe.training.epochs)
        RegimeOptimizer(nn.Linear(2, 2), recipe.optimizer)


def anchors(path: Path) -> set[str]:
    """What a link can name behind `#`, as code hosts make it of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found.add(next(each for each in (name, *(f"{name}-{i}" for i in range(1, 99))) if each not in found))
    return found


@texts
def test_links_lead_to_files_and_headings(path):
    for words, target in re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", prose(path)):
        assert words, f"{target} has no words, which a screen reader would read"
        if not target.startswith(("https://", "http://")):
            file, _, anchor = target.partition("#")
            place = path.parent / file if file else path
            assert place.exists(), target
            assert not anchor or anchor in anchors(place), target


def test_index_leads_to_each_page_once():
    index = ROOT / "docs/index.md"
    listed = re.findall(r"^- \[.*?\]\((.+?)\)", index.read_text(encoding="utf-8"), re.MULTILINE)
    pages = [path.relative_to(index.parent).as_posix() for path in ROOT.glob("docs/**/*.md") if path != index]
    assert sorted(listed) == sorted(pages)


def test_reference_has_each_public_name_once():
    listed = re.findall(r"^- `anysize\.(\w+)`$", read(ROOT / "docs/reference.md"), re.MULTILINE)
    assert sorted(listed) == sorted(name for name in anysize.__all__ if name != "__version__")


# What makes the commands of the tutorial short; the page's own values are replaced where it has some.
SHORT = {
    "train": {"--training.epochs": "1", "--data.limit": "40"},
    "evaluate": {"--sizes": "24", "--data.limit": "20", "--evaluation.calibration_images": "20"},
    "lr-find": {"--steps": "10"},
    "quantize": {"--calibration-batches": "1"},
}


@pytest.mark.slow
@pytest.mark.report
def test_tutorial_runs_from_its_first_line_to_its_last(tmp_path, monkeypatch):
    """In one folder and in the order of the page, as a reader types it."""
    monkeypatch.chdir(tmp_path)
    page = read(ROOT / "docs/guides/from-zero.md")
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(block, {})
            continue
        for line in expand(block):
            program, *words = shlex.split(line, comments=True)
            if program != "anysize":
                continue  # the installation
            for option, value in SHORT.get(words[0], {}).items():
                if option in words:
                    words[words.index(option) + 1] = value
                else:
                    words += [option, value]
            run(words, report="--fast-dev-run" in words)  # which looks whether there is one
    for made in ("seen.html", "comparison.html", "runs/mixed/int8.csv", "runs/mixed/export/model.onnx"):
        assert Path(made).stat().st_size > 0, made
    for table in ("predicted", "predicted-int8"):
        assert Path(table, "predictions.csv").read_text().count("\n") == 201


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    tool = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_gallery_shows_the_pictures_that_its_tool_makes():
    tool = load_tool("make_gallery")
    shown = re.findall(r"\(images/gallery/(.+?)\.webp\)", read(tool.PAGE))
    made = [path.stem for path in tool.IMAGES.iterdir()]
    assert sorted(shown) == sorted(made) == sorted(tool.PICTURES)
    assert sum(path.stat().st_size for path in tool.IMAGES.iterdir()) < tool.MOST_BYTES
    commands = tool.commands()
    files = {"--out", "--html", "watch"}  # of these the last word is what is opened
    runs = {words[-1] if files & {*words} else f"{words[-1]}/report.html" for words in commands}
    for picture in tool.PICTURES.values():
        assert {picture.page, picture.page.removesuffix(".html")} & runs, picture


def test_page_of_settings_is_what_the_settings_say():
    tool = load_tool("make_settings_doc")
    assert tool.PAGE.read_text(encoding="utf-8") == tool.settings_page(), "run python tools/make_settings_doc.py"
