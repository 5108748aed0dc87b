"""A run folder, read: the tables, the recipe and the environment, without knowing what trained them."""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anysize.files import read_text
from anysize.forms import Unfit
from anysize.registry import UserError, counted, some_of
from anysize.reports import run_files, schema
from anysize.reports.columns import error_of, lower_is_better, main_metric, metrics_of, split_of
from anysize.reports.image_predictions import read_image_predictions
from anysize.reports.improvement import without_improvement
from anysize.reports.log_reading import planned_epochs
from anysize.reports.read_tables import read_table
from anysize.reports.schema import flat_settings, read_piece, say_left_out, say_once


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The content of a run folder; `metrics` (with errors added) and `evaluation` are empty without their file.

    What does not fit the `schema` is left out as if it were not there, which the log says.

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
        evaluations = _by_settings(read_table(folder / run_files.EVALUATION, schema.EVALUATION))
        tables = read_table(folder / run_files.EVALUATION_TABLES, schema.EVALUATION_TABLES)
        shown = _latest(evaluations)
        by_settings = _by_settings(tables) if "settings" in tables else {shown: tables}
        return cls(
            folder,
            name or folder.resolve().name,
            _with_errors(read_table(folder / run_files.METRICS, schema.METRICS, _check_sizes)),
            evaluations.get(shown, pd.DataFrame()),
            by_settings.get(shown if evaluations else _latest(by_settings), pd.DataFrame()),
            read_table(folder / run_files.SCALE_POLICY, schema.SCALE_POLICY, _check_blocks),
            read_piece(folder / run_files.RECIPE, _recipe, ""),
            run_files.read_environment(folder),
            {_in_words(key): frame for key, frame in evaluations.items() if key != shown},
        )

    @property
    def evaluated_with(self) -> str:
        """The split and the test-time settings of `evaluation` where they are not as usual; empty otherwise."""
        if not len(self.evaluation):
            return ""
        made = self.evaluation.iloc[-1].reindex(["split", "settings"])
        return ", ".join(str(each) for each in made if each not in ("", "validation") and not pd.isna(each))

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The recipe as `section.field` -> value; empty when it cannot be parsed (it is shown as text anyway)."""
        try:
            settings = flat_settings(self.recipe)
            if settings and not self.recipe.endswith("\n"):
                say_once(f"{self.folder / run_files.RECIPE} does not end with a line break: it may be cut")
            return settings
        except (ValueError, RecursionError) as error:
            say_left_out(f"what {self.folder / run_files.RECIPE} says of the settings", error)
            return {}

    @functools.cached_property
    def steps(self) -> pd.DataFrame:
        """`steps.csv`: a row every few training steps; empty without it, as of a run that an older version trained."""
        return read_table(self.folder / run_files.STEPS, schema.STEPS, check_steps)

    @functools.cached_property
    def image_predictions(self) -> pd.DataFrame:
        """`predictions.csv` of the validation images, as `read_image_predictions` gives it; empty without it."""
        return read_image_predictions(self.folder)

    @property
    def sizes(self) -> list[dict[int, float]]:
        """Size -> share of the images, an entry an epoch; empty where no epoch has some."""
        return shares_of(self.metrics)

    @property
    def base_size(self) -> int:
        """The base image size, as far as the files tell; 0 where they do not."""
        validated = self.by_epoch("validation_size")
        return int(self.settings.get("sizes.base") or (validated.iloc[-1] if len(validated) else 0))

    @functools.cached_property
    def epochs(self) -> tuple[int, int]:
        """Epochs done, and those of the whole run: as planned, or up to where it ended early."""
        done, planned = self._planned
        return done, done if self.ended_early else planned

    @property
    def finished(self) -> bool:
        """Whether the whole run is trained, as far as is known."""
        done, whole = self.epochs
        return done >= whole > 0

    @property
    def progress(self) -> str:
        """Epochs done of those of the whole run, for people."""
        done, whole = self.epochs
        return f"{done} of {counted(whole, 'epoch')}"

    @functools.cached_property
    def ended_early(self) -> bool:
        """Whether the run ended where its validation got no better (training.early_stopping)."""
        patience, least = (self.settings.get(f"training.early_stopping{name}", 0) for name in ("", "_delta"))
        done, planned = self._planned
        if self.main_metric not in self.metrics or not patience or done >= planned:
            return False
        validated = self.metrics[["epoch", self.main_metric]].dropna()
        scores = zip(validated["epoch"].astype(int).tolist(), validated[self.main_metric].tolist(), strict=True)
        return bool(without_improvement(scores, least)[0] >= patience)

    @functools.cached_property
    def _planned(self) -> tuple[int, int]:
        """Epochs done and planned. Where the FLOPs decide their number, the log says how many are planned."""
        done = int(self.metrics["epoch"].iloc[-1]) if len(self.metrics) else 0
        planned = int(self.settings.get("training.epochs", done))
        if done and self.settings.get("training.equal_flops"):
            planned = planned_epochs(self.folder) or done
        return done, planned

    @property
    def main_metric(self) -> str:
        """The validation column by which this run is judged."""
        return "validation_" + main_metric(metrics_of(c for c in self.metrics.columns if c.startswith("validation_")))

    def last(self, column: str) -> float:
        """A column's last value; NaN when there is none."""
        values = self.by_epoch(column)
        return float(values.iloc[-1]) if len(values) else float("nan")

    def best(self, column: str) -> tuple[float, int]:
        """A column's best value and its epoch; (NaN, 0) when there is none."""
        values = self.by_epoch(column)
        if not len(values):
            return float("nan"), 0
        place = int(values.argmin() if lower_is_better(column) else values.argmax())
        return float(values.iloc[place]), int(values.index[place])

    def by_epoch(self, column: str) -> "pd.Series[float]":
        """The values of a column by epoch, without those that are missing."""
        if column not in self.metrics:
            return pd.Series(dtype=float)
        return self.metrics.set_index("epoch", drop=False)[column].dropna()


