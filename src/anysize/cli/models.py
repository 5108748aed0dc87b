"""`anysize models [PATTERN]` and `anysize models show NAME`."""

import cyclopts

from anysize.cli import Settings, parse_settings, tell
from anysize.registry import UserError, counted, did_you_mean

command = cyclopts.App(help="List the models, or show the structure of one.", help_format="plaintext")


@command.default
def list_models(pattern: str = "", /) -> None:
    """List the models with parameters, FLOPs of an image of the size they are for, and the smallest image they take.

    A multiply-add counts as 2 FLOPs. timm:NAME, FILE.py:FUNCTION and MODULE:FUNCTION are models, too.

    Args:
        pattern: only names that contain this, or match it where it has * or ?
    """
    from anysize.models.measure.table import find_models, read_table
    from anysize.reports.columns import show as shown
    from anysize.reports.console import show_table
    from anysize.reports.text_table import TextTable

    models = find_models(pattern)
    if not models:
        hint = did_you_mean(pattern, [model.name for model in read_table()])
        raise UserError(f"no model's name has {pattern!r} in it: {hint}")
    rows = []
    for model in models:
        costs = f"{model.parameters / 1e6:,.2f} M", shown("flops", model.flops)
        rows.append([model.name, *costs, f"{model.image_size} px", f"{model.smallest} px", model.description])
    show_table(TextTable(["model", "parameters", "FLOPs", "at", "smallest", ""], rows, cut=[5]))


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

    Args:
        name: one that `anysize models` lists, timm:NAME, FILE.py:FUNCTION, MODULE:FUNCTION, or a run folder
        size: side of the image, pixels; by default the one that the model was published for
        norm: swap the model's norms for this one
        task: classification or segmentation; by default what the model was made for
        classes: by default as many as the model was published with; for segmentation 21, as VOC has
        channels: of the images; by default as many as the model was published with
    """
    from anysize.experiment.named import named_model
    from anysize.models.measure.input_size import smallest_size
    from anysize.models.measure.memory import activation_bytes
    from anysize.models.measure.structure import structure
    from anysize.reports.columns import show as shown
    from anysize.reports.console import show_table
    from anysize.reports.text_table import TextTable

    given = {**parse_settings(settings), **({"model.norm": norm} if norm else {})}
    model, expected = named_model(name, given, task=task, size=size, num_classes=classes, in_channels=channels)
    channels = channels or expected.channels
    parts = structure(model, expected.image_size, channels)
    parameters, flops = (sum(getattr(part, what) for part in parts) for what in ("parameters", "flops"))
    rows = []
    for part in parts:
        output = " x ".join(map(str, part.output or ())) or "-"
        costs = f"{part.parameters:,}", shown("flops", part.flops), f"{part.flops / max(flops, 1):.1%}"
        rows.append([part.name, part.kind, output, *costs])
    header = "part", "module", "output", "parameters", "FLOPs", "share"
    total = "all", type(model).__name__, "", f"{parameters:,}", shown("flops", flops), ""
    title = f"{name} at {expected.image_size} px"
    show_table(TextTable(header, rows, labels=2, cut=[1], total=total, title=title))
    kept = activation_bytes(model, expected.image_size, channels) / 2**20
    tell(
        f"expects {counted(channels, 'channel')}, {expected.image_size} px ({expected.resize}, "
        f"{expected.interpolation}, crop ratio {expected.crop_ratio:.3g}); the smallest it takes is "
        f"{smallest_size(model, channels)} px; training keeps {kept:,.1f} MiB an image between forward and backward"
    )
