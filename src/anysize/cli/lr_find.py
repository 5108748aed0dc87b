"""`anysize lr-find RECIPE`."""

import shlex
from pathlib import Path

from anysize.cli import Settings, check_recipe, parse_settings, say_written, tell, with_device


def command(
    recipe: str,
    /,
    *settings: Settings,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    out: str = "lr-find",
    device: str = "",
) -> None:
    """Look for a learning rate: a few steps with ever larger ones, until the loss diverges.

    A model is built for it and thrown away; run folders are left alone. Writes OUT.csv and OUT.html.

    Args:
        recipe: a recipe's name, the path of a TOML file, or a run folder, whose recipe counts
        low: the first learning rate
        high: the last one
        steps: of the test
        out: the name of the table and of the page with the figure, without the ending
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    overrides = with_device(parse_settings(settings), device)
    check_recipe(recipe, overrides)
    from anysize.experiment.lr_find import lr_find
    from anysize.registry import counted
    from anysize.reports.columns import show
    from anysize.reports.console import progress
    from anysize.reports.lr_page import lr_page
    from anysize.reports.run_files import check_writable, text_of, write_all_that_can_be, write_atomically

    files = [Path(f"{out}.{ending}") for ending in ("csv", "html")]
    for file in files:
        check_writable(file)  # before the steps are made
    with progress("looking") as say:
        found = lr_find(
            recipe,
            overrides,
            low=low,
            high=high,
            steps=steps,
            on_step=lambda step, rate, loss: say(f"step {step} of {steps}: lr {rate:.2e}, loss {loss:.3f}"),
        )
    curve, rows = found.curve, found.rows()
    last = show("lr", curve.rates[-1])
    ended = {
        "whole": f"The test went on to its last learning rate, {last}: the loss has not grown fourfold before.",
        "diverged": f"The loss diverges at {last}, where the test ended.",
        "not finite": f"The loss is not finite any more above {last}, where the test ended.",
    }[curve.ended]
    page = lr_page(Path(recipe).stem, rows, curve.suggestion, found.given, ended)
    written = write_all_that_can_be(
        {
            files[0]: lambda: write_atomically(files[0], text_of(rows)),
            files[1]: lambda: write_atomically(files[1], page),
        }
    )
    tell(f"{counted(len(rows), 'step')}; {ended[0].lower()}{ended[1:].rstrip('.')}")
    if curve.suggestion is None:
        tell(
            "no suggestion: the loss falls at no learning rate; try --low and --high, or more --steps, or look at the "
            "data with --overfit-batches"
        )
    else:
        rate = f"{curve.suggestion:.2g}"
        tell(
            f"suggestion: {rate} as the largest optimizer.lr, where the loss falls fastest; it is lowest at "
            f"{show('lr', curve.lowest)}, and the recipe has {show('lr', found.given)}"
        )
        tell(f"  anysize train {shlex.quote(recipe)} --optimizer.lr {rate}")
        tell("  (this is one for all epochs; a schedule keeps its form where its values are scaled in the recipe)")
    say_written(written)
