"""Every number of a recipe has bounds: what no run can be is one sentence when the recipe is read."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import odd_recipes
import pytest

from anysize.recipe import Recipe, documented_settings, load_recipe, override
from anysize.recipes.values import type_hints
from anysize.registry import UserError, shown
from anysize.sizes.mix import SizeMix
from anysize.sizes.settings import PhaseSettings
from anysize.training.optimizer import regime_at
from anysize.training.regime import FLOAT32_MAX, Schedule, parse_schedule, value_at
from anysize.training.settings import OptimizerSettings


def numeric(hint: Any) -> bool:
    arguments = [hint, *typing.get_args(hint)]
    return hint == Schedule or int in arguments or float in arguments


def test_every_number_has_a_smallest_and_a_largest_value() -> None:
    for cls in (*type_hints(Recipe).values(), PhaseSettings):
        for field in dataclasses.fields(cls):
            if numeric(type_hints(cls)[field.name]) and (cls, field.name) != (OptimizerSettings, "name"):
                bounds = field.metadata["low"], field.metadata["high"]
                assert None not in bounds, f"{cls.__name__}.{field.name}: setting(..., low=, high=)"


@pytest.mark.parametrize("section", dict.fromkeys(row[0].partition(".")[0] for row in documented_settings()))
def test_each_setting_takes_an_odd_value_or_says_one_sentence(section: str) -> None:
    recipe = Recipe()
    for name, default, *_ in documented_settings():
        taken = 0
        for value in (*odd_recipes.ODD, default) if name.startswith(f"{section}.") else (default,):
            try:
                override(recipe, {name: value})
                taken += 1
            except UserError as error:
                odd_recipes.says_one_sentence(error, name)
        assert taken, name


@pytest.mark.slow
@pytest.mark.parametrize("section", dict.fromkeys(row[0].partition(".")[0] for row in documented_settings()))
def test_what_is_taken_can_be_planned_and_reads_back(section: str, tmp_path: Path) -> None:
    """Of each setting the smallest, the largest and the odd values that it takes."""
    for name in (row[0] for row in documented_settings() if row[0].startswith(f"{section}.")):
        fields = dataclasses.fields(type_hints(Recipe)[section])
        meta = next(field.metadata for field in fields if f"{section}.{field.name}" == name)
        planned: list[Recipe] = []
        for value in [*odd_recipes.ODD, meta["low"], meta["high"], *meta["choices"]]:
            recipe = odd_recipes.loads({name: value})
            if recipe is not None and recipe not in planned:
                planned.append(recipe)
                with odd_recipes.told(0, {name: value}):
                    odd_recipes.reads_back(recipe, tmp_path)
                    odd_recipes.plans(recipe)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.epochs", 10**6 + 1, "training.epochs is 1000001; expected from 1 to 1,000,000"),
        ("training.epochs", 10**400, "000; expected a number that 64 bits hold"),
        ("optimizer.lr", "1e300", "optimizer.lr is 1e+300; expected from 0 to 3.40282e+38"),
        ("optimizer.lr", "0:0.1 5:-1", "of which -1.0 is out of range; expected from 0"),
        ("optimizer.lr", "0:0.1 nan:1", "epoch is 'nan' in the point"),
        ("optimizer.lr", "adam", "optimizer.lr is 'adam'; expected a number"),
        ("optimizer.lr", [{"value": True}], "value is True in the point"),
        ("optimizer.lr", [{"value": 0.1, "ramp": "step", "every": 1e-300}], "expected a number of epochs above 0"),
        ("optimizer.lr", [{"value": 0.1, "ramp": "step", "factor": -1}], "factor is -1"),
        ("optimizer.name", "0.1", "optimizer.name is 0.1; expected text"),
        ("optimizer.betas", "0.9,2", "of which 2.0 is out of range; expected from 0 to 1"),
        ("optimizer.custom_weight_decay.bias", "-1", "of which -1.0 is out of range"),
        ("augment.mixup", "1e-300", "augment.mixup is 1e-300; expected 0 or from 0.001 to 1,000"),
        ("augment.flip", "-0.5", "augment.flip is -0.5; expected -1 or from 0 to 1"),
        ("augment.padding", "100000", "expected from 0 to 1,024"),
        ("data.mean", "nan", "expected a finite number"),
        ("data.name", "x" * 5000, "xxx'; expected text of 4,096 characters at most"),
        ("sizes.base", "100000", "expected from 0 to 16,384"),
        ("sizes.weights", {"28": float("inf")}, "expected a finite number"),
        ("model.options.depth", [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]], "lists and tables in each other, more than 16"),
        ("evaluation.copies", "100000", "expected from 1 to 1,000"),
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_answered_with_the_bounds(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"--{key}") as raised:
        override(Recipe(), {key: value})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "[model]\noptions = {a = " + "[" * 2000 + "]" * 2000 + "}", "a." * 2000 + "b = 1",
        "[training]\nepochs = " + "9" * 5000, "[model.options]\n" + "a." * 2000 + "b = 1",
        "[model.options]\nday = 2020-01-01", "[data]\nmean = [nan]",
    ],
    ids=str.__len__,
)  # fmt: skip
def test_a_file_that_is_nested_or_has_odd_values_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(UserError, match=r"odd\.toml") as raised:
        load_recipe(str(tmp_path / "odd.toml"))
    odd_recipes.says_one_sentence(raised.value)


def test_what_grows_without_end_is_the_largest_number_that_an_optimizer_takes() -> None:
    grows = parse_schedule([{"value": 0.1, "ramp": "step", "factor": 10.0, "every": 0.001}])
    assert value_at(grows, 0.002) == pytest.approx(10)
    assert value_at(grows, 100.0) == FLOAT32_MAX
    settings = OptimizerSettings(lr=parse_schedule(FLOAT32_MAX), batch_size=1, batch_rule="linear")
    assert regime_at(settings, 0.0, batch_size=1000)[1]["lr"] == FLOAT32_MAX


def test_a_mixture_has_bounds_without_a_recipe() -> None:
    for sizes, said in (
        ({2**20: 1.0}, "too large"),
        ({28: float("inf")}, "positive share"),
        ({0: 1.0}, "positive size"),
    ):
        with pytest.raises(UserError, match=said):
            SizeMix.custom(sizes, base=28)
    with pytest.raises(UserError, match="copies of a sample, more than 1,048,575"):
        SizeMix.custom({1: 1.0}, base=2**14, budget="D+").batches(64)
    with pytest.raises(UserError, match="base size is 100000; expected from 1 to 32,768"):
        SizeMix.fixed(28, 100_000)


def test_a_message_shows_little_of_what_it_received() -> None:
    assert len(shown("x" * 10**6)) < 150
    assert len(shown([1] * 10**6)) < 150
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    assert shown(deep) == "[[[[[[[...]]]]]]]"
