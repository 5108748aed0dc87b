"""A recipe: what it takes, what it refuses and how it says so."""

from pathlib import Path

import pytest

from anysize.recipe import (
    Recipe,
    differences,
    documented_settings,
    dump,
    load_recipe,
    override,
    read_header,
    recipe_names,
)
from anysize.registry import UserError


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
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
        ("[training]\nepochs = 0", "training.epochs is 0; expected at least 1"),
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
        "# A title.\n#   anysize train mine\n# Published: 76.4 % at 160 px\n#   (the paper).\n# Measured: -\n"
        "# Cost: 2 PFLOPs.\n\n[data]\nname = 'mnist'\n",
    )
    header = read_header(path)
    assert header.title == "A title."
    assert header.command == "anysize train mine"
    assert header.published == "76.4 % at 160 px (the paper)."
    assert header.cost == "2 PFLOPs."
    assert "quickstart" in recipe_names()
