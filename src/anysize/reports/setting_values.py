"""The settings in the recipes of runs: their values, how people read them, and which others differ."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from anysize.reports.reading import Run

SEED = "training.seed"
_EMPTY = {"model.norm": "the model's own"}  # what an empty setting means
WORLD_SIZE = "world_size"  # of the environment; no setting, but the batch of all processes depends on it


def known_settings(runs: Iterable[Run], defaults: Mapping[str, Any] | None = None) -> set[str]:
    """The settings of recipes: those that have a default, and what runs set in tables such as `model.options`."""
    return {*(defaults or {}), *(key for run in runs for key in run.settings)}


def setting_value(settings: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> Any:
    """The value of a setting or of a whole table of them; None where neither a run's settings nor the defaults have it.

    >>> settings = {"training.batch_size": 2, "model.norm_options.num_groups": 8}
    >>> setting_value(settings, "model.norm", {"model.norm": ""}), setting_value(settings, "model.norm_options", {})
    ('', {'num_groups': 8})
    """
    if name in settings:
        return settings[name]
    inner = {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}
    return inner or defaults.get(name)


def is_number(value: Any) -> bool:
    """True for whole numbers and fractions, not for true and false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show_setting(name: str, value: Any) -> str:
    """A setting's value for people.

    >>> show_setting("model.norm", ""), show_setting("optimizer.nesterov", True), show_setting("optimizer.lr", 0.1)
    ("the model's own", 'true', '0.1')
    """
    if value is None:
        return "not set"
    if value in ("", {}):
        return _EMPTY.get(name, "empty")
    if is_number(value):
        return f"{value:.12g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {show_setting(f'{name}.{key}', inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def other_differences(
    runs: Sequence[Run], points: pd.DataFrame, x: str, line: str, defaults: Mapping[str, Any]
) -> list[str]:
    """Sentences that name the settings, but for `x`, `line` and the seed, in which runs differ.

    Settings that differ between runs of equal x and line come first: a median of such runs is over more than seeds.
    `points` has a row a run, with the columns `line` and `x`.
    """
    within, between = [], []
    settings = [run.settings | {WORLD_SIZE: run.environment.get(WORLD_SIZE)} for run in runs]
    for name in dict.fromkeys(key for of_run in settings for key in of_run):
        if name == SEED or any(axis and f"{name}.".startswith(f"{axis}.") for axis in (x, line)):
            continue
        values = [setting_value(of_run, name, defaults) for of_run in settings]
        texts = pd.Series([json.dumps(value, default=str) for value in values], index=points.index)
        if texts.nunique() == 1:
            continue
        if not _follows(texts, points[["line", "x"]]):
            within.append(name)
        elif _follows(texts, points[["x"]]):
            between.append(f"{name} (goes with {x})")
        elif _follows(texts, points[["line"]]):
            between.append(f"{name} (goes with {line})")
        else:
            between.append(name)
    return [
        *([f"Runs of one point differ in more than their seed: {', '.join(within)}."] if within else []),
        *([f"Other settings differ from point to point: {', '.join(between)}."] if between else []),
    ]


def _follows(values: "pd.Series[str]", keys: pd.DataFrame) -> bool:
    """True if rows of equal keys have equal values."""
    return bool((values.groupby([keys[column] for column in keys]).nunique() == 1).all())
