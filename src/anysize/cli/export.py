"""`anysize export RUN|MODEL --format onnx|pt2`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from anysize.cli import Settings, parse_settings, tell


def command(
    source: str,
    /,
    *settings: Settings,
    format: Literal["onnx", "pt2"] = "onnx",
    out: str = "",
    checkpoint: str = "last",
    size: int | None = None,
    uint8_input: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a model as one ONNX or pt2 file for any batch, height and width, and check it by running it.

    Preprocessing, classes and recipe go along, so that `anysize evaluate FILE` and `anysize predict FILE` need no more.

    Args:
        source: a run folder, or a name that `anysize models` lists, with its settings of [model]; untrained then
        format: onnx; pt2: a program of torch.export
        out: the file to write; by default export/model.onnx in the run, or MODEL.onnx
        checkpoint: of a run: last, best, best-2, previous or calibrated-SIZE
        size: image size in pixels that it is traced at and checked around; by default the base size
        uint8_input: the file takes pixels (uint8), resized and cropped, and normalises them itself
    """
    from anysize.experiment.export import export_run
    from anysize.reports.console import progress, show_table
    from anysize.reports.text_table import TextTable

    with progress("exporting"):
        exported = export_run(
            source,
            out or None,
            format,
            checkpoint=checkpoint,
            size=size,
            uint8_input=uint8_input,
            overrides=parse_settings(settings),
        )
    rows = [[f"{each.height} x {each.width} px", str(each.images), each.says] for each in exported.checks]
    show_table(TextTable(("image size", "batch", "outputs of the file and the model"), rows, labels=3))
    operators = f", operators of version {exported.opset}" if exported.opset else ""
    sizes = "any height and width" if exported.any_size else "that height and width alone"
    tell(
        f"{exported.path} is written: {exported.bytes / 2**20:,.2f} MiB{operators}, for any batch and {sizes}; "
        f"largest difference {exported.difference:.2g}"
    )
