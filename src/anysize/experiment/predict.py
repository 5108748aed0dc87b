"""`anysize.predict`: what a run's model says of image files."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from anysize.data.loader import PlanLoader
from anysize.data.spread import spread
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.finite import check_all_finite, is_finite
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.image_files import given_files, images_in
from anysize.experiment.loaded import check_takes, class_names, load_run
from anysize.experiment.pictures import displayed
from anysize.experiment.targets import build_task, eval_transform, evaluated_shape, kind_of
from anysize.files import open_in_place
from anysize.machine import plainly
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.tasks.base import task_class

TABLE = "predictions.csv"


@plainly("predicting")
def predict(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    *,
    size: int | None = None,
    checkpoint: str = "last",
    overrides: Mapping[str, Any] | None = None,
    on_image: Callable[[int, int], None] | None = None,
    page: str | Path | None = None,
    runtime: str = "",
    threads: int = 0,
) -> pd.DataFrame:
    """Predict for image files.

    Args:
        run: the run folder, or an exported file.
        images: image files, and folders whose images are taken, also those in folders below.
        out: where the table goes as `predictions.csv`, and the pictures that the task makes: for segmentation masks in
            VOC's palette at each image's own size (`masks/`), and the image with them laid over (`overlays/`). None:
            nothing is written.
        size: pixels; None: the base size, at which segmentation takes an image at its own size.
        checkpoint: "best", "last", "previous", or the name of a calibrated copy.
        overrides: settings of the recipe to replace, such as `{"evaluation.flip": True}`.
        on_image: called with the number of images done and of all.
        page: an HTML file with pictures of the predictions, of at most 120 images, spread evenly; None: none.
        runtime, threads: as of `evaluate`.

    Returns:
        A row an image: `file`, then the class and the probabilities, the labels and the probabilities, or for
        segmentation the share of each class in the pixels. `attrs["unwritten"]` says whether the table could not be
        written to `out`, which is warned of. `attrs["left_out"]` says which files cannot be read, and
        why; with the override `{"data.on_bad_image": "error"}` the first of them is an error.

    Raises:
        UserError: not a run, no images, two of one name, a picture that would take the place of a given image or of
            a file that no prediction wrote, or a size that the network cannot take.
        NotFinite: outputs are NaN or infinite; the table has the rows of the other images.

    Example::

        table = anysize.predict("runs/quickstart-segmentation", ["street.jpg"], "predicted")
    """
    loaded = load_run(run, checkpoint, overrides, runtime=runtime, threads=threads, size=size)
    (size,) = parse_sizes([loaded.preprocessing.image_size if size is None else size])
    folder = Path(out).expanduser() if out is not None else None
    drawn = task_class(loaded.recipe.task.name).draws if folder else ()
    names = find_images(images, pictures=bool(drawn))
    if folder:
        _check_free(folder, drawn, names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; give another folder with --out") from None
        run_files.check_writable(folder / TABLE)
        with contextlib.suppress(OSError):  # said where the table is written
            open_in_place(folder / TABLE, append=True).close()  # also of a prediction that does not come to its end
    if page is not None:
        page = Path(page).expanduser()
        run_files.check_writable(page)
    source = given_files(loaded.recipe, loaded.preprocessing, list(names), overrides)
    shape = evaluated_shape(loaded.recipe, loaded.preprocessing)
    check_takes(loaded, size, shape.extents(source, size))
    task = build_task(loaded.recipe, dataclasses.replace(loaded.preprocessing, classes=class_names(loaded)))
    transform, workers = eval_transform(loaded.recipe, loaded.preprocessing), loaded.recipe.data.workers
    loader = PlanLoader(source, transform, device=loaded.device, workers=min(workers, len(names)))
    rows: list[dict[str, Any]] = []
    unsound, order = list[int](), list[int]()
    drawings, on_page = None, set[int]()
    if page:
        from anysize.reports.predictions_page import SHOWN, PredictionsPage  # bokeh takes half a second

        drawings, on_page = PredictionsPage(), {*spread(len(source), SHOWN).tolist()}
    own = 16 if kind_of(loaded.recipe).one_shape else 1
    batches = shape.batches(source, size, loaded.recipe.evaluation.batch_size or own)
    with evaluating(loaded.model):
        for batch in loader.load(batches):
            batch = on_device(batch, loaded.device)
            for index, output in zip(batch.indices.tolist(), task.predictions(loaded.model, batch), strict=True):
                path = source.describe(index)
                output = output.cpu()
                if not is_finite(output):
                    unsound.append(index)
                    continue
                order.append(index)
                rows.append({"file": path, **task.describe(output)})
                seen = displayed(source, index) if drawn or index in on_page else None
                if seen is not None and drawings and index in on_page:
                    drawings.add(path, seen, task.annotate(seen, output))
                if seen is not None and folder:
                    for below, picture in task.render(seen, output).items():
                        _save(picture, folder / below / names[path].with_suffix(".png"))
                if on_image:
                    on_image(len(rows), len(source))
    rows = [rows[place] for place in np.argsort(order, kind="stable")]  # images of one shape came together
    table = pd.DataFrame(rows)
    table.attrs["unwritten"] = folder is not None and not run_files.go_on_without(
        folder / TABLE, lambda: run_files.write_rows(folder / TABLE, rows)
    )
    if drawings and page:
        title = f"{Path(run).name or run}: predictions"
        drawings.write(page, title, f"checkpoint {checkpoint} at {size} px", len(rows))
    check_all_finite(unsound, len(source), source.describe, loaded.model)
    table.attrs["left_out"] = dict(source.bad_files)
    return table


def find_images(given: str | Path | Iterable[str | Path], *, pictures: bool = True) -> dict[str, Path]:
    """The image files that are given or lie in the given folders, each with the name of its prediction.

    The name is the file's, or its path below the folder that was given. A `UserError` says what is not there, holds no
    image, or, where `pictures` are written, would have one name.
    """
    found: dict[str, Path] = {}
    for item in map(Path, [given] if isinstance(given, (str, Path)) else given):
        item = item.expanduser()
        if item.is_dir():
            found |= {path: Path(path).relative_to(item) for path in images_in(item)}
        elif item.is_file():
            found[str(item)] = Path(item.name)
        else:
            raise UserError(
                f"{item} is {'no file' if item.exists() else 'not there'}; expected an image file or a folder of them"
            )
    if not found:
        raise UserError("no image given; expected image files or folders of them")
    owners: dict[Path, str] = {}
    for path, name in found.items() if pictures else ():
        stem = name.with_suffix("")
        other = owners.setdefault(stem, path)
        if other != path:
            renamed = [f"{stem.name}-{i}{Path(each).suffix}" for i, each in enumerate((other, path), start=1)]
            raise UserError(
                f"{other} and {path} would both be written as {stem}; rename one or both, such as to "
                f"{' and '.join(renamed)}, or predict for them one after the other into two folders"
            )
    return found


def _check_free(folder: Path, drawn: Iterable[str], names: Mapping[str, Path]) -> None:
    """Refuse pictures in the place of given images, or of files that no prediction has written, such as true masks."""
    given = {os.path.realpath(path) for path in names}
    earlier = (folder / TABLE).exists()
    for name in names.values():
        for path in (folder / below / name.with_suffix(".png") for below in drawn):
            if os.path.lexists(path) and (not earlier or os.path.realpath(path) in given):
                what = (
                    f"there is no {TABLE} in {folder} that it would belong to" if not earlier else "it is given itself"
                )
                raise UserError(
                    f"{path} is there already, and {what}: a prediction would take its place; give another folder with "
                    "--out"
                )


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    with contextlib.suppress(OSError):  # an error is reported when the file is written
        os.makedirs(path.parent, exist_ok=True)
    run_files.write_atomically(path, content.getvalue())
