"""`anysize models [PATTERN]` and `anysize models show NAME`."""

import cyclopts

from anysize.cli import Settings, parse_settings

command = cyclopts.App(help="List the models, or show the structure of one.", help_format="plaintext")


@command.default
def list_models(pattern: str = "", /) -> None:
    """List the models with parameters, FLOPs of an image of the size they are for, and the smallest image they take.

    A multiply-add counts as 2 FLOPs. timm:NAME, FILE.py:FUNCTION and MODULE:FUNCTION are models, too.

    Parameters
    ----------
    pattern
        only names that contain this, or match it where it has * or ?
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from anysize.models.measure.table import find_models, read_table
    from anysize.registry import UserError, did_you_mean

    models = find_models(pattern)
    if not models:
        hint = did_you_mean(pattern, [model.name for model in read_table()])
        raise UserError(f"no model's name has {pattern!r} in it: {hint}")
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column, justify in {"model": "left", "parameters": "right", "FLOPs": "right", "at": "right"}.items():
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("smallest", justify="right", no_wrap=True)
    table.add_column("")  # the only one that is cut where the terminal is narrow
    for model in models:
        table.add_row(
            model.name,
            f"{model.parameters / 1e6:,.2f} M",
            f"{model.flops / 1e9:,.3f} G",
            f"{model.image_size} px",
            f"{model.smallest} px",
            Text(model.description, no_wrap=True, overflow="ellipsis"),
        )
    Console().print(table)


@command.command
def show(
    name: str,
    /,
    *settings: Settings,
    size: int | None = None,
    norm: str = "",
    task: str = "",
    classes: int | None = None,
    channels: int | None = None,
) -> None:
    """Show what a model is made of: output shape, parameters and FLOPs of its parts, for one image in evaluation.

    Settings of [model], such as --model.options.depth 20 or --model.elasticize auto, are taken, too.

    Parameters
    ----------
    name
        one that `anysize models` lists, timm:NAME, FILE.py:FUNCTION, MODULE:FUNCTION, or a run folder
    size
        side of the image, pixels; by default the one that the model was published for
    norm
        swap the model's norms for this one
    task
        classification or segmentation; by default what the model was made for
    classes
        by default as many as the model was published with; for segmentation 21, as VOC has
    channels
        of the images; by default as many as the model was published with
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from anysize.experiment.named import named_model
    from anysize.models.measure.input_size import smallest_size
    from anysize.models.measure.memory import activation_bytes
    from anysize.models.measure.structure import structure

    def one_line(text: str) -> Text:
        return Text(text, no_wrap=True, overflow="ellipsis")

    given = {**parse_settings(settings), **({"model.norm": norm} if norm else {})}
    model, expected = named_model(name, given, task=task, size=size, num_classes=classes, in_channels=channels)
    channels = channels or expected.channels
    parts = structure(model, expected.image_size, channels)
    parameters, flops = (sum(getattr(part, what) for part in parts) for what in ("parameters", "flops"))
    table = Table(title=f"{name} at {expected.image_size} px", box=box.SIMPLE, show_footer=True, pad_edge=False)
    table.add_column("part", "all", no_wrap=True)
    table.add_column("module", one_line(type(model).__name__))
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", f"{parameters:,}", justify="right", no_wrap=True)
    table.add_column("MFLOPs", f"{flops / 1e6:,.1f}", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for part in parts:
        output = " x ".join(map(str, part.output)) if part.output else "-"
        share = f"{part.flops / max(flops, 1):.1%}"
        table.add_row(part.name, one_line(part.kind), output, f"{part.parameters:,}", f"{part.flops / 1e6:,.1f}", share)
    console = Console()
    console.print(table)
    kept = activation_bytes(model, expected.image_size, channels) / 2**20
    console.print(
        f"expects {channels} channels, {expected.image_size} px ({expected.resize}, {expected.interpolation}, crop "
        f"ratio {expected.crop_ratio:.3g}); the smallest it takes is {smallest_size(model, channels)} px; training "
        f"keeps {kept:,.1f} MiB an image between forward and backward",
        soft_wrap=True,
        highlight=False,
    )
