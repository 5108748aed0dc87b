"""`anysize.repeat`: one recipe trained from several seeds, and what the runs have in common.

    anysize train online_norm/cifar10-resnet20-online --data.root DIR --repeat 5

A single run says little: seeds alone move the accuracy by some tenths of a percentage point. The runs lie in
`RUN/seed-K`, each a run folder like any other; `RUN/repeats.csv` has the table that `repeat` returns.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from anysize.experiment import build
from anysize.experiment.identity import folder_for, identity_of
from anysize.experiment.targets import open_sources
from anysize.experiment.together import joined_for, resolve
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.recipes import recipe_names
from anysize.registry import NotFinite, UserError, counted, printable
from anysize.reports import run_files, schema
from anysize.reports.columns import HOW_VALIDATED, is_fraction, label, lower_is_better, show
from anysize.reports.console import tolerant
from anysize.reports.read_tables import read_table
from anysize.reports.text_table import TextTable
from anysize.world import World


def repeat(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    n: int = 5,
    *,
    run: str | Path | None = None,
    resume_from: str = "last",
    allow_changes: bool = False,
    max_hours: float | None = None,
    console: Console | None = None,
) -> pd.DataFrame:
    """Train a recipe `n` times, from the seeds `training.seed`, `training.seed + 1`, ..., one run after the other.

    The same call goes on where it was stopped: runs that are trained to their end are not trained again. A larger `n`
    adds runs. A run that diverges is left out of the table, and the console says so.

    Args:
        recipe: a recipe's name, the path of its TOML file, or a `Recipe`.
        overrides: `{"section.field": value}`; `training.seed` is the first seed.
        n: number of runs.
        run: the folder of the runs' folders `seed-K`; by default the one that `train` would use for a single run.
        resume_from, allow_changes: of each run, as in `train`.
        max_hours: of all runs together, as in `train`.
        console: where to show progress; None: standard output.

    Returns:
        Two rows a validation metric, as `summarize_repeats` makes them; also written to `repeats.csv`.

    Raises:
        UserError: n below 1, every run diverged, or what `train` raises.
        Interrupted: a signal asked to stop, or the time is over (`TimeOver`); the state was saved.

    Example (trains twelve epochs on the embedded images)::

        table = anysize.repeat("quickstart", {"training.epochs": 4}, n=3)
        print(table.loc[table["at"] == "last", ["metric", "median", "min", "max"]])
    """
    if not isinstance(recipe, Recipe) and Path(recipe).is_dir() and str(recipe) not in recipe_names():
        raise UserError(
            f"{recipe} is a folder, and a run is not repeated in itself; give a recipe, such as "
            f"{Path(recipe) / run_files.RECIPE}, and a folder with --out"
        )
    name = "recipe" if isinstance(recipe, Recipe) else str(recipe)
    folder = Path(run) if run else build.default_run_folder(name, overrides or {})
    with joined_for(lambda: resolve(recipe, overrides), "training") as (resolved, world):
        with world.together():
            if n < 1:
                raise UserError(f"repeat is {n}; expected the number of runs, at least 1")
            if world.main and not run:
                identity = identity_of(open_sources(resolved), resolved.data)
                folder = folder_for(folder, identity, allow_changes=allow_changes)
        folder = world.share(folder)
        console = tolerant(console or Console(quiet=not world.main))
        how: dict[str, Any] = {"resume_from": resume_from, "allow_changes": allow_changes, "console": console}
        return _repeat(resolved, n, folder, max_hours, world, how)


def _repeat(
    recipe: Recipe, n: int, folder: Path, max_hours: float | None, world: World, how: Mapping[str, Any]
) -> pd.DataFrame:
    console = how["console"]
    started, finished, diverged, unread = time.monotonic(), [], [], []
    for i, seed in enumerate(range(recipe.training.seed, recipe.training.seed + n)):
        console.print(f"run {i + 1} of {n}: seed {seed}", soft_wrap=True)
        try:
            left = max_hours and max(max_hours - (time.monotonic() - started) / 3600, 1e-6)
            done = train(recipe, {"training.seed": seed}, run=folder / f"seed-{seed}", max_hours=left, **how)
        except NotFinite as error:  # the other seeds may not: their number says how reliable the recipe is
            diverged.append(seed)
            told = printable(f"warning: seed {seed} is left out: {error}")
            console.print(Text(told, style="yellow"), soft_wrap=True)
        else:
            world.agree(False)  # waits until the first process has written what all read
            metrics = read_table(done / run_files.METRICS, schema.METRICS)  # which says what is wrong with it
            if len(metrics):
                finished.append(metrics.set_index("epoch"))
            else:
                told = f"seed {seed} is left out of the table: its {run_files.METRICS} cannot be read"
                console.print(Text(f"warning: {told}", style="yellow"), soft_wrap=True)
                unread.append(seed)
    if not finished and unread:
        raise UserError(f"no {run_files.METRICS} of the runs in {folder} can be read; their checkpoints are whole")
    if not finished:
        raise UserError(
            f"{f'all {n} runs' if n > 1 else 'the run'} in {folder} diverged; lower optimizer.lr or set "
            "optimizer.clip_norm"
        )
    table = summarize_repeats(finished)
    if world.main:
        path, rows = folder / run_files.REPEATS, table.to_dict("records")
        run_files.go_on_without(path, lambda: run_files.write_rows(path, rows))
    if diverged:
        seeds = ", ".join(map(str, diverged))
        console.print(f"{len(finished)} of {n} runs reached their end; these seeds diverged: {seeds}", soft_wrap=True)
    return table


def summarize_repeats(metrics: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Median, range and spread over runs of each validation metric: at the last epoch of all runs, and at the best.

    The best epoch is that of the best point of the median curve: of the median over the runs at each epoch. The
    results of Online Normalization are given so. The epoch is chosen on the validation images, which flatters; the
    last epoch's figures do not choose.

    Args:
        metrics: the `metrics.csv` of each run, indexed by epoch.

    Returns:
        The columns `metric`, `at` ("last" or "best"), `epoch`, `runs`, `median`, `min`, `max`, and `sd`, the sample
        standard deviation (n - 1 in the denominator; NaN for one run).

    >>> curves = ([0.5, 0.9, 0.7], [0.4, 0.6, 0.8], [0.3, 0.8, 0.6])
    >>> runs = [pd.DataFrame({"validation_top1": curve}, index=[1, 2, 3]) for curve in curves]
    >>> print(summarize_repeats(runs).to_string(index=False))
             metric   at  epoch  runs  median  min  max       sd
    validation_top1 last      3     3     0.7  0.6  0.8 0.100000
    validation_top1 best      2     3     0.8  0.6  0.9 0.152753
    """
    columns = [c for c in metrics[0].columns if c.startswith("validation_") and c not in HOW_VALIDATED]
    rows = []
    for column in columns:
        values = pd.concat([run[column] for run in metrics], axis=1).dropna()  # epochs x runs
        if values.empty:
            continue
        curve = values.median(axis=1)
        best = int(curve.argmin() if lower_is_better(column) else curve.argmax())
        for at, place in (("last", -1), ("best", best)):
            over, epoch = values.iloc[place], values.index[place]
            spread = {"median": over.median(), "min": over.min(), "max": over.max(), "sd": over.std(ddof=1)}
            rows.append({"metric": column, "at": at, "epoch": epoch, "runs": len(over), **spread})
    return pd.DataFrame(rows)


def repeats_table(summary: pd.DataFrame) -> TextTable:
    """The table that `repeat` returns, for people."""
    rows = []
    for row in summary.to_dict("records"):
        metric = str(row["metric"])
        values = (show(metric, row[key]) for key in ("median", "min", "max"))
        rows.append([label(metric), f"{row['epoch']} ({row['at']})", *values, _spread(metric, row["sd"])])
    return TextTable(
        ["metric", "at epoch", "median", "min", "max", "sd"],
        rows,
        labels=2,
        title=counted(int(summary["runs"].max()), "run") if len(summary) else "no validation",
        caption="sd: sample standard deviation; best: the epoch of the best median, chosen on the validation images",
    )


def _spread(column: str, deviation: float) -> str:
    """A deviation for people; of percentages with one digit more, since it is often below a point."""
    return f"{100 * deviation:.2f}%" if is_fraction(column) and deviation >= 0 else show(column, deviation)
