"""The recipe: everything that decides a run, as one frozen typed tree.

A recipe is a TOML file whose sections are the settings of each part of the package. Values come from the file, then
from overrides (`--section.field value` on the command line); the rest are the defaults that the settings classes
document. The resolved recipe is saved with the run and reruns it.

    >>> recipe = load_recipe("quickstart", {"training.epochs": "2", "sizes.mix": "B+"})
    >>> recipe.training.epochs, recipe.sizes.mix
    (2, 'B+')

Imports no torch.
"""

import dataclasses
import importlib.resources
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from anysize.data.settings import AugmentSettings, DataSettings
from anysize.evaluation.settings import EvaluationSettings
from anysize.models.settings import ModelSettings
from anysize.registry import UserError, did_you_mean
from anysize.sizes.settings import SizeSettings
from anysize.tasks.settings import TaskSettings
from anysize.training.regime import Schedule, is_schedule, parse_schedule, to_data
from anysize.training.settings import OptimizerSettings, TrainingSettings


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run, whole: the sections of a recipe file."""

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    augment: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)
    task: TaskSettings = dataclasses.field(default_factory=TaskSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    sizes: SizeSettings = dataclasses.field(default_factory=SizeSettings)
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)


@dataclasses.dataclass(frozen=True)
class RecipeHeader:
    """What the comment at the top of a recipe file says: purpose, command, published and measured results, cost."""

    title: str
    command: str = ""
    published: str = ""
    measured: str = ""
    cost: str = ""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, such as `mixsize/cifar10-resnet44`."""
    root = Path(str(importlib.resources.files("anysize"))) / "recipes"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, by its name in the package or its own path.

    Raises:
        UserError: neither is there; the message names the nearest recipe.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UserError(f"recipe file {name} does not exist; `anysize recipes` lists the recipes of the package")
        return Path(name)
    if name not in recipe_names():
        raise UserError(f"unknown recipe {name!r}: {did_you_mean(name, recipe_names())}")
    return Path(str(importlib.resources.files("anysize"))) / "recipes" / f"{name}.toml"


def read_header(name: str) -> RecipeHeader:
    """Read the leading comment of a recipe; `Published:`, `Measured:` and `Cost:` may go on over several lines.

    >>> read_header("quickstart").command
    'anysize train quickstart'
    """
    lines = []
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:])
    found: dict[str, str] = {}
    key = "title"
    for line in lines:
        text = line.strip()
        if line.startswith("   ") and text.startswith("anysize "):
            found["command"] = text
            continue
        word = text.split(":")[0].lower()
        if word in ("published", "measured", "cost"):
            key, text = word, text[len(word) + 1 :].strip()
        found[key] = f"{found.get(key, '')} {text}".strip()
    return RecipeHeader(**found)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe by name or path and apply overrides (`{"section.field": value}`; strings are converted).

    Raises:
        UserError: the file is not TOML, a key is unknown, or a value has the wrong type or lies outside its range;
            the message names the file, the key, what was received and what is allowed.
    """
    path = recipe_path(name)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
    recipe: Recipe = _build(Recipe, tree, str(path), "")
    return override(recipe, overrides or {})


def override(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A copy of `recipe` with the fields named `section.field` replaced.

    >>> override(Recipe(), {"optimizer.lr": "0:0.1 5:0.01"}).optimizer.lr[1].value
    0.01
    >>> override(Recipe(), {"training.epoch": 3})
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: --training.epoch: unknown setting: did you mean 'training.epochs'?
    """
    for key, value in overrides.items():
        recipe = _replace(recipe, key.split("."), value, key)
    return recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as TOML-ready data, defaults included."""
    return {section: _plain(values) for section, values in _fields(recipe)}


def dump(recipe: Recipe) -> str:
    """The recipe as TOML text that `load_recipe` reads back to an equal recipe."""
    return tomli_w.dumps(to_dict(recipe))


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The settings in which two recipes differ: `{"section.field": (one's, other's)}`."""
    a, b = to_dict(one), to_dict(other)
    return {f"{s}.{k}": (a[s][k], b[s][k]) for s in a for k in a[s] if a[s][k] != b[s][k]}


def documented_settings() -> list[tuple[str, Any, str, str]]:
    """Every setting as (name, default, allowed values, doc), for the command line's help and the docs.

    >>> [row[3] for row in documented_settings() if row[0] == "training.epochs"]
    ['passes over the training images']
    """
    rows = []
    for section, settings in _fields(Recipe()):
        for field in dataclasses.fields(settings):
            meta = field.metadata
            allowed = " | ".join(choice or '""' for choice in meta["choices"])
            if not allowed and (meta["low"] is not None or meta["high"] is not None):
                low = "" if meta["low"] is None else f"{meta['low']} .."
                allowed = low + ("" if meta["high"] is None else f" {meta['high']}")
            rows.append((f"{section}.{field.name}", _plain(getattr(settings, field.name)), allowed, meta["doc"]))
    return rows


