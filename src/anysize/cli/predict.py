"""`anysize predict RUN|FILE IMAGE ... --out DIR`."""

import sys

from anysize.cli import Images, check_run, split_images, tell, with_device
from anysize.registry import UserError, counted, printable

_SHOWN = 20  # rows of the table on screen


def command(
    run: str,
    /,
    *images: Images,
    out: str = "",
    size: int | None = None,
    checkpoint: str = "last",
    device: str = "",
    top: int = 1,
    runtime: str = "",
    threads: int = 0,
) -> None:
    """Predict for image files: the class, the labels, or a mask in VOC's palette with an overlay.

    Args:
        run: the run folder, or an ONNX or pt2 file
        images: image files and folders of them, then settings, such as --evaluation.flip true
        out: folder for predictions.csv and the pictures; by default RUN-predicted beside the run
        size: image size in pixels; by default the base size, at which segmentation takes images at their own size
        checkpoint: last, best, best-2, previous or calibrated-SIZE
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
        top: show so many classes, the most probable first
        runtime: onnxruntime, openvino, torch or inductor; by default PyTorch for a run, onnxruntime for an ONNX file
        threads: of the runtime; 0: as many as it chooses
    """
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1 class")
    paths, overrides = split_images(images)
    overrides = with_device(overrides, device)
    check_run(run, overrides)
    from anysize.experiment.predict import predict
    from anysize.reports.console import progress, show_table
    from anysize.reports.predictions import with_most_probable
    from anysize.reports.text_table import TextTable

    folder = out or f"{run.rstrip('/')}-predicted"
    with progress("predicting") as say:
        table = predict(
            run,
            paths,
            folder,
            size=size,
            checkpoint=checkpoint,
            overrides=overrides,
            on_image=lambda done, of: say(f"predicted {done:,} of {counted(of, 'image')}"),
            runtime=runtime,
            threads=threads,
        )
    if top > 1 and len(table):
        table = with_most_probable(table, top)
    columns = [name for name in table.columns if "(" not in name]  # not one a class
    rows = [
        [f"{value:.1%}" if isinstance(value, float) else printable(str(value)) for value in row]
        for row in table[columns].head(_SHOWN).to_numpy().tolist()
    ]
    if rows:
        show_table(TextTable(columns, rows, labels=len(columns)))
    if len(table) > _SHOWN:
        tell(f"... and {len(table) - _SHOWN} more")
    if rows and not table.attrs["unwritten"]:
        tell(f"{folder} holds predictions.csv and what pictures there are")
    if left_out := table.attrs["left_out"]:
        # Each was named when it was met.
        tell(f"{len(left_out)} of {counted(len(left_out) + len(table), 'image')} left out: mend or remove them")
    if left_out or table.attrs["unwritten"]:
        sys.exit(1)