def judged_by(runs: Iterable[Run]) -> str:
    """The validation column by which runs are judged: that of the first trained one."""
    return next((run.main_metric for run in runs if len(run.metrics)), "validation_loss")


_REACHED = ("step", "epoch", "images", "flops", "seconds", "lr")  # at the end of the steps of a row


def thinned(steps: pd.DataFrame, most: int = 1000) -> pd.DataFrame:
    """The rows of `Run.steps` for a drawing: where there are more than `most`, means over as many rows in a row.

    What says how far training was is that of the last of these rows, and so is the learning rate.

    >>> steps = pd.DataFrame({"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0]})
    >>> thinned(steps, most=2).to_dict("list")
    {'step': [20, 30], 'loss': [2.5, 1.0]}
    """
    together = -(-len(steps) // most)
    if together <= 1:
        return steps
    of_each: dict[Any, Any] = {column: "last" if column in _REACHED else "mean" for column in steps.columns}
    if "sizes" in of_each:
        of_each["sizes"] = _mean_shares
    grouped = steps.groupby(np.arange(len(steps)) // together)
    thin: pd.DataFrame = grouped.agg(of_each).reset_index(drop=True)
    return thin


def shares_of(frame: pd.DataFrame) -> list[dict[int, float]]:
    """Size -> share of the images, an entry a row of `metrics.csv` or `steps.csv`; empty where no row has some.

    >>> shares_of(pd.DataFrame({"sizes": ['{"14": 0.25, "28": 0.75}', ""]})), shares_of(pd.DataFrame({"step": [1]}))
    ([{14: 0.25, 28: 0.75}, {}], [])
    """
    cells = frame.get("sizes", pd.Series(dtype=str))
    found = [{int(size): share for size, share in json.loads(cell or "{}").items()} for cell in cells]
    return found if any(found) else []


def _mean_shares(cells: "pd.Series[str]") -> str:
    shares: Counter[str] = Counter()
    for cell in cells:
        shares.update(json.loads(cell or "{}"))
    return json.dumps({size: round(share / len(cells), 4) for size, share in sorted(shares.items())})


def _recipe(path: Path) -> str:
    return read_text(path, schema.TEXT_BYTES, errors="surrogateescape")


def check_steps(steps: pd.DataFrame) -> None:
    """The steps of `steps.csv` rise, and its sizes are such."""
    if not steps["step"].is_monotonic_increasing or not steps["step"].is_unique:
        raise Unfit("step", some_of([*map(str, steps["step"])]), "numbers that rise")
    for cell in dict.fromkeys(steps.get("sizes", ())):
        if cell:
            schema.SIZES(json.loads(cell), "sizes")


def _check_sizes(metrics: pd.DataFrame) -> None:
    """The epochs of `metrics.csv` rise, and its sizes are such."""
    if not metrics["epoch"].is_monotonic_increasing or not metrics["epoch"].is_unique:
        raise Unfit("epoch", metrics["epoch"].tolist(), "numbers that rise")
    for i, cell in enumerate(metrics.get("sizes", ()), start=2):
        if cell:
            schema.SIZES(json.loads(cell), f"sizes in line {i}")


def _check_blocks(policy: pd.DataFrame) -> None:
    """Each label of `scale_policy.csv` has the same blocks, each once."""
    every = {*policy.loc[policy["label"] == "", "block"]}
    for label, blocks in policy.groupby("label", sort=False)["block"]:
        if {*blocks} != every or not blocks.is_unique:
            raise Unfit(f"label {label}", ", ".join(blocks), "the blocks of all images, each once")


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
