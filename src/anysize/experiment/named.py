"""A model as it is named on the command line: by name with settings of `[model]`, or by the folder of a run."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from anysize.experiment.loaded import load_run
from anysize.models.expected import expected_preprocessing
from anysize.models.families import PUBLISHED_CLASSES
from anysize.models.settings import ModelSettings
from anysize.models.spec import ModelSpec
from anysize.models.surgery.recompute import checkpoint_segments
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, override
from anysize.registry import UserError

_NOT_TAKEN = ("name", "weights", "partial_weights")
_TAKEN = [field.name for field in dataclasses.fields(ModelSettings) if field.name not in _NOT_TAKEN]


def named_model(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    task: str = "",
    size: int | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    checkpoint: str = "last",
) -> tuple[nn.Module, Preprocessing]:
    """The model `name` and the input that it expects.

    Args:
        name: as `create_model` takes it, untrained then, or a run folder.
        settings: of `[model]`, such as `{"model.options.depth": 20, "model.norm": "online"}`.
        task: with "segmentation" a model that has such a head; empty: what the model was made for.
        size: pixels; None: what the model was published for.
        num_classes, in_channels: None: what the model was published with, for segmentation the 21 classes of VOC.
        checkpoint: of a run.

    Raises:
        UserError: as `create_model` and `expected_preprocessing`, a setting that says nothing here, any for a run,
            whose model is what it is, or a checkpoint of what is none.

    >>> model, expected = named_model("cifar_resnet", {"model.options.depth": "8"})
    >>> len(model.layer1), expected.image_size
    (1, 32)
    """
    if size is not None and size < 1:
        raise UserError(f"size is {size}; expected at least 1 pixel")
    if Path(name).is_dir():
        if settings or num_classes is not None or in_channels is not None or task:
            raise UserError(f"{name} is a run, whose model is what it was trained as; leave the model's options out")
        loaded = load_run(name, checkpoint)
        expected = loaded.preprocessing
        return loaded.model, dataclasses.replace(expected, image_size=size or expected.image_size)
    refuse_checkpoint(name, checkpoint)
    spec, expected = named_spec(name, settings, task=task, size=size, num_classes=num_classes, in_channels=in_channels)
    model, segments = spec.build(), _recipe(name, settings).model.checkpoint_segments
    if segments:
        checkpoint_segments(model, segments)
    return model, expected


def refuse_checkpoint(name: str, checkpoint: str) -> None:
    """Raise a `UserError` for a checkpoint of what is no run."""
    if checkpoint != "last":
        raise UserError(f"{name} is no run folder and has no checkpoint {checkpoint!r}; leave it out")


def named_spec(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    task: str = "",
    size: int | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> tuple[ModelSpec, Preprocessing]:
    """What the model `name` is made of, and the input that it expects; as `named_model`, but for runs.

    >>> named_spec("resnet50")[0].image_size
    224
    """
    if os.sep in name and ":" not in name:
        raise UserError(f"there is no folder {name}; expected a run folder or the name of a model")
    recipe = _recipe(name, settings)
    try:
        expected = expected_preprocessing(name, task)
    except UserError:
        if not size:
            raise
        expected = Preprocessing(size)
    if num_classes is None and task == "segmentation":
        num_classes = PUBLISHED_CLASSES[task]
    side, channels = size or expected.image_size, expected.channels if in_channels is None else in_channels
    spec = ModelSpec.from_settings(
        recipe.model, num_classes=num_classes, in_channels=channels, task=task, image_size=side
    )
    return spec, dataclasses.replace(expected, image_size=spec.image_size)


def _recipe(name: str, settings: Mapping[str, Any] | None) -> Recipe:
    for key in settings or {}:
        if key.split(".")[:2] not in (["model", name] for name in _TAKEN):
            taken = ", ".join(f"model.{name}" for name in _TAKEN)
            raise UserError(f"--{key} says nothing here; expected settings of {taken}")
    return override(Recipe(), {**(settings or {}), "model.name": name})
