"""Names of models, and what each of them stands for.

A name is that of a family in `families/`, among them torchvision's networks for segmentation, of a torchvision
classification model, of one of timm's as `timm:NAME`, or of your own builder, written `FILE.py:FUNCTION` or
`MODULE:FUNCTION`. Where a name is both ours and torchvision's, ours is meant.
"""

import importlib
import pkgutil
from collections.abc import Callable

import torchvision
from torch import nn

from anysize.models import families
from anysize.models.builders import builder_parameters, import_builder
from anysize.models.families import MODELS
from anysize.registry import UserError, did_you_mean

for _family in pkgutil.iter_modules(families.__path__):
    importlib.import_module(f"{families.__name__}.{_family.name}")


def list_models() -> list[str]:
    """Names of all models, ours and torchvision's.

    >>> "resnet20" in list_models() and "mobilenet_v2" in list_models()
    True
    """
    return sorted({*MODELS, *torchvision.models.list_models(module=torchvision.models)})


def find_builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds the model `name`; timm's, which have none of their own, are built by `timm_model`.

    Raises:
        UserError: an unknown model, file, module or function.
    """
    if ":" in name:
        return import_builder(name)
    if name in MODELS:
        return MODELS[name]
    if name not in list_models():
        raise UserError(f"unknown model {name!r}: {did_you_mean(name, list_models())}")
    builder: Callable[..., nn.Module] = torchvision.models.get_model_builder(name)
    return builder


def summary(name: str) -> str:
    """One line on a model, as `anysize models` shows it.

    >>> summary("resnet20"), summary("resnet50")
    ('ResNet-20 for 32-pixel images.', "torchvision's resnet50")
    """
    builder = find_builder(name)
    return (builder.__doc__ or name).strip().splitlines()[0] if name in MODELS else f"torchvision's {name}"


def made_for(name: str) -> str | None:
    """The task that a network of ours with a head for segmentation was made for; None: it has no such head.

    >>> made_for("fcn_resnet50"), made_for("resnext50_elastic"), made_for("resnet50")
    ('segmentation', 'classification', None)
    """
    parameter = (builder_parameters(MODELS[name]) or {}).get("task") if name in MODELS else None
    return None if parameter is None else str(parameter.default)
