"""`anysize.search`: the best of several variants of a recipe at several image sizes, by successive halving.

    anysize search quickstart variants.toml --budget 36 --sizes 14,21,28

Every round spends the same part of the budget. The first one trains all variants shortly; the better ones go into the
next round, where fewer of them train for longer (Jamieson, Talwalkar, arXiv 1502.07943). Each training starts anew,
since schedules of sizes and learning rates are written for a run's length, and each round has a seed of its own, so
that a variant that was lucky once is not carried on by it. The runs lie in `OUT/round-K/VARIANT`, each a run folder
like any other.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from anysize.evaluation.sizes import parse_sizes
from anysize.experiment import build, sizing
from anysize.experiment.evaluate import evaluate
from anysize.experiment.planning import data_of, plan
from anysize.experiment.together import resolve
from anysize.experiment.train import train
from anysize.experiment.weights import find_weights
from anysize.models import trust
from anysize.models.trust import NotTrusted
from anysize.preprocessing import Preprocessing
from anysize.ranks import launched_together
from anysize.recipe import Recipe, override
from anysize.registry import NotFinite, UserError, shown
from anysize.reports import run_files
from anysize.reports.columns import show
from anysize.reports.text_table import TextTable
from anysize.tasks.base import task_class


def halving(variants: int, budget: int, keep: int = 2) -> list[tuple[int, int]]:
    """The rounds of a search: how many variants each trains, and for how many epochs each.

    One in `keep` variants goes on, two at least into the last round, and each round has the same part of the budget.

    Args:
        variants: their number, at least 2.
        budget: epochs of all trainings together.
        keep: at least 2.

    Raises:
        UserError: too few variants, or a budget that leaves a training of the first round less than one epoch.

    >>> halving(8, budget=48)
    [(8, 2), (4, 4), (2, 8)]
    """
    if variants < 2 or keep < 2:
        raise UserError(f"{variants} variants, of which one in {keep} goes on; expected at least two of both")
    counts = [variants]
    while counts[-1] > 2:
        counts.append(max(2, -(-counts[-1] // keep)))
    if budget < variants * len(counts):
        raise UserError(
            f"a budget of {budget} epochs for {variants} variants in {len(counts)} rounds leaves one of the first "
            f"round less than an epoch; expected at least {variants * len(counts)}, or fewer variants"
        )
    return [(count, budget // len(counts) // count) for count in counts]


def read_variants(path: str | Path) -> dict[str, dict[str, Any]]:
    """The variants of a TOML file, a table each: `{name: {"section.field": value}}`.

    Raises:
        UserError: no file, not TOML, or what is no table of settings.
    """
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected TOML with a table for each variant") from None
    variants = {}
    for name, sections in tree.items():
        if not isinstance(sections, dict) or not all(isinstance(values, dict) for values in sections.values()):
            raise UserError(
                f'{path}: {name} is {shown(sections)}; expected a table of settings, such as sizes.mix = "B+"'
            )
        trust.found(sections.get("model"), path)
        variants[name] = {f"{section}.{key}": value for section, values in sections.items()
                          for key, value in values.items()}  # fmt: skip
    return variants


def search(
    recipe: str | Path | Recipe,
    variants: str | Path | Mapping[str, Mapping[str, Any]],
    *,
    budget: int,
    sizes: str | list[int],
    overrides: Mapping[str, Any] | None = None,
    keep: int = 2,
    run: str | Path = "search",
    on_row: Callable[[dict[str, Any]], object] = lambda row: None,
    console: Console | None = None,
) -> pd.DataFrame:
    """Find the variant of a recipe whose calibrated accuracy, the mean over `sizes`, is the highest.

    The same call goes on where it was stopped: what is trained to its end is not trained again.

    Args:
        recipe, overrides: as `train` takes them, for all variants; their training.seed is that of the first round.
        variants: {name: {"section.field": value}}, or a TOML file with a table for each.
        budget: epochs (training.epochs) of all trainings together; with training.equal_flops epochs at the base size.
        sizes: pixels, as `evaluate` takes them.
        keep: one in so many variants goes on.
        run: the folder of the runs' folders; `search.csv` is written there after each training.
        on_row: called with each row when it is measured.
        console: where trainings show their progress; None: nowhere.

    Returns:
        A row a training: `round`, `variant`, `epochs`, `seed`, `flops`, the metric of the task at each size such as
        `top1@28`, and `mean` over the sizes; NaN for one that diverged. Best of the last round first, then the others.

    Raises:
        UserError: several processes, a bad recipe or variant, a budget too small, or what `train` and `evaluate` raise.

    Example (trains twelve epochs on the embedded images)::

        variants = {"mixed": {}, "small first": {"sizes.mix": "window", "sizes.sizes": [14, 21, 28]}}
        print(anysize.search("quickstart", variants, budget=12, sizes=[14, 21, 28]))
    """
    if launched_together():
        raise UserError("variants are compared by one process; give the command without torchrun or srun")
    from_file = isinstance(variants, (str, Path))
    named = read_variants(variants) if isinstance(variants, (str, Path)) else dict(variants)
    plain, pixels = resolve(recipe, overrides), parse_sizes(sizes)
    rounds = halving(len(named), budget, keep)
    length, given, _ = data_of(plain)
    counts = length, len(given.classes)
    recipes = {}
    for name, settings in named.items():
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(f"a variant is called {shown(name)}; expected a name that a folder may have")
        try:
            recipes[name] = override(plain, settings, from_file=from_file)
            first = override(recipes[name], {"training.epochs": rounds[0][1]})
            images, preprocessing, _ = data_of(first, *(counts if first.data == plain.data else ()))
            plan(first, images=images, classes=len(preprocessing.classes))  # says before any is trained what is wrong
            if first.model.weights:
                _check_weights(first, preprocessing)
        except NotTrusted:
            raise
        except UserError as error:
            raise UserError(f"variant {name}: {error}") from None
    folder, console = Path(run), console or Console(quiet=True)
    rows: list[dict[str, Any]] = []
    left = list(recipes)
    for number, (count, epochs) in enumerate(rounds, start=1):
        left = left[:count]
        trained = []
        for name in left:
            changed = {"training.epochs": epochs, "training.seed": plain.training.seed + number - 1}
            row = {"round": number, "variant": name, "epochs": epochs, "seed": changed["training.seed"]}
            row |= _measured(override(recipes[name], changed), folder / f"round-{number}" / name, pixels, console)
            trained.append(row)
            on_row(row)
            run_files.write_rows(folder / run_files.SEARCH, _best_first([*rows, *trained]))
        rows += trained
        left = [row["variant"] for row in _best_first(trained)]
    return pd.DataFrame(_best_first(rows))


def _check_weights(recipe: Recipe, preprocessing: Preprocessing) -> None:
    """Raise a `UserError` where the weights that the recipe starts from are not there, or do not fit its model."""
    model = recipe.model
    weights = find_weights(model.weights, model.name, model.options, size=sizing.base_size(recipe))
    build.build_model(recipe, preprocessing, weights)


def _measured(recipe: Recipe, folder: Path, sizes: list[int], console: Console) -> dict[str, Any]:
    metric = task_class(recipe.task.name).best
    try:
        done = train(recipe, run=folder, console=console)
    except NotFinite:
        return {"flops": float("nan"), **{f"{metric}@{size}": float("nan") for size in sizes}, "mean": float("nan")}
    table = evaluate(done, sizes)
    best = table.groupby("size", sort=False)[["calibrated", metric]].last()  # calibrated, where it can be
    spent = run_files.read_rows(done / run_files.METRICS)[-1]["flops"]
    figures = {f"{metric}@{size}": float(best.loc[size, metric]) for size in sizes}
    return {"flops": float(spent), **figures, "mean": sum(figures.values()) / len(figures)}


def _best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the last round first, those of a round by their mean, what diverged last."""
    return sorted(rows, key=lambda row: (-row["round"], row["mean"] != row["mean"], -row["mean"]))


def search_table(found: pd.DataFrame) -> TextTable:
    """The table that `search` returns, for people."""
    figures = [column for column in found.columns if "@" in column]
    rows = [
        [
            row["variant"], str(row["round"]), str(row["epochs"]), str(row["seed"]),
            *(show(column.partition("@")[0], row[column]) for column in figures),
            show(figures[0].partition("@")[0], row["mean"]),
        ]
        for row in found.to_dict("records")
    ]  # fmt: skip
    header = ["variant", "round", "epochs", "seed", *(f"{c.partition('@')[2]} px" for c in figures), "mean"]
    metric = figures[0].partition("@")[0]
    return TextTable(header, rows, title=f"{metric}, calibrated where the network can be", caption="best first")
