"""The scale policy of a run: how much its elastic blocks use half resolution, on its data or on any images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from anysize.data.loader import PlanLoader
from anysize.data.pictures import BadImage
from anysize.evaluation.evaluator import Evaluator
from anysize.evaluation.scale_policy import has_scales, scale_policy
from anysize.evaluation.sizes import parse_sizes
from anysize.experiment.image_files import image_files
from anysize.experiment.loaded import LoadedRun, load_run, make_evaluator
from anysize.experiment.targets import eval_transform, evaluated_shape
from anysize.machine import plainly
from anysize.models.measure.input_size import check_size
from anysize.recipe import override
from anysize.registry import UserError
from anysize.reports import run_files
from anysize.reports.html import write_report
from anysize.reports.policy_report import summarise, write_scale_policy
from anysize.reports.run_files import write_all_that_can_be

IMAGES = 1000
"""Validation images that a policy is measured on by default: enough to tell classes apart, seconds to run."""


@plainly("measuring the scale policy")
def run_scale_policy(
    run: str | Path,
    images: Sequence[str | Path] = (),
    *,
    size: int | None = None,
    limit: int = IMAGES,
    checkpoint: str = "last",
    overrides: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Measure how much each elastic block of a run's model uses half resolution.

    Args:
        run: the run folder.
        images: image files; by default the validation images, and the result also goes into the run's
            `scale_policy.csv` and report.
        size: pixels; None: the base size.
        limit: validation images at most, spread evenly over the classes.
        checkpoint: "best", "last", "previous", or the name of a calibrated copy.
        overrides: settings of the recipe to replace, such as `{"data.root": ...}`.

    Returns:
        For the validation images: a row a block, and a block and class, with mean and standard deviation of
        `low_share` over images; `attrs["written"]` has the files that could be written. For image files: a row a block
        and image, `image` its path.

    Raises:
        UserError: not a run, a model without elastic blocks, or images that cannot be read.
    """
    if limit < 1:
        raise UserError(f"limit is {limit}; expected at least 1 image")
    loaded = load_run(run, checkpoint, overrides)
    (size,) = parse_sizes([loaded.preprocessing.image_size if size is None else size])
    check_size(loaded.model, size, loaded.preprocessing.channels)
    if images:
        table = scale_policy(loaded.model, (_read(Path(path), loaded, size) for path in images))
        return table.assign(image=[str(images[i]) for i in table["image"]])
    if not has_scales(loaded.model):
        scale_policy(loaded.model, [])  # raises an error that says what is missing
    summary = measure_policy(make_evaluator(loaded), loaded.model, size, limit)
    summary.attrs["written"] = write_all_that_can_be(
        {
            loaded.folder / run_files.SCALE_POLICY: lambda: write_scale_policy(loaded.folder, summary),
            loaded.folder / run_files.REPORT: lambda: write_report(loaded.folder),
        }
    )
    return summary


def measure_policy(evaluator: Evaluator, model: nn.Module, size: int, limit: int = IMAGES) -> pd.DataFrame:
    """The scale policy of `model` on the validation images at `size`, summarised by block and, if it has one, class."""
    kind, preprocessing = evaluator.kind, evaluator.preprocessing
    source = kind.first(evaluator.validation, limit)
    transform = kind.eval_transform(preprocessing, 1, 1, evaluator.shape.own)  # each image once
    loader = PlanLoader(source, transform, device=evaluator.device)
    at_once = evaluator.batch_size(size) if kind.one_shape else 1  # in a batch images would be padded to one shape
    batches = loader.load(evaluator.shape.batches(source, size, at_once))
    inputs = ((batch.images, batch.targets) if kind.one_class else batch.images for batch in batches)
    table = scale_policy(model, inputs)
    return summarise(table, preprocessing.classes, size)


def _read(path: Path, loaded: LoadedRun, size: int) -> Tensor:
    """An image file as input (1, C, size, size), or on its canvas (1, C, H, W) where images are padded."""
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected an image file")
    recipe = override(loaded.recipe, {"evaluation.crops": "1"})
    transform, shape = eval_transform(recipe, loaded.preprocessing), evaluated_shape(recipe, loaded.preprocessing)
    source = image_files(recipe, loaded.preprocessing, [str(path)])
    try:
        image, target, stored = source.read(0)
        (batch,) = shape.batches(source, size, 1)
        sample = transform.sample(image, target, batch, stored)
    except BadImage as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None
    return transform.finish(sample.pixels, batch)
