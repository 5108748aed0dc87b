"""The models with their figures, as committed in `table.csv`: read without torch.

`python tools/make_models_table.py` measures them anew; `model_figures` in `structure.py` is what it calls.
"""

import csv
import dataclasses
import fnmatch
from importlib import resources


@dataclasses.dataclass(frozen=True)
class ModelFigures:
    """A model as published: classes, input channels and image size are the published ones."""

    name: str
    parameters: int
    flops: int
    """FLOPs of one image in evaluation; a multiply-add counts as 2."""
    image_size: int
    smallest: int
    """Side (pixels) of the smallest square image that it takes in evaluation."""
    description: str


def read_table() -> list[ModelFigures]:
    """All models of ours and torchvision's by name."""
    text = resources.files("anysize.models.measure").joinpath("table.csv").read_text(encoding="utf-8")
    return [
        ModelFigures(**{field.name: field.type(row[field.name]) for field in dataclasses.fields(ModelFigures)})  # type: ignore[operator]
        for row in csv.DictReader(text.splitlines())
    ]


def find_models(pattern: str = "") -> list[ModelFigures]:
    """The models whose names contain `pattern`, or match it where it has `*`, `?` or `[`; upper or lower case.

    >>> [model.name for model in find_models("*resnet_v2")]
    ['inception_resnet_v2']
    """
    pattern = pattern.lower()
    if not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    return [model for model in read_table() if fnmatch.fnmatchcase(model.name, pattern)]
