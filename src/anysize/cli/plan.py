"""`anysize plan RECIPE`."""

from anysize.cli import Settings, parse_settings


def command(recipe: str, /, *settings: Settings, images: int = 0) -> None:
    """Say what a run will cost before it starts: by size, and in all.

    Args:
        recipe: a recipe's name or the path of a TOML file
        images: number of training images, instead of the data set's own
    """
    from anysize.experiment.planning import plan
    from anysize.reports.console import show_table
    from anysize.reports.text_table import TextTable

    result = plan(recipe, parse_settings(settings), images=images)
    header = "size", "samples", "steps", "batch", "copies", "forward MFLOPs", "backward MFLOPs", "share of FLOPs"
    rows, cost = [], result.cost
    for part in cost.sizes:
        often = f"{part.samples / cost.samples:.1%}", f"{part.steps / cost.steps:.1%}"
        flops = f"{part.flops.forward / 1e6:,.1f}", f"{part.flops.backward / 1e6:,.1f}"
        share = f"{part.total_flops / cost.total_flops:.1%}"
        rows.append([f"{part.size} px", *often, str(part.batch_size), str(part.copies), *flops, share])
    show_table(TextTable(header, rows, title=f"{recipe}: {result.length:,} training images, {result.epochs} epochs"))
    print(
        f"{result.steps:,} steps, {result.images:,} images, {result.flops / 1e15:.4g} PFLOPs: {result.ratio:.3f} times "
        f"training {result.base_epochs} epochs at {result.base} px; about {result.memory / 2**30:.2f} GiB of memory"
    )
