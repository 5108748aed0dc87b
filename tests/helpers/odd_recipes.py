"""Odd values for settings, recipes and command lines that are made of them, and what is right for each: it works, or
one sentence says why not."""

import contextlib
import dataclasses
import datetime
import inspect
import json
import math
import os
import random
import signal
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from anysize.cli import build_app
from anysize.experiment.planning import plan
from anysize.experiment.targets import eval_transform, info_of, train_transform
from anysize.recipe import Recipe, documented_settings, dump, load_recipe, to_dict
from anysize.recipes.values import type_hints
from anysize.registry import UserError, printable
from anysize.sizes.settings import PhaseSettings
from anysize.training.regime import RAMPS, Schedule

HUGE = 10**400
ODD: tuple[Any, ...] = (
    0, -0.0, 1, -1, 2, 3, 0.5, -0.5, 7, 255, 1000, 100_000, 10**6, -(10**6), 2**31, 2**63 - 1, 2**63, HUGE, -HUGE,
    1e-300, -1e-300, 1e-7, 1e30, 3.4e38, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), True, False,
    "", "a", "0", "-1", "1e999", "nan", "NaN", "inf", "9" * 5000, "-" * 40, "x" * 100_000, "a\nb\x1b[2J\x00", "\udcff",
    "0:0.1 5:0.01", "0:nan", "0:1e300:exponential 1e300:1", "0:0.1:step", "1:2", "0:0.1:linear", "::::", "{}", "[]",
    [], [0], [1, 2], [0.1, 0.9], [1, "a"], [True], [[1]], [float("nan")], [HUGE], [-1] * 3, [0.5] * 1000,
    {}, {"a": 1}, {"16": 0.5, "32": 0.5}, {"28": 1e300, "14": 1e-300}, {"28": HUGE}, {"9" * 5000: 1}, {"": ""},
    [{"value": 1, "epoch": 0}], [{"value": 1, "ramp": "step", "factor": 1e300, "every": 1e-300}],
    [{"value": 0.1, "ramp": "step", "factor": 10, "every": 1e-3}], [{"value": True}], [{"value": "adam"}],
    [{"value": 1, "epoch": HUGE}],
    [{"epoch": 0, "size": 7}], [{"epoch": 0, "start": 3, "stop": 9}, {"epoch": 3, "mix": "B+"}],
    [{"epoch": 0, "start": 1, "stop": 16384, "multiple": 1, "budget": "D+"}], [{"value": 0.1, "ramp": 3}],
    datetime.date(2020, 1, 1), "[" * 3000, '{"a": ' * 3000, None,
)  # fmt: skip
"""Huge, tiny, negative and odd values of every type, several of them right for one setting or another."""

KEPT = {
    "data.limit": 48, "model.name": "resnet8", "training.epochs": 1, "training.batch_size": 16, "data.workers": 0,
    "evaluation.calibration_images": 16, "training.equal_flops": False, "evaluation.pictures": 2,
}  # fmt: skip
"""What makes a recipe small enough for a test; a case may override it."""

NOT_TRAINED = ("data", "model", "training.device", "training.compile", "training.precision")
"""Settings that name files and devices, or that take long: `trains` leaves them as they are."""


def odd_overrides(rng: random.Random) -> dict[str, Any]:
    """A few settings, each at an end of its range, anywhere in it, or, now and then, with an odd value."""
    rows = [
        (f"{section}.{field.name}", type_hints(cls)[field.name], field)
        for section, cls in type_hints(Recipe).items()
        for field in dataclasses.fields(cls)
    ]
    chosen = rng.sample(rows, rng.randint(1, 5))
    return {name: rng.choice(ODD) if rng.random() < 0.1 else _fitting(rng, hint, field) for name, hint, field in chosen}


def _fitting(rng: random.Random, hint: Any, field: "dataclasses.Field[Any]") -> Any:
    """A value of the type and in the range of a setting."""
    meta = field.metadata
    if meta["choices"]:
        return rng.choice(meta["choices"])
    if hint == Schedule:
        if field.name == "name":
            return rng.choice(["sgd", "adam", "adamw", "rmsprop", "0:adam 3:sgd"])
        points = [0, *sorted(rng.sample(range(1, 1000), rng.randint(0, 3)))]
        ramps = [*(rng.choice(RAMPS) for _ in points[1:]), "step"]
        return [
            {"epoch": epoch, "value": _number(rng, float, meta), "ramp": ramp, "every": 10 ** rng.uniform(-6, 3),
             "factor": 10 ** rng.uniform(-5, 5)}
            for epoch, ramp in zip(points, ramps, strict=True)
        ]  # fmt: skip
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float):
        return _number(rng, hint, meta)
    if origin is tuple and arguments[0] in (int, float):
        count = rng.randint(1, 4) if arguments[-1] is Ellipsis else len(arguments)
        return sorted(_number(rng, arguments[0], meta) for _ in range(count))
    if origin is tuple and arguments[0] is PhaseSettings:
        chosen = [each for each in dataclasses.fields(PhaseSettings) if rng.random() < 0.4]
        return [{each.name: _fitting(rng, type_hints(PhaseSettings)[each.name], each) for each in chosen}]
    if origin is dict and arguments[1] is float:
        return {rng.choice(["28", "14", "7", "bias", "16384"]): _number(rng, float, meta) for _ in range(2)}
    return rng.random() < 0.5 if hint is bool else rng.choice(["", "a", "layer1", "fc", field.default])


