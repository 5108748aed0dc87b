"""`anysize.explain`: where a run's network sees a class in image files, at several sizes."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from anysize.data.augment.transform import denormalize
from anysize.data.loader import LoadedBatch, PlanLoader
from anysize.data.source import FileSource
from anysize.evaluation.evaluate import on_device
from anysize.evaluation.finite import check_all_finite
from anysize.evaluation.grad_cam import feature_layer, grad_cam, over_images
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.image_files import given_files
from anysize.experiment.loaded import LoadedRun, check_takes, class_names, load_run
from anysize.experiment.predict import find_images
from anysize.experiment.targets import build_task, evaluated_shape, kind_of
from anysize.export.look import is_exported
from anysize.machine import plainly
from anysize.registry import UserError, did_you_mean
from anysize.reports import run_files

IMAGES = 60
"""Images that are explained at most: each has a picture a size on the page."""

_AT_ONCE = 8


@plainly("explaining")
def explain(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    page: str | Path | None = None,
    *,
    sizes: str | Iterable[int] = (),
    target: str = "",
    layer: str = "",
    checkpoint: str = "last",
    overrides: Mapping[str, Any] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Say what a network sees in image files at several sizes, and show where: Grad-CAM.

    Args:
        run: the run folder of a classifier or multi-label classifier.
        images: image files and folders of them, at most 60.
        page: an HTML file with the images of all sizes, and what speaks for the class as heat over them.
        sizes: pixels, as `parse_sizes` takes them; none: the base size.
        target: the name of a class; empty: of each image the one that is most probable at the base size.
        layer: the module whose maps are looked at; empty: the last one before the pooling.
        checkpoint, overrides: as of `predict`.
        on_image: called with the number of images done and of all, each size counted.

    Returns:
        A row an image and size: `file`, `size`, the `target`, its `probability`, and what is `predicted`.

    Raises:
        UserError: not a run, an exported file, a segmentation, no such class or layer, or too many images.

    Example::

        table = anysize.explain("runs/quickstart", ["shoe.png"], "shoe.html", sizes=[14, 28, 42])
    """
    if is_exported(run):
        raise UserError(f"{run} is an exported file, whose layers cannot be looked into; name the run folder")
    for key in overrides or {}:
        if key.startswith("evaluation.") and key not in ("evaluation.averaged", "evaluation.shape"):
            raise UserError(f"{key} says nothing to Grad-CAM, which looks at each image once; leave it out")
    loaded = load_run(run, checkpoint, overrides)
    names = list(find_images(images, pictures=False))
    wanted = list(dict.fromkeys(parse_sizes(sizes or [loaded.preprocessing.image_size])))
    if len(names) > IMAGES:
        raise UserError(f"received {len(names):,} images to explain; expected at most {IMAGES}: name fewer")
    for size in wanted:
        check_takes(loaded, size)
    path = Path(page).expanduser() if page is not None else None
    if path:
        run_files.check_writable(path)
    source = given_files(loaded.recipe, loaded.preprocessing, names, overrides)
    explainer = _Explainer(loaded, source, layer, target)
    from anysize.reports.grad_cam_page import GradCamPage  # bokeh takes half a second

    drawing = GradCamPage()
    rows: list[dict[str, Any]] = []
    for size in wanted:
        for row, image, heat in explainer.at(size):
            rows.append(row)
            if path:
                drawing.add(image=image, heat=heat, **row)
            if on_image:
                on_image(len(rows), len(names) * len(wanted))
    if path:
        title = f"{Path(run).name or run}: what it looks at"
        drawing.write(path, title, f"checkpoint {checkpoint}, maps of the layer {explainer.layer}")
    order = {name: place for place, name in enumerate(names)}
    rows.sort(key=lambda row: order[row["file"]])  # a file's sizes one after the other
    table = pd.DataFrame(rows)
    table.attrs["left_out"] = dict(source.bad_files)
    return table


class _Explainer:
    """Loads image files at any size, and explains what a network says of them."""

    def __init__(self, loaded: LoadedRun, source: FileSource, layer: str, target: str) -> None:
        self.loaded, self.source, self.classes = loaded, source, class_names(loaded)
        self.task = build_task(loaded.recipe, dataclasses.replace(loaded.preprocessing, classes=self.classes))
        self.shape = evaluated_shape(loaded.recipe, loaded.preprocessing)
        transform = kind_of(loaded.recipe).eval_transform(loaded.preprocessing, 1, 1, self.shape.own)
        self.loader = PlanLoader(self.source, transform, device=loaded.device)
        if target and target not in self.classes:
            raise UserError(f"the run has no class {target!r}: {did_you_mean(target, self.classes)}")
        self.layer = layer
        self.targets: dict[int, int] = {}  # by the image's number
        for batch in self._load(loaded.preprocessing.image_size):
            # At small sizes the last maps have one place, and would not be found.
            self.layer = self.layer or feature_layer(loaded.model, batch.images[:1])
            found = grad_cam(loaded.model, batch.images, layer=self.layer).targets.tolist()
            self.targets |= zip(batch.indices.tolist(), found, strict=True)
        if target:
            self.targets = dict.fromkeys(self.targets, self.classes.index(target))

    def at(self, size: int) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Of each image a row of the table, the image at this size, uint8 (H, W, 3), and the heat over it, (H, W)."""
        for batch in self._load(size):
            numbers = [self.targets[index] for index in batch.indices.tolist()]
            found = grad_cam(self.loaded.model, batch.images, torch.tensor(numbers), self.layer)
            unsound = (~found.logits.isfinite().all(1)).nonzero().flatten().tolist()
            check_all_finite(
                [int(batch.indices[row]) for row in unsound], len(self.source), self.source.describe, self.loaded.model
            )
            heats = over_images(found.maps, (batch.images.shape[2], batch.images.shape[3])).cpu().numpy()
            images = denormalize(batch.images, self.loaded.preprocessing).permute(0, 2, 3, 1).cpu().numpy()
            for index, number, logits, image, heat in zip(
                batch.indices.tolist(), numbers, found.logits.cpu(), images, heats, strict=True
            ):
                said, name = self.task.describe(logits), self.classes[number]
                row = {
                    "file": self.source.describe(index),
                    "size": size,
                    "target": name,
                    "probability": said[f"p({name})"],
                    "predicted": next(iter(said.values())),
                }
                yield row, image, heat

    def _load(self, size: int) -> Iterator[LoadedBatch]:
        for batch in self.loader.load(self.shape.batches(self.source, size, _AT_ONCE)):
            yield on_device(batch, self.loaded.device)
