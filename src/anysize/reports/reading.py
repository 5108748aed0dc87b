"""A run folder, read: the tables, the recipe and the environment, without knowing what trained them."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.columns import error_of, lower_is_better, main_metric, metrics_of, split_of


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The content of a run folder; `metrics` (with errors added) and `evaluation` are empty without their file.

    `evaluation` and `evaluation_tables` are those of one checkpoint, split and test-time settings: of the latest
    evaluation on validation images. `other_evaluations` are the rest, by what they are of.
    """

    folder: Path
    name: str
    metrics: pd.DataFrame
    evaluation: pd.DataFrame
    evaluation_tables: pd.DataFrame
    scale_policy: pd.DataFrame
    recipe: str
    environment: dict[str, Any]
    other_evaluations: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path, name: str = "") -> "Run":
        """Read a run folder; its name is the folder's unless given. A folder without such files is a `UserError`."""
        folder = Path(folder)
        if not any((folder / file).exists() for file in (run_files.METRICS, run_files.EVALUATION, run_files.RECIPE)):
            what = "has none of" if folder.is_dir() else "is no folder with"
            raise UserError(
                f"{folder} {what} {run_files.RECIPE}, {run_files.METRICS}, {run_files.EVALUATION}; give a run's folder"
            )
        evaluations = _by_settings(_read_table(folder / run_files.EVALUATION, "calibrated"))
        tables = _read_table(
            folder / run_files.EVALUATION_TABLES, "calibrated", ("table", "row", "column"), missing=False
        )
        shown = _latest(evaluations)
        recipe, environment = folder / run_files.RECIPE, folder / run_files.ENVIRONMENT
        return cls(
            folder,
            name or folder.resolve().name,
            _with_errors(_read_table(folder / run_files.METRICS, "validation_calibrated")),
            evaluations.get(shown, pd.DataFrame()),
            _by_settings(tables).get(shown, pd.DataFrame()) if "settings" in tables else tables,
            _read_table(folder / run_files.SCALE_POLICY, missing=False),
            recipe.read_text(encoding="utf-8", errors="surrogateescape") if recipe.exists() else "",
            json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
            {_in_words(key): frame for key, frame in evaluations.items() if key != shown},
        )

    @property
    def evaluated_with(self) -> str:
        """The split and the test-time settings of `evaluation` where they are not as usual; empty otherwise."""
        if not len(self.evaluation):
            return ""
        made = self.evaluation.iloc[-1].reindex(["split", "settings"])
        return ", ".join(str(each) for each in made if each not in ("", "validation") and not pd.isna(each))

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe as `section.field` -> value; empty when it cannot be parsed (it is shown as text anyway)."""
        try:
            return _flatten(tomllib.loads(self.recipe))
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def sizes(self) -> list[dict[int, float]]:
        """Size -> share of the images, an entry an epoch."""
        column = self.metrics.get("sizes", pd.Series(dtype=str)).fillna("{}")
        return [{int(size): share for size, share in json.loads(cell).items()} for cell in column]

    @property
    def base_size(self) -> int:
        """The base image size, as far as the files tell; 0 where they do not."""
        validated = self._values("validation_size")
        return int(self.settings.get("sizes.base") or (validated.iloc[-1] if len(validated) else 0))

    @property
    def main_metric(self) -> str:
        """The validation column by which this run is judged."""
        return "validation_" + main_metric(metrics_of(c for c in self.metrics.columns if c.startswith("validation_")))

    def last(self, column: str) -> float:
        """A column's last value; NaN when there is none."""
        values = self._values(column)
        return float(values.iloc[-1]) if len(values) else float("nan")

    def best(self, column: str) -> tuple[float, int]:
        """A column's best value and its epoch; (NaN, 0) when there is none."""
        values = self._values(column)
        if not len(values):
            return float("nan"), 0
        place = int(values.argmin() if lower_is_better(column) else values.argmax())
        return float(values.iloc[place]), int(values.index[place])

    def _values(self, column: str) -> "pd.Series[float]":
        """The values of a column by epoch, without those that are missing."""
        if column not in self.metrics:
            return pd.Series(dtype=float)
        return self.metrics.set_index("epoch", drop=False)[column].dropna()


def _read_table(path: Path, boolean: str = "", text: tuple[str, ...] = (), *, missing: bool = True) -> pd.DataFrame:
    """A table; without `missing` values an empty cell is empty text, and a class may be called "NA".

    The columns `text` stay as they stand, and a class may be called "007", too. An empty `value` is always missing.
    """
    if not path.exists():
        return pd.DataFrame()
    frame = pd.read_csv(path, keep_default_na=missing, na_values={"value": [""]}, dtype=dict.fromkeys(text, str))
    if boolean in frame:
        frame[boolean] = frame[boolean].astype(str) == "True"
    return frame


_Made = tuple[str, str, str]  # of which checkpoint, on which split, with which settings


def _by_settings(frame: pd.DataFrame) -> dict[_Made, pd.DataFrame]:
    """The rows of evaluations by how they were made, the latest last; files of earlier versions do not tell."""
    if not len(frame):
        return {}
    told = frame.reindex(columns=["checkpoint", "split", "settings"]).astype(object)
    told = told.where(told.notna(), "").astype(str)
    made = pd.Series(list(told.itertuples(index=False, name=None)), index=frame.index, dtype=object)
    latest_last = list(dict.fromkeys(reversed(made.tolist())))[::-1]
    return {key: frame[[each == key for each in made]] for key in latest_last}


def _latest(evaluations: dict[_Made, pd.DataFrame]) -> _Made:
    """The latest of those on validation images, or else of all."""
    every = list(evaluations)
    return next((key for key in reversed(every) if key[1] in ("", "validation")), every[-1] if every else ("", "", ""))


def _in_words(made: _Made) -> str:
    checkpoint, split, settings = made
    told = "unknown settings" if settings == "unknown" else settings
    return ", ".join(part for part in (checkpoint, f"{split or 'validation'} images", told) if part)


def _with_errors(metrics: pd.DataFrame) -> pd.DataFrame:
    """Add `SPLIT_error = 1 - SPLIT_top1`, and its like, for each top-k accuracy."""
    errors = {}
    for column in metrics.columns:
        split, metric = split_of(column)
        if split and (error := error_of(metric)):
            errors[f"{split}_{error}"] = 1 - metrics[column]
    return metrics.assign(**errors)


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
