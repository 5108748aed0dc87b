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
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from anysize.data.decode import BadImage, image_extensions
from anysize.data.formats.folders import images_below
from anysize.data.formats.voc import CLASSES as VOC_CLASSES
from anysize.data.loader import PlanLoader, sequential_batches
from anysize.data.source import VOID, FileSource
from anysize.evaluation.evaluate import evaluating, on_device
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.pictures import displayed
from anysize.experiment.runs import LoadedRun, load_run
from anysize.experiment.targets import build_task, eval_transform, targets_of
from anysize.models.measure.input_size import check_size
from anysize.registry import UserError
from anysize.reports import run_files

TABLE = "predictions.csv"


def predict(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    *,
    size: int | None = None,
    checkpoint: str = "last",
    overrides: Mapping[str, Any] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Predict for image files.

    Args:
        run: the run folder.
        images: image files, and folders whose images are taken, also those in folders below.
        out: where the table goes as `predictions.csv`, and the pictures that the task makes: for segmentation masks in
            VOC's palette at each image's own size (`masks/`), and the image with them laid over (`overlays/`). None:
            nothing is written.
        size: pixels; None: the base size, at which segmentation takes an image at its own size.
        checkpoint: "best", "last", "previous", or the name of a calibrated copy.
        overrides: settings of the recipe to replace, such as `{"evaluation.flip": True}`.
        on_image: called with the number of images done and of all.

    Returns:
        A row an image: `file`, then the class and the probabilities, the labels and the probabilities, or for
        segmentation the share of each class in the pixels.

    Raises:
        UserError: not a run, no images, two of one name, an image that cannot be read, or a size that the network
            cannot take.

    Example::

        table = anysize.predict("runs/quickstart-segmentation", ["street.jpg"], "predicted")
    """
    loaded = load_run(run, checkpoint, overrides)
    (size,) = parse_sizes([loaded.preprocessing.image_size if size is None else size])
    check_size(loaded.model, size, loaded.preprocessing.channels)
    names = find_images([images] if isinstance(images, (str, Path)) else images)
    folder = Path(out).expanduser() if out is not None else None
    if folder:
        _make(folder)
    task = build_task(loaded.recipe, _named(loaded).preprocessing)
    source = _source(loaded, list(names))
    loader = PlanLoader(
        source,
        eval_transform(loaded.recipe, loaded.preprocessing),
        device=loaded.device,
        workers=min(loaded.recipe.data.workers, len(names)),
    )
    rows: list[dict[str, Any]] = []
    batches = sequential_batches(len(source), size, loaded.recipe.evaluation.batch_size or (1 if source.dense else 16))
    with evaluating(loaded.model):
        for batch in loader.load(batches):
            batch = on_device(batch, loaded.device)
            for index, output in zip(batch.indices.tolist(), task.predictions(loaded.model, batch), strict=True):
                path = source.describe(index)
                output = output.cpu()
                rows.append({"file": path, **task.describe(output)})
                if folder:
                    for kind, picture in task.render(displayed(source, index), output).items():
                        _save(picture, folder / kind / names[path].with_suffix(".png"))
                if on_image:
                    on_image(len(rows), len(source))
    if folder:
        run_files.write_rows(folder / TABLE, rows)
    return pd.DataFrame(rows)


def find_images(given: Iterable[str | Path]) -> dict[str, Path]:
    """The image files that are given or lie in the given folders, each with the name of what is predicted for it.

    The name is the file's, or its path below the folder that was given.

    Raises:
        UserError: something that is not there, a folder without images, no images at all, or two of one name.
    """
    found: dict[str, Path] = {}
    for item in map(Path, given):
        item = item.expanduser()
        if item.is_dir():
            inside = sorted(map(Path, images_below(item)))
            if not inside:
                raise UserError(f"{item} holds no image; expected files ending in {' '.join(image_extensions())}")
            found |= {str(path): path.relative_to(item) for path in inside}
        elif item.is_file():
            found[str(item)] = Path(item.name)
        else:
            raise UserError(f"{item} is not there; expected an image file or a folder of them")
    if not found:
        raise UserError("no image given; expected image files or folders of them")
    owners: dict[Path, str] = {}
    for path, name in found.items():
        other = owners.setdefault(name.with_suffix(""), path)
        if other != path:
            raise UserError(
                f"{other} and {path} would both be written as {name.with_suffix('')}; rename one, or predict for them "
                "one after the other into two folders"
            )
    return found


def _named(loaded: LoadedRun) -> LoadedRun:
    """The run with names of its classes, which weights that were imported do not tell: VOC's, or their numbers."""
    if loaded.preprocessing.classes:
        return loaded
    classes = tuple(str(i) for i in range(loaded.checkpoint.state["model"]["num_classes"]))
    if loaded.recipe.data.name == "voc" and len(classes) == len(VOC_CLASSES):
        classes = VOC_CLASSES
    return dataclasses.replace(loaded, preprocessing=dataclasses.replace(loaded.preprocessing, classes=classes))


class _NoMasks:
    """Stands in for the masks of images that have none: all pixels void, so that images keep their sizes."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def read(self, index: int) -> np.ndarray:
        """Void of the image's size."""
        try:
            with Image.open(self.paths[index]) as image:
                return np.full((image.height, image.width), VOID, np.uint8)
        except OSError as error:
            raise BadImage(f"it cannot be decoded ({error})") from error

    def describe(self, index: int) -> str:
        """The image's file."""
        return self.paths[index]

    def subset(self, indices: np.ndarray) -> "_NoMasks":
        """Those of some images."""
        return _NoMasks([self.paths[i] for i in indices])


class _GreyFiles(FileSource):
    """Image files for a network of one channel."""

    channels = 1

    def image(self, index: int) -> Tensor:
        """The file in grey: uint8 (1, H, W)."""
        grey: Tensor = rgb_to_grayscale(super().image(index))
        return grey


def _source(loaded: LoadedRun, paths: list[str]) -> FileSource:
    """The files with such targets as the run's task wants; none of them is looked at."""
    masks = _NoMasks(paths) if targets_of(loaded.recipe) == "masks" else None
    kind = _GreyFiles if loaded.preprocessing.channels == 1 else FileSource
    targets = np.zeros(len(paths), dtype=np.int64)
    return kind(paths, targets, loaded.preprocessing.classes, "images", loaded.recipe.data.on_bad_image, masks)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; give another folder with --out") from None
    run_files.check_writable(folder / TABLE)


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    with contextlib.suppress(OSError):  # what is wrong is said when the file is written
        os.makedirs(path.parent, exist_ok=True)
    run_files.write_atomically(path, content.getvalue())


__all__ = ["find_images", "predict"]
