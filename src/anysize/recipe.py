"""The recipe: everything that decides a run, as one frozen typed tree.

A recipe is a TOML file whose sections are the settings of each part of the package. Values come from the file
and the files that it extends, then from overrides (`--section.field value` on the command line); the rest are the
defaults that the settings classes document. A builder of your own may have settings, too, which hold where the files
say nothing: `build.recipe = {"optimizer.lr": 0.05}`. The resolved recipe is saved with the run and reruns it.

    >>> recipe = load_recipe("quickstart", {"training.epochs": "2", "sizes.mix": "B+"})
    >>> recipe.training.epochs, recipe.sizes.mix
    (2, 'B+')

Imports no torch.
"""

import dataclasses
import difflib
import functools
import itertools
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from anysize.data.settings import AugmentSettings, DataSettings
from anysize.evaluation.settings import EvaluationSettings
from anysize.models import trust
from anysize.models.named_code import is_code
from anysize.models.settings import ModelSettings
from anysize.quantize.settings import QuantizeSettings
from anysize.recipes import file_label, leading_comment, merge, read_files, recipe_path
from anysize.recipes.values import allowed_numbers, build_settings, check_value, from_text, plain, to_toml, type_hints
from anysize.registry import UserError, did_you_mean
from anysize.renamed import by_names_now, name_now
from anysize.reports.settings import TrackingSettings
from anysize.sizes.settings import TAKERS, SizeSettings
from anysize.tasks.settings import TaskSettings
from anysize.training.settings import OptimizerSettings, TrainingSettings

_USUAL_NAMES = {
    "arch": "model.name", "model": "model.name", "dataset": "data.name", "data_dir": "data.root", "data": "data.root",
    "data_path": "data.root", "path": "data.root", "image_size": "sizes.base", "img_size": "sizes.base",
    "imgsz": "sizes.base", "size": "sizes.base", "learning_rate": "optimizer.lr", "wd": "optimizer.weight_decay",
    "opt": "optimizer.name", "optimizer": "optimizer.name", "batch": "training.batch_size",
    "num_epochs": "training.epochs", "max_epochs": "training.epochs", "num_workers": "data.workers",
    "j": "data.workers", "gpu": "training.device", "amp": "training.precision", "random_seed": "training.seed",
    "logger": "tracking.names", "track": "tracking.names",
}  # fmt: skip
"""What other programs call a setting, that a message can name it."""
_COLUMN = 36  # where the origin of a value stands, if the value leaves room


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
    quantize: QuantizeSettings = dataclasses.field(default_factory=QuantizeSettings)
    tracking: TrackingSettings = dataclasses.field(default_factory=TrackingSettings)


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe by name or path and apply overrides (`{"section.field": value}`; strings are converted).

    Raises:
        UserError: the file is not TOML, a key is unknown, or a value has the wrong type or lies outside its range.
    """
    files = read_files(name)
    for path, own in files.items():
        build_settings(Recipe, own, str(path))  # by itself, so that a message names the right file
    _, builders = _of_builder(files, overrides or {})
    tree = functools.reduce(_merge_file, files.values(), builders)
    return override(build_settings(Recipe, tree, str(path)), overrides or {})


def override(recipe: Recipe, overrides: Mapping[str, Any], *, from_file: bool = False) -> Recipe:
    """A copy of `recipe` with the fields named `section.field` replaced.

    Another mixture of sizes drops what describes the one before it. A model's name among overrides that are not
    `from_file` is the user's consent to run the code that it stands for.

    >>> override(Recipe(), {"optimizer.lr": "0:0.1 5:0.01"}).optimizer.lr[1].value
    0.01
    >>> uniform = override(Recipe(), {"sizes.mix": "uniform", "sizes.sizes": "14,28"})
    >>> override(uniform, {"sizes.mix": "B+"}).sizes.sizes, override(uniform, {"sizes.mix": "window"}).sizes.sizes
    ((), (14, 28))
    """
    if not from_file:
        trust.consent(overrides.get("model.name"))
    before, given = recipe.sizes.mix, _by_names_now(overrides)
    for key, value in given.items():
        recipe = _replace(recipe, key.split("."), value, key)
    sizes, default = recipe.sizes, SizeSettings()
    stale = _stale(before, {sizes.mix, *(phase.mix for phase in sizes.phases)})
    stale -= {key.split(".")[1] for key in given if key.startswith("sizes.")}
    return dataclasses.replace(
        recipe, sizes=dataclasses.replace(sizes, **{name: getattr(default, name) for name in stale})
    )


def _stale(before: str, mixes: set[str]) -> set[str]:
    """The settings of sizes that describe the mixture `before` and none of those that there are now."""
    return {name for name, takers in TAKERS.items() if before in takers and mixes.isdisjoint(takers)}


def _merge_file(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The tables of a file over those that it extends; another mixture of sizes drops what describes theirs."""
    merged = merge(base, own)
    before, sizes = base.get("sizes", {}).get("mix", ""), merged.get("sizes", {})
    mixes = {each.get("mix", "") for each in (sizes, *sizes.get("phases", []))}
    stale = _stale(before, mixes) - {*own.get("sizes", {})}
    return {**merged, "sizes": {key: value for key, value in sizes.items() if key not in stale}} if sizes else merged


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as TOML-ready data, defaults included."""
    return typing.cast(dict[str, Any], plain(recipe))


def from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that `to_dict` made data of, which are from `source`; a setting that they lack has its default.

    Raises:
        UserError: they are not the settings of this version; the message names `source`.

    >>> from_dict(to_dict(Recipe()), "state.json") == Recipe()
    True
    """
    recipe: Recipe = build_settings(Recipe, by_names_now(tree, source), source)
    return recipe


