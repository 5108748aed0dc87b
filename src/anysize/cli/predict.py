"""`anysize predict RUN IMAGE ... --out DIR`."""

from anysize.cli import Images, split_images, with_device

_SHOWN = 20  # rows of the table on screen


def command(
    run: str,
    /,
    *images: Images,
    out: str = "",
    size: int | None = None,
    checkpoint: str = "last",
    device: str = "",
) -> None:
    """Predict for image files: the class, the labels, or a mask in VOC's palette with an overlay.

    Args:
        run: the run folder
        images: image files and folders of them, then settings, such as --evaluation.flip true
        out: folder for predictions.csv and the pictures; by default RUN-predicted beside the run
        size: image size in pixels; by default the base size, at which segmentation takes images at their own size
        checkpoint: last, best, previous or calibrated-SIZE
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    from rich.console import Console

    from anysize.experiment.predict import predict
    from anysize.reports.console import show_table
    from anysize.reports.text_table import TextTable

    paths, overrides = split_images(images)
    overrides = with_device(overrides, device)
    folder = out or f"{run.rstrip('/')}-predicted"
    with Console().status("predicting") as status:
        table = predict(
            run,
            paths,
            folder,
            size=size,
            checkpoint=checkpoint,
            overrides=overrides,
            on_image=lambda done, of: status.update(f"predicted {done} of {of} images"),
        )
    columns = [name for name in table.columns if "(" not in name]  # not one a class
    rows = [
        [f"{value:.1%}" if isinstance(value, float) else str(value) for value in row]
        for row in table[columns].head(_SHOWN).to_numpy().tolist()
    ]
    show_table(TextTable(columns, rows, labels=len(columns)))
    if len(table) > _SHOWN:
        print(f"... and {len(table) - _SHOWN} more")
    print(f"{folder} holds predictions.csv and what pictures there are")
