"""docs/coming_from.md: each of our commands is one that the command line takes, says what theirs says, and runs."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch.distributed.run import get_args_parser
from torchvision_flags import FLAGS, expected, parse, rates

import anysize
from anysize.cli import build_app, parse_settings
from anysize.data.catalog import dataset_info
from anysize.experiment import build
from anysize.models.weights.addresses import address_at
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, documented_settings, load_recipe, override, to_dict
from anysize.training.optimizer import regime_at, stretch

PAGE = (Path(__file__).parents[1] / "docs/coming_from.md").read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Command:
    """One of our commands: the words behind `anysize`, and how many processes and machines it is for."""

    words: tuple[str, ...]
    launcher: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return self.words[0]

    @property
    def devices(self) -> int:
        given = dict(word.split("=", 1) for word in self.launcher if "=" in word)
        return int(given.get("--nproc-per-node", 1)) * int(given.get("--nnodes", 1))


def expand(script: str) -> list[str]:
    """The lines of a shell script with `for` written out, which are what it does."""
    found, lines = [], script.replace("\\\n", " ").splitlines()
    while lines:
        line = lines.pop(0).strip()
        if loop := re.fullmatch(r"for (\w+) in (.*); do", line):
            end = next(i for i, inner in enumerate(lines) if inner.strip() == "done")
            body, lines = lines[:end], lines[end + 1 :]
            for value in loop[2].split():
                found += [re.sub(rf"\$(\{{{loop[1]}\}}|{loop[1]}\b)", value, inner.strip()) for inner in body]
        elif line:
            found.append(line)
    return found


def read(script: str) -> list[Command]:
    commands = []
    for line in expand(script):
        words = shlex.split(line, comments=True)
        if words[0] == "torchrun":
            known = get_args_parser().parse_args(words[1:])  # refuses what it does not know
            assert (known.module, known.training_script) == (True, "anysize"), line
            rest = known.training_script_args
            commands.append(Command(tuple(rest), tuple(words[1 : -len(rest) - 2])))
        else:
            assert words[0] == "anysize", line
            commands.append(Command(tuple(words[1:])))
    return commands


BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [command for language, text in BLOCKS if language == "sh" for command in read(text)]
TRAININGS = [command for command in COMMANDS if command.verb == "train"]


def resolve(command: Command) -> Recipe:
    """The recipe that a command trains, or that an import writes into the run folder."""
    app = build_app()
    _, bound, unused = app.parse_args(list(command.words), exit_on_error=False, print_error=False)
    assert not unused, command
    name, *rest = bound.args
    return override(load_recipe(name) if command.verb == "train" else Recipe(), parse_settings(tuple(rest)))


def test_every_command_is_one_that_the_command_line_takes() -> None:
    """Recipe, options and settings are known, and so is what is imported; what is evaluated was made before."""
    made = set()
    for command in COMMANDS:
        resolve(command)
        if "--out" in command.words:
            made.add(command.words[command.words.index("--out") + 1])
        if command.verb == "evaluate":
            assert command.words[1] in made, command
        if command.verb == "import" and command.words[1].startswith("http://ai2"):
            assert address_at(command.words[1]) is not None, command
    assert {command.verb for command in COMMANDS} == {"train", "evaluate", "import"}
    assert len(TRAININGS) > 60


def test_each_of_their_commands_has_ours_behind_it() -> None:
    """Their blocks hold the commands of the READMEs, and no block of theirs is without one of ours."""
    languages = [language for language, _ in BLOCKS]
    assert all(after == "sh" for before, after in zip(languages, languages[1:], strict=False) if before == "text")
    theirs = "\n".join(text for language, text in BLOCKS if language == "text")
    for script in ("main.py", "evaluate.py", "cifar10_main.py", "cifar100_main.py", "imagenet_main.py", "classify.py",
                   "docker_classify.py", "multilabel_classify.py", "segment.py", "train.py"):  # fmt: skip
        assert re.search(rf"\b{re.escape(script)}\b", theirs), script
    for norm in ("online", "batch", "layer", "instance", "group"):
        for name in ("cifar10", "cifar100"):
            assert f"{name}_main.py /path/to/data --model-dir /path/to/cache/model --norm-mode {norm}" in theirs


def test_every_flag_of_torchvision_s_script_is_in_the_table_with_settings_that_there_are() -> None:
    rows = re.findall(r"^\| (`-.*?) \| (.*) \|$", PAGE.split("### Every flag of train.py")[1], re.MULTILINE)
    told = {flag for left, _ in rows for flag in re.findall(r"`--([\w-]+)`", left)}
    assert told == {*FLAGS, "wd"}
    settings = {row[0] for row in documented_settings()}
    options = {"--device", "--out", "--resume", "--pretrained"}
    named = re.findall(r"(--[\w.]+)", " ".join(right for _, right in rows))
    assert len(named) > 45
    for option in named:
        parts = option.removeprefix("--").split(".")
        assert option in options or ".".join(parts[:2]) in settings, option


def pairs() -> list[Any]:
    """Each command of torchvision's for training with the commands of ours behind it."""
    found = []
    for (language, theirs), (_, ours) in zip(BLOCKS, BLOCKS[1:], strict=False):
        lines = [line for line in theirs.splitlines() if " train.py " in line and "--test-only" not in line]
        if language == "text" and lines:
            words = shlex.split(lines[-1])
            flags = words[words.index("train.py") + 1 :]
            nodes = 4 if "--n_nodes=4" in words else 1
            found += [pytest.param(flags, nodes, command, id=" ".join(command.words[1:5])) for command in read(ours)]
    return found


@pytest.mark.parametrize(("words", "nodes", "command"), pairs())
def test_ours_trains_what_torchvision_s_command_says(words: list[str], nodes: int, command: Command) -> None:
    flags, recipe = parse(words), resolve(command)
    if not flags.model.startswith("$"):
        assert recipe.model.name == flags.model
    flags.model = recipe.model.name
    own = {f"{section}.{key}": value for section, part in to_dict(recipe).items() for key, value in part.items()}
    assert {key: own[key] for key in expected(flags)} == expected(flags)
    assert command.devices == 8 * nodes
    optimizer = stretch(recipe.optimizer, recipe.training.epochs)
    total = command.devices * recipe.training.batch_size
    ours = [regime_at(optimizer, epoch, total)[1]["lr"] for epoch in range(flags.epochs)]
    assert ours == pytest.approx(rates(flags), rel=1e-6)
    info = dataset_info(recipe.data)
    preprocessing = dataclasses.replace(
        build.build_preprocessing(recipe.data, info, build.base_size(recipe)), crop_ratio=recipe.data.crop_ratio or 0.875
    )
    assert preprocessing.resize_side(flags.val_crop_size) == flags.val_resize_size
    assert (recipe.data.interpolation or preprocessing.interpolation) == flags.interpolation
    assert build.build_plan(recipe, 1000).schedule.sizes(flags.epochs) == {flags.train_crop_size}
