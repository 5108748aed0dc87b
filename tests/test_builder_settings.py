"""A builder of one's own may carry settings for its training: what they hold against, and where they are told."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anysize
from anysize.recipe import explain, load_recipe, origins
from anysize.registry import UserError

BUILDER = """
from torch import nn

def build(num_classes, in_channels, width=4):
    features = nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(width, num_classes))

build.recipe = {settings}
"""
SETTINGS = {
    "optimizer.lr": "0:0.5 1:0.25",
    "optimizer.weight-decay": 0.5,
    "sizes.phases": [{"epoch": 1, "size": 20}],
    "model.options.width": 6,
    "training.epochs": 2,
}


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """The recipe files here name the builder, and are the user's own."""
    with anysize.trusting_code():
        yield


@pytest.fixture
def builder(tmp_path: Path) -> str:
    return write(tmp_path, SETTINGS)


def write(folder: Path, settings: object) -> str:
    (folder / "nets.py").write_text(BUILDER.replace("{settings}", repr(settings)))
    return f"{folder / 'nets.py'}:build"


def recipe_file(folder: Path, builder: str, rest: str = "") -> str:
    (folder / "mine.toml").write_text(f"[model]\nname = '{builder}'\n{rest}")
    return str(folder / "mine.toml")


def test_defaults_hold_less_than_the_builder_s_and_these_less_than_files_and_overrides(
    tmp_path: Path, builder: str
) -> None:
    name = recipe_file(tmp_path, builder, "options = {}\n[optimizer]\nlr = 0.125\n")
    recipe = load_recipe(name, {"training.epochs": "3"})
    assert recipe.optimizer.lr[0].value == 0.125
    assert recipe.training.epochs == 3
    assert recipe.optimizer.weight_decay[0].value == 0.5
    assert (recipe.sizes.phases[0].epoch, recipe.sizes.phases[0].size) == (1, 20)
    assert recipe.model.options == {"width": 6}
    told = origins(name, {"training.epochs": "3"})
    assert told["optimizer.lr"] == told["model.name"] == name
    assert told["optimizer.weight_decay"] == told["sizes.phases"] == builder
    assert (told["training.epochs"], told["optimizer.momentum"]) == ("override", "default")
    shown = explain(name)
    assert re.search(rf"^weight_decay = 0.5 +# {re.escape(builder)}$", shown, re.MULTILINE)
    assert re.search(rf"^epochs = 2 +# {re.escape(builder)}$", shown, re.MULTILINE)


def test_a_builder_that_is_named_on_the_command_line_counts(builder: str) -> None:
    recipe = load_recipe("quickstart", {"model.name": builder})
    assert recipe.optimizer.weight_decay == load_recipe("quickstart").optimizer.weight_decay  # the recipe's
    assert recipe.sizes.phases[0].size == 20
    cost = anysize.plan("quickstart", {"model.name": builder, "sizes.mix": "fixed", "training.epochs": 2})
    assert [part.size for part in cost.cost.sizes] == [28, 20]


def test_the_run_s_recipe_says_where_values_are_from_and_needs_the_builder_no_more(
    tmp_path: Path, builder: str
) -> None:
    name = recipe_file(tmp_path, builder, "[data]\nlimit = 40\n")
    overrides = {"training.batch_size": 20, "evaluation.pictures": 0}
    run = anysize.train(name, overrides, run=tmp_path / "run")
    text = (run / "recipe.toml").read_text()
    for line, origin in (
        ("epochs = 2", builder), ("limit = 40", name), ("batch_size = 20", "override"), ("seed = 0", "default")
    ):  # fmt: skip
        assert re.search(rf"^{line} +# {re.escape(origin)}$", text, re.MULTILINE), line
    resolved = load_recipe(name, overrides)
    write(tmp_path, {"optimizer.lr": 9.0, "training.epochs": 50})
    assert load_recipe(str(run / "recipe.toml")) == resolved
    (tmp_path / "nets.py").unlink()
    assert load_recipe(str(run / "recipe.toml")) == resolved


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer.lrr": 0.1}, "its recipe: optimizer.lrr: unknown setting: did you mean 'optimizer.lr'?"),
        ({"training.epochs": "many"}, "its recipe: training.epochs is 'many' (str); expected a whole number"),
        ({7: 1}, "its recipe: 7: unknown setting"),
        (["optimizer.lr"], "its recipe is ['optimizer.lr']; expected settings such as {\"optimizer.lr\": 0.1}"),
    ],
)
def test_what_is_no_setting_is_told_with_the_builder_s_file(tmp_path: Path, settings: object, said: str) -> None:
    builder = write(tmp_path, settings)
    with pytest.raises(UserError) as raised:
        load_recipe(recipe_file(tmp_path, builder))
    assert str(raised.value).startswith(f"{builder}: {said}")


def test_a_builder_without_settings_or_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def build(num_classes, in_channels): ...\n")
    for builder in (f"{tmp_path / 'plain.py'}:build", f"{tmp_path / 'nowhere.py'}:build", "timm:resnet18"):
        recipe = load_recipe(recipe_file(tmp_path, builder))
        assert (recipe.model.name, recipe.training.epochs) == (builder, 90)