def dump(recipe: Recipe, told: Mapping[str, str] | None = None) -> str:
    """The recipe as TOML text that `load_recipe` reads back to an equal recipe.

    With `told`, of `origins`, each value has behind it where it is from.
    """
    if told is None:
        return tomli_w.dumps(to_dict(recipe))
    parts = []
    for section, values in to_dict(recipe).items():
        lines = [f"[{section}]"]
        for key, value in values.items():
            first, *rest = to_toml(value).split("\n")
            lines += [f"{f'{key} = {first}':{_COLUMN}}  # {told[f'{section}.{key}']}", *rest]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def origins(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Where each value of a recipe is from: `default`, a recipe file, the model's builder, or `override`.

    >>> told = origins("mixsize/imagenet-resnet50", {"training.epochs": 3})
    >>> told["sizes.mix"], told["sizes.base"], told["sizes.sizes"], told["training.epochs"]
    ('mixsize/imagenet-resnet50', 'mixsize/imagenet-base', 'default', 'override')
    """
    files, given = read_files(name), _by_names_now(overrides or {})
    changed: dict[str, Any] = {}
    for key in given:
        section, field = key.replace("-", "_").split(".")[:2]
        changed.setdefault(section, {})[field] = None
    sources = [_of_builder(files, given), *((file_label(path), tree) for path, tree in files.items())]
    told = {}
    for section, values in to_dict(Recipe()).items():
        for key, value in values.items():
            found = [label for label, tree in [*sources, ("override", changed)] if key in tree.get(section, {})]
            # A table has values of several files.
            told[f"{section}.{key}"] = ", ".join(found if isinstance(value, dict) else found[-1:]) or "default"
    sizes, default = load_recipe(name, overrides).sizes, SizeSettings()
    dropped = [key for key in TAKERS if getattr(sizes, key) == getattr(default, key)]  # by another mixture
    return {**told, **{f"sizes.{key}": "default" for key in dropped}}


def explain(name: str) -> str:
    """A recipe as TOML text: its comment, then every value, and behind it where it is from, or `default`.

    >>> print(explain("mixsize/imagenet-resnet50").split("[sizes]")[1].split("trained_base")[0].strip())
    mix = "D+"                            # mixsize/imagenet-resnet50
    base = 224                            # mixsize/imagenet-base
    """
    comments = {path: leading_comment(path) for path in reversed(read_files(name))}
    own = recipe_path(name)
    headings = {path: "" if path == own else f"# From {file_label(path)}:\n" for path in comments}
    parts = [headings[path] + comment for path, comment in comments.items() if comment]
    return "\n\n".join([*parts, dump(load_recipe(name), origins(name))])


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
    for section, defaults in to_dict(Recipe()).items():
        for field in dataclasses.fields(type_hints(Recipe)[section]):
            meta = field.metadata
            allowed = " | ".join(choice or '""' for choice in meta["choices"]) or allowed_numbers(meta, "{} .. {}")
            rows.append((f"{section}.{field.name}", defaults[field.name], allowed, meta["doc"]))
    return rows


def settings_near(word: str) -> list[str]:
    """The settings that have a word like this in their name.

    >>> settings_near("smothing")[:2]
    ['optimizer.gradient_smoothing', 'task.label_smoothing']
    """
    words = {name: re.split(r"[._]", name) for name, *_ in documented_settings()}
    near = difflib.get_close_matches(word.lower(), set(itertools.chain(*words.values())), n=1)
    return sorted(name for name, parts in words.items() if near and near[0] in parts)


def meant_setting(key: str) -> str:
    """Which setting may be meant by a name that is none: those of this name in their sections, or one that is near.

    >>> meant_setting("epochs")
    "did you mean 'training.epochs' or 'optimizer.epochs'?"
    >>> meant_setting("learning-rate")
    "did you mean 'optimizer.lr'?"
    """
    known = [row[0] for row in documented_settings()]
    last = key.replace("-", "_").split(".")[-1]
    if "." not in key:
        same = [setting for setting in known if setting.partition(".")[2] == last]
        near = difflib.get_close_matches(last, [setting.partition(".")[2] for setting in known], n=1, cutoff=0.8)
        usual = [_USUAL_NAMES[last]] if last in _USUAL_NAMES else []
        found = same or usual or [setting for setting in known if setting.partition(".")[2] in near]
        if found:
            return f"did you mean {' or '.join(map(repr, found))}?"
    same = [setting for setting in known if setting.split(".")[-1] == last]
    hint = did_you_mean(key, same or known)
    if "." not in key and hint.startswith("choose"):  # more likely an option of a command, misspelt
        return "settings have a section, as training.epochs (`anysize settings`); --help lists a command's options"
    return hint


def _of_builder(files: Mapping[Path, dict[str, Any]], overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a builder of your own and its settings as a tree; empty where it has none, or they cannot count.

    A builder that is not there is told where the model is built: what a run has written out can be read without.
    """
    tree: dict[str, Any] = functools.reduce(merge, files.values(), {})
    name = str(overrides.get("model.name", tree.get("model", {}).get("name", "")))
    complete = all(values.keys() <= tree.get(section, {}).keys() for section, values in to_dict(Recipe()).items())
    if complete or not is_code(name):
        return "", {}
    from anysize.models.builders import import_builder  # torch

    trust.consent(overrides.get("model.name"))
    try:
        settings = getattr(import_builder(name), "recipe", {})
    except trust.NotTrusted:
        raise
    except UserError:
        return "", {}
    if not isinstance(settings, Mapping):
        raise UserError(f'{name}: its recipe is {settings!r}; expected settings such as {{"optimizer.lr": 0.1}}')
    found: dict[str, Any] = {}
    recipe = Recipe()
    for key, value in settings.items():
        try:
            recipe = override(recipe, {str(key): value})
        except UserError as error:
            raise UserError(f"{name}: its recipe: {str(error).removeprefix('--')}") from None
        section, field = str(key).replace("-", "_").split(".")[:2]
        found.setdefault(section, {})[field] = to_dict(recipe)[section][field]
    return name, found


def _by_names_now(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides whose settings have their names of now."""
    return {name_now(key): value for key, value in overrides.items()}


def _replace(node: Any, path: list[str], value: Any, key: str) -> Any:
    name = path[0].replace("-", "_")
    fields = {field.name: field for field in dataclasses.fields(node)}
    if name not in fields:
        raise UserError(f"--{key}: unknown setting: {meant_setting(key)}")
    current = getattr(node, name)
    if len(path) > 1 and dataclasses.is_dataclass(current):
        return dataclasses.replace(node, **{name: _replace(current, path[1:], value, key)})
    if len(path) > 1 and isinstance(current, dict):
        value, path = {**current, ".".join(path[1:]): from_text(Any, value)}, path[:1]
    if len(path) > 1 or dataclasses.is_dataclass(current):
        hint = f"did you mean {_USUAL_NAMES[name]!r}? " if name in _USUAL_NAMES and len(path) == 1 else ""
        raise UserError(f"--{key}: is not a setting; {hint}`anysize settings` lists them")
    value = from_text(type_hints(node.__class__)[name], value)
    return dataclasses.replace(node, **{name: check_value(type(node), fields[name], value, "", key)})
