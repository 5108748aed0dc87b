"""Settings by the names that they had before: taken everywhere, and said to be old, until when."""

import logging
from pathlib import Path

import pytest

import anysize
from anysize.recipe import Recipe, documented_settings, from_dict, load_recipe, origins, override, to_dict
from anysize.registry import UserError
from anysize.renamed import RENAMED, Renamed, say_deprecated
from anysize.reports.schema import flat_settings

OLD = {"training.passes": Renamed("training.epochs", "9.0"), "network.arguments": Renamed("model.options", "9.0")}
TOML = "[training]\npasses = 3\n\n[network]\narguments = { depth = 20 }\n"


@pytest.fixture(autouse=True)
def _renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in OLD.items():
        monkeypatch.setitem(RENAMED, name, found)
    say_deprecated.cache_clear()


def test_a_recipe_with_old_names_is_read_and_says_until_when(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.toml"
    path.write_text(TOML)
    with caplog.at_level(logging.WARNING):
        recipe, _ = load_recipe(str(path)), load_recipe(str(path))
    assert (recipe.training.epochs, recipe.model.options) == (3, {"depth": 20})
    said = f"{path}: training.passes is called training.epochs now; the old name is taken until anysize 9.0"
    assert caplog.messages.count(said) == 1
    assert origins(str(path))["training.epochs"] == str(path)
    assert flat_settings(TOML) == {"training.epochs": 3, "model.options.depth": 20}


def test_old_names_on_the_command_line_and_in_checkpoints(caplog: pytest.LogCaptureFixture) -> None:
    recipe = override(Recipe(), {"training.passes": "4", "network.arguments.depth": "8"})
    assert (recipe.training.epochs, recipe.model.options) == (4, {"depth": 8})
    assert "--network.arguments is called model.options now" in caplog.text
    tree = to_dict(Recipe())
    tree["training"]["passes"] = tree["training"].pop("epochs")
    assert from_dict(tree, "state.json") == Recipe()
    with pytest.raises(UserError, match=r"state\.json: training\.passes and training\.epochs are one setting"):
        from_dict(tree | {"training": tree["training"] | {"epochs": 1}}, "state.json")
    with pytest.raises(UserError, match="unknown setting"):
        override(Recipe(), {"training.passed": 1})


def test_no_old_name_is_kept_longer_than_it_was_said() -> None:
    known = {row[0] for row in documented_settings()}
    version = [int(part) for part in anysize.__version__.split(".")[:2]]
    for old, found in RENAMED.items():
        assert old not in known
        assert found.name in known
        assert [int(part) for part in found.until.split(".")[:2]] > version, (
            f"{old} was to be taken until {found.until}"
        )
