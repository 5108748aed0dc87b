"""A recipe: what it takes, what it refuses and how it says so."""

import tomllib
from pathlib import Path

import pytest

from anysize.recipe import Recipe, differences, documented_settings, dump, explain, load_recipe, override, to_dict
from anysize.recipes import read_header, recipe_names
from anysize.registry import UserError
from anysize.training.regime import parse_schedule


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_the_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(
        "quickstart",
        {
            "sizes.phases": '[{"epoch": 2, "mix": "B+"}, {"epoch": 4, "size": 28}]',
            "sizes.weights": '{"16": 0.5, "32": 0.5}',
            "optimizer.lr": "0:0.1:linear 5:0.8 30:0.08",
            "model.options.dropout": "0.25",
            "data.mean": "0.5",
        },
    )
    assert load_recipe(write(tmp_path, dump(recipe))) == recipe
    assert recipe.model.options == {"dropout": 0.25}
    assert recipe.data.mean == (0.5,)
    assert recipe.sizes.phases[1].size == 28


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trainig]\nepochs = 3", "unknown section 'trainig': did you mean 'training'?"),
        ("[training]\nepoch = 3", "[training] unknown key 'epoch': did you mean 'epochs'?"),
        ("[training]\nepochs = 0", "training.epochs is 0; expected from 1 to 1,000,000"),
        ("[training]\nepochs = 'ten'", "training.epochs is 'ten' (str); expected a whole number"),
        ("[training]\nepochs = 2.5", "training.epochs is 2.5 (float); expected a whole number"),
        ("[training]\nequal_flops = 1", "training.equal_flops is 1 (int); expected true or false"),
        ("[sizes]\nmix = 'B++'", "sizes.mix is 'B++': did you mean 'B+D+'?"),
        ("[augment]\nscale = [0.1]", "augment.scale is [0.1]; expected 2 values"),
        ("[optimizer]\nlr = [{ epoch = 0, valu = 1 }]", "optimizer.lr: received the point {'epoch': 0, 'valu': 1}"),
        ("[optimizer]\nlr = [{ epoch = 3, value = 1.0 }]", "expected the first at 0"),
        ("[optimizer]\nlr = [{ value = 1.0, ramp = 'cosin' }]", "unknown ramp 'cosin': did you mean 'cosine'?"),
        ("[[sizes.phases]]\nepok = 1", "sizes.phases[0]] unknown key 'epok': did you mean 'epoch'?"),
        ("training = 3", "[training] is 3; expected a table"),
        ("epochs = ", "not a TOML file"),
    ],
)
def test_a_bad_recipe_is_one_sentence_that_names_file_key_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as raised:
        load_recipe(path)
    assert said in str(raised.value)
    assert path in str(raised.value)
    assert "\n" not in str(raised.value).replace("not a TOML file", "")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.epoch", "3", "did you mean 'training.epochs'?"),
        ("trainin.epochs", "3", "did you mean 'training.epochs'?"),
        ("training", "3", "is not a setting"),
        ("training.epochs.more", "3", "is not a setting"),
        ("training.epochs", "many", "expected a whole number"),
        ("training.compile", "yes", "expected true or false"),
        ("training.precision", "bfloat15", "did you mean 'bfloat16'?"),
    ],
)
def test_a_bad_override_names_its_option(key: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--{key}") as raised:
        override(Recipe(), {key: value})
    assert said in str(raised.value)


def test_text_and_values_override_alike() -> None:
    text = override(Recipe(), {"training.epochs": "3", "augment.scale": "0.2,1", "training.compile": "true"})
    values = override(Recipe(), {"training.epochs": 3, "augment.scale": (0.2, 1.0), "training.compile": True})
    assert text == values
    assert set(differences(text, Recipe())) == {"training.epochs", "augment.scale", "training.compile"}


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")
    with pytest.raises(UserError, match=r"nowhere\.toml does not exist"):
        load_recipe("nowhere.toml")


def test_every_setting_is_documented() -> None:
    rows = documented_settings()
    assert len(rows) > 60
    assert all(len(doc) > 8 for _, _, _, doc in rows), [row[0] for row in rows if len(row[3]) <= 8]


def test_a_header_is_read_as_the_parts_it_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# A title.\n#   anysize train mine\n# Published: 76.4% at 160 px\n#   (the paper).\n# Measured: -\n"
        "# Cost: 2 PFLOPs.\n# Written for: 8 devices.\n\n[data]\nname = 'mnist'\n",
    )
    header = read_header(path)
    assert header.title == "A title."
    assert header.command == "anysize train mine"
    assert header.published == "76.4% at 160 px (the paper)."
    assert (header.cost, header.written_for) == ("2 PFLOPs.", "8 devices.")
    assert "quickstart" in recipe_names()


