"""`anysize import FILE --as MODEL`."""

from typing import Annotated

from cyclopts import Parameter

from anysize.cli import Settings, parse_settings, tell


def command(
    file: str,
    /,
    *settings: Settings,
    model: Annotated[str, Parameter(name="--as")] = "",
    out: Annotated[str, Parameter(name=("--out", "--run"))] = "",
    classes: int = 0,
    channels: int = 0,
    averaged: Annotated[bool, Parameter(negative="")] = False,
    partial: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a run folder of a checkpoint that another program wrote.

    Reads PyTorch's files (.pth, .pth.tar, .pt, .bin) and safetensors; nothing in them is run. An address is downloaded
    first, and the size and the digest of the file are shown. Settings given here, such as --data.name imagenet
    --data.root ~/imagenet or --model.options.depth 44, go into the folder's recipe.

    Args:
        file: the checkpoint, or its address (https://..., http://... or file://...)
        model: the model that it is of (`anysize models` lists them); by default what the file says
        out: the run folder to write; by default runs/MODEL-FILE
        classes: number of classes, where the head is to be a new one; by default as in the file
        channels: input channels, where the first convolution is to be adapted; by default as in the file
        averaged: take the averaged weights that the file keeps beside the others
        partial: take what fits and start the rest afresh, instead of refusing
    """
    from anysize.experiment.importing import can_train, import_checkpoint

    overrides = parse_settings(settings)
    folder = import_checkpoint(
        file,
        model,
        out=out or None,
        classes=classes,
        channels=channels,
        averaged=averaged,
        partial=partial,
        overrides=overrides,
        say=tell,
    )
    root = "" if overrides.get("data.root") else " --data.root DIR"
    further = f", or train from it with --model.weights {folder}" if can_train(folder) else ""
    tell(f"next: anysize evaluate {folder}{root}{further}")
