"""`anysize search RECIPE VARIANTS`."""

from rich.console import Console

from anysize.cli import Settings, check_recipe, parse_settings, say_written, with_device


def command(
    recipe: str,
    variants: str,
    /,
    *settings: Settings,
    budget: int,
    sizes: str,
    keep: int = 2,
    out: str = "search",
    device: str = "",
) -> None:
    """Find the best of several variants of a recipe: all train shortly, the better ones again for longer.

    VARIANTS is a TOML file with a table of settings for each. Writes OUT/search.csv and a run folder a training.

    Args:
        recipe: a recipe's name or the path of a TOML file
        variants: a TOML file: a table for each variant, such as [mixed] with sizes.mix = "B+"
        budget: epochs of all trainings together
        sizes: image sizes whose mean accuracy decides: 14,21,28 or 16:48:8
        keep: one in so many variants goes on into the next round
        out: the folder of the runs and of the table
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    overrides = with_device(parse_settings(settings), device)
    check_recipe(recipe, overrides)
    from pathlib import Path

    from anysize.experiment.search import search, search_table
    from anysize.reports import run_files
    from anysize.reports.console import show_table

    found = search(
        recipe, variants, budget=budget, sizes=sizes, overrides=overrides, keep=keep, run=out, console=Console()
    )
    show_table(search_table(found))
    say_written([str(Path(out) / run_files.SEARCH)])