def test_an_extending_recipe_holds_what_differs(tmp_path: Path) -> None:
    """Tables are merged key by key, also a setting that is a table; values, lists and schedules replace."""
    root = "[data]\nmean = [0.1, 0.2, 0.3]\n[model]\nname = 'resnet8'\noptions = {a = 1, b = 1}\n"
    write(tmp_path, root + "[optimizer]\nlr = [{epoch = 0, value = 1.0}, {epoch = 2, value = 0.5}]", "root.toml")
    write(tmp_path, "extends = 'root.toml'\n[model]\noptions = {b = 2}\n[training]\nepochs = 7", "middle.toml")
    name = write(tmp_path, "extends = 'middle.toml'\n[data]\nmean = [0.5]\n[optimizer]\nlr = 0.1")
    recipe = load_recipe(name, {"training.seed": 3})
    assert (recipe.model.name, recipe.model.options, recipe.data.mean) == ("resnet8", {"a": 1, "b": 2}, (0.5,))
    assert (recipe.training.epochs, recipe.training.seed, recipe.optimizer.lr) == (7, 3, parse_schedule(0.1))
    assert "extends" not in dump(recipe)
    assert load_recipe(write(tmp_path, "extends = 'mnist'", "named.toml")) == load_recipe("mnist")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends = 'elastic/coco-bass'", "mine.toml: extends: unknown recipe 'elastic/coco-bass': did you mean 'ela"),
        ("extends = 'nowhere.toml'", "nowhere.toml does not exist"),
        ("extends = 3", "mine.toml: extends is 3; expected the name of a recipe or the path of a TOML file"),
        ("extends = 'mine.toml'", "mine.toml; take it out of one of these files"),
        ("extends = 'other.toml'", "mine.toml > "),
        ("extends = 'wrong.toml'", "wrong.toml: [model] unknown key 'nam': did you mean 'name'?"),
        ("extends = 'broken.toml'", "broken.toml: not a TOML file"),
    ],
)
def test_what_cannot_be_extended_is_one_sentence_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, "extends = 'mine.toml'", "other.toml")
    write(tmp_path, "[model]\nnam = 'resnet8'", "wrong.toml")
    write(tmp_path, "model", "broken.toml")
    with pytest.raises(UserError) as raised:
        load_recipe(write(tmp_path, text))
    assert said in str(raised.value)


@pytest.mark.parametrize("name", recipe_names(bases=True))
def test_a_shown_recipe_is_the_resolved_one_and_names_the_origin_of_each_value(name: str, tmp_path: Path) -> None:
    shown, resolved, defaults = explain(name), to_dict(load_recipe(name)), to_dict(Recipe())
    assert tomllib.loads(shown) == resolved
    assert load_recipe(write(tmp_path, shown)) == load_recipe(name)
    assert shown.count("  # ") == sum(map(len, resolved.values()))
    section = ""
    for line in shown.splitlines():
        section = line[1:-1] if line.startswith("[") else section
        if line.endswith("# default"):
            key = line.split(" ")[0]
            assert resolved[section][key] == defaults[section][key]


def test_bases_are_not_listed_to_train() -> None:
    bases = set(recipe_names(bases=True)) - set(recipe_names())
    assert bases
    assert all(name.endswith("-base") for name in bases)
    with pytest.raises(UserError, match="choose one of") as raised:
        load_recipe("zzz")
    assert not any(base in str(raised.value) for base in bases)