def _number(rng: random.Random, kind: type, meta: Mapping[str, Any]) -> float:
    """An end of a range, or a number in it: half of them usual ones."""
    low, high, besides = meta["low"], meta["high"], meta["besides"]
    usual = min(max(10 ** rng.uniform(-3, 2), low), high)
    wide = min(max(10 ** rng.uniform(-12, min(38, math.log10(max(high, 1)))), low), high)
    number = rng.choice([usual, usual, usual, wide, low, high, low if besides is None else besides])
    return kind(math.floor(number) if kind is int else number)


def says_one_sentence(error: BaseException, name: str = "") -> None:
    """Fail unless the message is a line that a person reads, without control characters, and has the setting's name."""
    said = str(error)
    assert name in said
    assert said.strip(), type(error)
    assert len(said) < 1200, said
    assert "\n" not in said.strip(), said
    assert printable(said) == said, ascii(said)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail where a block hangs. No measure of speed: it takes far less."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def loads(overrides: dict[str, Any], kept: dict[str, Any] | None = None) -> Recipe | None:
    """The recipe with these settings, which reads back equal; None where one sentence refuses them."""
    try:
        recipe = load_recipe("quickstart", {**(KEPT if kept is None else kept), **overrides})
    except UserError as error:
        says_one_sentence(error)
        return None
    return recipe


def reads_back(recipe: Recipe, folder: Path) -> None:
    """Fail unless the recipe that a run writes is the same when it is read."""
    path = folder / "odd.toml"
    path.write_text(dump(recipe), encoding="utf-8", errors="surrogateescape")
    assert to_dict(load_recipe(str(path))) == to_dict(recipe)


def plans(recipe: Recipe) -> bool:
    """Whether the recipe can be planned and its transforms made, or one sentence says why not."""
    try:
        plan(recipe)
        preprocessing = _preprocessing(recipe)
        train_transform(recipe, preprocessing)
        eval_transform(recipe, preprocessing)
    except UserError as error:
        says_one_sentence(error)
        return False
    return True


def _preprocessing(recipe: Recipe) -> Any:
    from anysize.data.catalog import build_preprocessing
    from anysize.experiment.sizing import base_size

    return build_preprocessing(recipe.data, info_of(recipe), base_size(recipe))


def trains(overrides: dict[str, Any], folder: Path) -> bool:
    """Whether the settings train two steps, or one sentence says why not; the network and its images stay small."""
    from anysize.experiment.train import train

    small = {key: value for key, value in overrides.items() if not key.startswith(NOT_TRAINED)}
    recipe = loads({**small, **{key: KEPT[key] for key in ("training.epochs", "data.limit")}})
    if recipe is None:
        return False
    try:
        cost = plan(recipe)
        if cost.memory > 2**30 or cost.steps > 200 or recipe.evaluation.copies > 8:
            return False
        train(recipe, run=folder)
    except UserError as error:
        says_one_sentence(error)
        return False
    return True


def odd_command_line(rng: random.Random, runs: list[str]) -> list[str]:
    """A verb with what may stand behind it: a run or nonsense, options of its own and settings, with odd values."""
    app = build_app()
    verbs = [name for name in app if not name.startswith("-")]
    verb = rng.choice([*verbs, *verbs, *verbs, "", "trian"])
    texts = [
        *(as_text(value) for value in ODD),
        *runs,
        "last",
        "best",
        "onnx",
        "cpu",
        "cuda:99",
        "28",
        "14,28",
        "1e400",
    ]
    texts = [text for text in texts if len(text) < 60_000]  # the kernel takes no longer ones
    line = [verb, rng.choice([*runs, *runs, *runs, "quickstart", "resnet8", *texts])]
    options = ["--nonsense", *(row[0] for row in documented_settings())]
    if verb in verbs:
        named = inspect.signature(app[verb].default_command).parameters.values()
        own = [each.name.replace("_", "-") for each in named if each.kind is each.KEYWORD_ONLY]
        options = [*own * (1 + len(options) // max(1, 2 * len(own))), *options]
    for _ in range(rng.randint(0, 3)):
        line.append("--" + rng.choice(options).removeprefix("--"))
        if rng.random() < 0.9:
            line.append(rng.choice(texts))
    if verb == "train":
        line += [token for key, value in KEPT.items() for token in (f"--{key}", as_text(value))]
    return line


def as_text(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, str):
        return value.replace("\x00", "")  # which no command line holds
    if isinstance(value, int) and abs(value) >= HUGE:
        return "-" * (value < 0) + "1" + "0" * 400
    return json.dumps(value, default=str) if isinstance(value, (list, dict, bool)) else str(value)


def chaos_seeds(count: int) -> list[int]:
    """Seeds of the cases, from ANYSIZE_CHAOS_SEED on; a failing case runs alone with its own seed and a count of 1."""
    first = int(os.environ.get("ANYSIZE_CHAOS_SEED", "0"))
    return [*range(first, first + int(os.environ.get("ANYSIZE_CHAOS_CASES", count)))]


@contextlib.contextmanager
def told(seed: int, case: object) -> Iterator[None]:
    """Where a case fails, say which it was and how it is repeated."""
    try:
        with at_most(60):
            yield
    except (Exception, KeyboardInterrupt) as error:
        again = f"repeat it with ANYSIZE_CHAOS_SEED={seed} ANYSIZE_CHAOS_CASES=1"
        pytest.fail(f"{type(error).__name__} with seed {seed}: {ascii(case)[:600]}; {again}: {ascii(str(error))[:600]}")
