"""`anysize predict RUN IMAGE ... --out DIR`."""

from anysize.cli import Images, parse_settings

_SHOWN = 20  # rows of the table on screen


def command(run: str, /, *images: Images, out: str = "", size: int | None = None, checkpoint: str = "last") -> None:
    """Predict for image files: the class, the labels, or a mask in VOC's palette with an overlay.

    Parameters
    ----------
    run
        the run folder
    images
        image files and folders of them, then settings, such as --evaluation.flip true
    out
        folder for predictions.csv and the pictures; by default RUN-predicted beside the run
    size
        image size in pixels; by default the base size, at which segmentation takes images at their own size
    checkpoint
        last, best, previous or calibrated-SIZE
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from anysize.experiment.predict import predict

    at = next((i for i, token in enumerate(images) if token.startswith("--")), len(images))
    folder = out or f"{run.rstrip('/')}-predicted"
    console = Console()
    with console.status("predicting") as status:
        table = predict(
            run,
            images[:at],
            folder,
            size=size,
            checkpoint=checkpoint,
            overrides=parse_settings(images[at:]),
            on_image=lambda done, of: status.update(f"predicted {done} of {of} images"),
        )
    columns = [name for name in table.columns if "(" not in name]  # not one a class
    shown = Table()
    for name in columns:
        shown.add_column(escape(name), overflow="fold")  # or the end of a long name would be cut off
    for row in table[columns].head(_SHOWN).to_numpy().tolist():
        shown.add_row(*(f"{value:.1%}" if isinstance(value, float) else escape(str(value)) for value in row))
    console.print(shown)
    if len(table) > _SHOWN:
        console.print(f"... and {len(table) - _SHOWN} more")
    console.print(f"{folder} holds predictions.csv and what pictures there are", soft_wrap=True)
