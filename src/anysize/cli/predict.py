"""`anysize predict RUN|FILE IMAGE ... --out DIR`."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from anysize.cli import Images, check_run, say_written, split_images, tell, with_device
from anysize.registry import UserError, counted, printable

_SHOWN = 20  # rows of the table on screen
_OTHERS = {"--out": ", and name the page with --html", "--size": ", and give --sizes"}


def command(
    run: str,
    /,
    *images: Images,
    out: str = "",
    html: str = "",
    size: int | None = None,
    checkpoint: str = "last",
    device: str = "",
    top: int = 1,
    runtime: str = "",
    threads: int = 0,
    grad_cam: Annotated[bool, Parameter(negative="")] = False,
    sizes: str = "",
    target: str = "",
) -> None:
    """Predict for image files: the class, the labels, or a mask in VOC's palette with an overlay.

    Args:
        run: the run folder, or an ONNX or pt2 file
        images: image files and folders of them, then settings, such as --evaluation.flip true
        out: folder for predictions.csv and the pictures; by default RUN-predicted beside the run
        html: also write one page with pictures of the predictions, of at most 120 images, to this file
        size: image size in pixels; by default the base size, at which segmentation takes images at their own size
        checkpoint: last, best, best-2, previous or calibrated-SIZE
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
        top: show so many classes, the most probable first
        runtime: onnxruntime, openvino, torch or inductor; by default PyTorch for a run, onnxruntime for an ONNX file
        threads: of the runtime; 0: as many as it chooses
        grad_cam: show where in the images the network sees a class, at several sizes, on a page that --html names; by
            default RUN-grad-cam.html
        sizes: of grad_cam: START:STOP:STEP or a list 96,128,160; by default the base size
        target: of grad_cam: the name of the class; by default the one that is predicted at the base size
    """
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1 class")
    paths, overrides = split_images(images)
    overrides = with_device(overrides, device)
    check_run(run, overrides)
    if grad_cam:
        for option, given in (
            ("--out", out),
            ("--size", size is not None),
            ("--top", top > 1),
            ("--runtime", runtime),
            ("--threads", threads),
        ):
            if given:
                raise UserError(f"{option} says nothing to --grad-cam; leave it out{_OTHERS.get(option, '')}")
        _explain(run, paths, html, sizes=sizes, target=target, checkpoint=checkpoint, overrides=overrides)
        return
    if sizes or target:
        raise UserError(f"{'--sizes' if sizes else '--target'} is for --grad-cam alone; add that, or leave it out")
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
            page=html or None,
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
    say_written([html] if html else [])
    if left_out := table.attrs["left_out"]:
        # Each was named when it was met.
        tell(f"{len(left_out)} of {counted(len(left_out) + len(table), 'image')} left out: mend or remove them")
    if left_out or table.attrs["unwritten"]:
        sys.exit(1)


def _explain(run: str, paths: list[str], html: str, **how: Any) -> None:
    """Write a page of what the network looks at, and print a row an image and size."""
    from anysize.experiment.explain import explain
    from anysize.reports.console import progress, show_table
    from anysize.reports.text_table import TextTable

    page = html or f"{run.rstrip('/')}-grad-cam.html"
    with progress("explaining") as say:
        table = explain(
            run, paths, page, **how, on_image=lambda done, of: say(f"explained {done:,} of {counted(of, 'picture')}")
        )
    files = list(dict.fromkeys(table["file"])) if len(table) else []
    rows = []
    for file in files[:_SHOWN]:
        of_file = table[table["file"] == file].to_dict("records")
        name = of_file[0]["target"]
        said = [each["predicted"] for each in of_file]
        cells = [f"{each['probability']:.1%}" for each in of_file]
        cells = [cell if word == name else f"{cell} ({word or 'none'})" for cell, word in zip(cells, said, strict=True)]
        rows.append([printable(text) for text in (file, name, *cells)])
    if rows:
        columns = ["file", "class", *(f"{size} px" for size in dict.fromkeys(table["size"]))]
        caption = "probability of the class by image size; in brackets what is predicted there, if it is another"
        show_table(TextTable(columns, rows, labels=2, caption=caption))
    if len(files) > _SHOWN:
        tell(f"... and {len(files) - _SHOWN} more")
    say_written([page])
    if table.attrs["left_out"]:
        sys.exit(1)
