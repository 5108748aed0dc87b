"""`anysize plan RECIPE`."""

from anysize.cli import Settings, check_recipe, parse_settings
from anysize.registry import UserError, counted


def command(recipe: str, /, *settings: Settings, images: int = 0, devices: int = 1, tflops: float = 0.0) -> None:
    """Say what a run will cost before it starts: by size, and in all.

    Args:
        recipe: a recipe's name or the path of a TOML file
        images: number of training images, instead of the data set's own
        devices: processes that train together, each with a batch of training.batch_size
        tflops: what a device computes in a second while it trains, in 10^12 FLOPs: says how long the run takes and
            how many images a second the loaders must give
    """
    if tflops < 0:
        raise UserError(f"--tflops is {tflops:g}; expected a number above 0, such as 50")
    overrides = parse_settings(settings)
    check_recipe(recipe, overrides)
    from anysize.experiment.planning import plan
    from anysize.reports.columns import show
    from anysize.reports.console import show_table
    from anysize.reports.text_table import TextTable
    from anysize.sizes.shapes import in_pixels

    result = plan(recipe, overrides, images=images, devices=devices)
    header = "size", "samples", "steps", "batch", "copies", "forward", "backward", "share of FLOPs"
    rows, cost = [], result.cost
    for part in cost.sizes:
        often = f"{part.samples / cost.samples:.1%}", f"{part.steps / cost.steps:.1%}"
        flops = show("flops", part.flops.forward), show("flops", part.flops.backward)
        share = f"{part.total_flops / cost.total_flops:.1%}"
        rows.append([in_pixels(part.extent), *often, str(part.batch_size), str(part.copies), *flops, share])
    title = f"{recipe}: {counted(result.length, 'training image')}, {counted(result.epochs, 'epoch')}"
    show_table(TextTable(header, rows, title=title))
    print(
        f"{counted(result.steps, 'step')}, {counted(result.images, 'image')}, {show('flops', result.flops)}: "
        f"{result.ratio:.3f} times training {counted(result.base_epochs, 'epoch')} at {result.base} px; about "
        f"{result.memory / 2**30:.2f} GiB of memory"
    )
    if cost.measured_flops:
        print(f"{cost.measured_flops / result.flops:.1%} of the FLOPs measure gradients of copies (adapt_copies)")
    if cost.beside_flops:
        print(
            f"{cost.beside_flops / result.flops:.1%} of the FLOPs are for teachers and samples at a second size "
            "(distill, both_sizes, consistency)"
        )
    if devices > 1:
        print(
            f"{devices} devices: {counted(result.total_batch, 'sample')} a step at {result.base} px, "
            f"{result.total_batch // devices:,} a device; {counted(result.steps, 'step')}; about "
            f"{result.memory / 2**30:.2f} GiB of memory a device"
        )
    for note in result.notes:
        print(note)
    if tflops or devices > 1:
        speed = result.images_per_second(tflops or 1.0)
        given = f"at {tflops:g} TFLOP/s" if tflops else "for each TFLOP/s that a device computes"
        hours = f"; {result.hours(tflops):,.1f} hours" if tflops else ""
        print(f"{given} its loader must give {speed:,.0f} images a second, all {speed * devices:,.0f}{hours}")
