"""Exported files in the place of runs: what evaluation and prediction need of one, and a run computed by a runtime."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anysize.data.catalog import resized_as_set
from anysize.export.contents import Contents
from anysize.export.description import Description
from anysize.export.look import look_at
from anysize.export.module import RuntimeModel
from anysize.export.runtimes import format_of, open_runtime
from anysize.export.write import EXPORTS, folded
from anysize.models.measure.flops import count_flops
from anysize.models.measure.meta import build_on_meta
from anysize.models.spec import ModelSpec
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, from_dict, override, to_dict
from anysize.registry import UserError, counted
from anysize.reports import run_files
from anysize.sizes.shapes import Extent
from anysize.training.checkpoint.files import Checkpoint

if TYPE_CHECKING:
    from anysize.experiment.loaded import LoadedRun


def opened(
    path: str | Path, checkpoint: str, overrides: Mapping[str, Any], runtime: str, threads: int, size: int | None
) -> dict[str, Any]:
    """The fields of a `LoadedRun` for an exported file; `size` is that of the images, which a foreign file needs.

    Raises:
        UserError: what `look_at` and `open_runtime` raise; a foreign file whose preprocessing is not given; a
            checkpoint, or another device than the CPU.
    """
    contents = look_at(path)
    if checkpoint not in ("last", "best"):
        raise UserError(f"{path} has no checkpoint {checkpoint!r}; export the run with --checkpoint {checkpoint}")
    recipe, preprocessing = _use_of(contents, overrides, size)
    if recipe.training.device not in ("auto", "cpu"):
        raise UserError(f"{path} is computed on the CPU; leave the device {recipe.training.device!r} out")
    described = contents.description
    model = {"name": contents.path.name, **(described.model if described else {})}
    model.setdefault("num_classes", len(preprocessing.classes) or contents.classes)
    return {
        "folder": contents.path,
        "recipe": recipe,
        "model": RuntimeModel(open_runtime(path, runtime, threads, contents=contents), preprocessing),
        "preprocessing": preprocessing,
        "checkpoint": Checkpoint({}, {"model": model, "preprocessing": preprocessing.to_dict()}),
        "device": torch.device("cpu"),
    }


def in_runtime(loaded: "LoadedRun", runtime: str, threads: int) -> "LoadedRun":
    """A loaded run whose model is exported to a file for a while, and computed by a runtime."""
    preprocessing = loaded.preprocessing
    format = format_of(runtime)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{format}"
        EXPORTS[format](folded(loaded.model), path, description_of(loaded))
        model = RuntimeModel(open_runtime(path, runtime, threads), preprocessing)
    return dataclasses.replace(loaded, model=model, device=torch.device("cpu"))


def description_of(loaded: "LoadedRun") -> Description:
    """What goes along with a run's model in a file."""
    recipe = loaded.recipe
    return Description(recipe.task.name, loaded.preprocessing, loaded.checkpoint.state["model"], to_dict(recipe))


def evaluation_files(loaded: "LoadedRun") -> dict[str, Path]:
    """Where each table of an evaluation goes: into the run; of a runtime beside the file, or there as NAME-RUNTIME.csv.

    >>> from types import SimpleNamespace
    >>> files = evaluation_files(SimpleNamespace(model=None, folder=Path("runs/mixed")))
    >>> files["predictions.csv"].as_posix()
    'runs/mixed/predictions.csv'
    """
    tables = (
        run_files.EVALUATION, run_files.EVALUATION_TABLES, run_files.IMAGE_PREDICTIONS, run_files.CONFUSION,
    )  # fmt: skip
    folder, model = loaded.folder, loaded.model
    if not isinstance(model, RuntimeModel):
        return {table: folder / table for table in tables}
    if folder.is_dir():
        return {table: folder / f"{Path(table).stem}-{model.runtime.name}.csv" for table in tables}
    return {table: folder.with_name(f"{folder.name}.{table}") for table in tables}


def flops_of(loaded: "LoadedRun") -> Callable[[Extent], int | None]:
    """FLOPs of one image by image size, or by height and width.

    None where the package does not know what the file is made of. A builder of somebody's own that a file names is not
    looked for.
    """
    channels, state = loaded.preprocessing.channels, loaded.checkpoint.state["model"]
    if not isinstance(loaded.model, RuntimeModel):
        return lambda size: count_flops(loaded.model, size, channels, backward=False).forward
    name = str(state["name"])
    if ":" in name and not name.startswith("timm:"):
        return lambda size: None
    try:
        model = build_on_meta(ModelSpec.from_dict(state).build)
    except (UserError, TypeError, RuntimeError):
        return lambda size: None
    return lambda size: count_flops(model, size, channels, backward=False).forward


def _use_of(contents: Contents, overrides: Mapping[str, Any], size: int | None) -> tuple[Recipe, Preprocessing]:
    """The recipe that a file is used with, and how its images are prepared."""
    described = contents.description
    fixed = {"training.device": "cpu", "data.download": False}
    if described is None:
        recipe = override(Recipe(), {"task.name": "segmentation" if contents.maps else "classification", **fixed})
        recipe = override(recipe, overrides)
        return recipe, _given(contents, recipe, size)
    recipe = from_dict(described.recipe, str(contents.path))
    recipe = override(recipe, {"task.name": described.task, **fixed})
    recipe = override(recipe, overrides)
    preprocessing = resized_as_set(described.preprocessing, recipe.data)
    return recipe, dataclasses.replace(preprocessing, backend=recipe.augment.backend)


def _given(contents: Contents, recipe: Recipe, size: int | None) -> Preprocessing:
    """The preprocessing of a foreign file, of the recipe's settings and the image size, which all have to be given."""
    side = size or contents.sides[0]
    given = {"--data.mean": recipe.data.mean, "--data.std": recipe.data.std, "--size or --sizes": side}
    lacking = " and ".join(name for name, value in given.items() if not value)
    if lacking:
        raise UserError(
            f"{contents.path} was not written by anysize, and nothing says how its images are prepared: give {lacking} "
            "(and --data.resize, --data.crop_ratio, --data.interpolation where they are not as usual for ImageNet)"
        )
    if contents.channels not in (None, len(recipe.data.mean)):
        raise UserError(
            f"{contents.path} takes images of {counted(contents.channels, 'channel')}, and data.mean has "
            f"{counted(len(recipe.data.mean), 'value')}; expected one a channel"
        )
    if not contents.classes:
        raise UserError(f"{contents.path} does not tell how many classes it has; expected outputs (N, classes)")
    assert side
    expected = Preprocessing(side, recipe.data.mean, recipe.data.std)
    if contents.maps:
        expected = dataclasses.replace(expected, resize="pad", crop_ratio=1.0)
    return dataclasses.replace(resized_as_set(expected, recipe.data), backend=recipe.augment.backend)