def _fields(instance: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(instance, field.name)) for field in dataclasses.fields(instance))


def _plain(value: Any) -> Any:
    if is_schedule(value):
        return to_data(value)
    if dataclasses.is_dataclass(value):
        return {name: _plain(item) for name, item in _fields(value)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _replace(node: Any, path: list[str], value: Any, key: str) -> Any:
    name = path[0].replace("-", "_")
    fields = {field.name: field for field in dataclasses.fields(node)}
    if name not in fields:
        known = [row[0] for row in documented_settings()]
        known = [setting for setting in known if setting.split(".")[-1] == key.split(".")[-1]] or known
        hint = did_you_mean(key, known)
        if "." not in key and hint.startswith("choose"):  # more likely an option of a command, misspelt
            hint = "settings have a section, as training.epochs (`anysize settings`); --help lists a command's options"
        raise UserError(f"--{key}: unknown setting: {hint}")
    current = getattr(node, name)
    if len(path) > 1 and dataclasses.is_dataclass(current):
        return dataclasses.replace(node, **{name: _replace(current, path[1:], value, key)})
    if len(path) > 1 and isinstance(current, dict):
        value, path = {**current, ".".join(path[1:]): _guess(value)}, path[:1]
    if len(path) > 1 or dataclasses.is_dataclass(current):
        raise UserError(f"--{key}: is not a setting; `anysize settings` lists them")
    hint = typing.get_type_hints(type(node))[name]
    return dataclasses.replace(node, **{name: _checked(hint, fields[name], _from_text(hint, value), f"--{key}")})


def _guess(value: Any) -> Any:
    """Read text as a number or as JSON where it is one (true, lists), else keep it."""
    for read in (int, float, json.loads) if isinstance(value, str) else ():
        try:
            return read(value)
        except ValueError:
            continue
    return value


def _from_text(hint: Any, value: Any) -> Any:
    """Turn the text of a command line into what a TOML file would have held for this type."""
    if not isinstance(value, str) or hint is str:
        return value
    if typing.get_origin(hint) is tuple and not value.startswith("[") and hint != Schedule:
        return [_guess(part) for part in value.replace(",", " ").split()]
    return _guess(value)


def _build(cls: type, tree: Any, file: str, path: str) -> Any:
    """Build a settings dataclass from a TOML table."""
    where = f"{file}: [{path}]" if path else f"{file}:"
    if not isinstance(tree, dict):
        raise UserError(f"{where} is {tree!r}; expected a table")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in fields:
            kind = "section" if not path else "key"
            raise UserError(f"{where} unknown {kind} {key!r}: {did_you_mean(key, fields)}")
        inner = f"{path}.{key}" if path else key
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(typing.cast(type, hints[key]), value, file, inner)
        else:
            values[key] = _checked(hints[key], fields[key], value, f"{file}: {inner}")
    return cls(**values)


def _checked(hint: Any, field: "dataclasses.Field[Any]", value: Any, where: str) -> Any:
    """Convert `value` to the field's type and check its choices and range."""
    meta = field.metadata
    result = _convert(hint, value, where)
    if isinstance(result, float) and not math.isfinite(result):
        raise UserError(f"{where} is {value!r}; expected a finite number")
    if meta["choices"] and result not in meta["choices"]:
        raise UserError(f"{where} is {value!r}: {did_you_mean(str(value), [c or '(empty)' for c in meta['choices']])}")
    low, high = meta["low"], meta["high"]
    if (low is not None and result < low) or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{where} is {value!r}; expected {bounds}")
    return result


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint == Schedule:
        try:
            return parse_schedule(value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(f"{where} is {value!r}; expected {len(arguments)} values")
        if dataclasses.is_dataclass(arguments[0]):
            inner = typing.cast(type, arguments[0])
            file, _, path = where.rpartition(": ")
            return tuple(_build(inner, item, file or "--", f"{path}[{i}]") for i, item in enumerate(value))
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(arguments[1], item, where) for key, item in value.items()}
    if hint is Any or (type(value) is hint):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where} is {value!r} ({type(value).__name__}); expected {_type_name(hint)}")


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if isinstance(hint, types.GenericAlias):
        return "a list" if hint.__origin__ is tuple else 'a table such as {"depth": 20}'
    return names.get(hint, str(hint))
