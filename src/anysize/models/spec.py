"""Models by name: `create_model`, and what a model can be asked before it trains.

A name is that of a family in `families/`, among them torchvision's networks for segmentation, of a torchvision
classification model, of one of timm's as `timm:NAME`, or of your own builder, written `FILE.py:FUNCTION` or
`MODULE:FUNCTION`. Where a name is both ours and torchvision's, ours is meant.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torchvision
from torch import nn

from anysize.models import families
from anysize.models.builders import (
    builder_parameters,
    call_builder,
    import_builder,
    replace_first_convolution,
    timm_model,
)
from anysize.models.families import MODELS
from anysize.models.surgery.elasticize import elasticize as elasticize_blocks
from anysize.norms.convert.model import convert_norms
from anysize.norms.factory import check_options
from anysize.registry import UserError, did_you_mean

for _family in pkgutil.iter_modules(families.__path__):
    importlib.import_module(f"{families.__name__}.{_family.name}")

# The slow initialization is going out of use. With the auxiliary heads, which are off unless asked for, the network
# returns a tuple in training.
_TORCHVISION_FIXED = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
_TORCHVISION_DEFAULTS = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    task: str = "",
    elasticize: str | Sequence[str] = "",
    norm: str = "",
    norm_options: Mapping[str, Any] | None = None,
    pretrained: bool | str = False,
    **options: Any,
) -> nn.Module:
    """Build a model that maps images (N, in_channels, H, W) to logits (N, num_classes), untrained unless asked for.

    Args:
        name: one of `list_models()`, or a builder of your own as `FILE.py:FUNCTION` or `MODULE:FUNCTION`, which is
            called with `num_classes`, `in_channels` and the options.
        num_classes: of the data; None: as many as the model was published with, such as 1000 for ImageNet; 10 for a
            builder of your own.
        in_channels: of the data. A torchvision model gets a new first convolution for other than 3 channels.
        task: "classification" and "multilabel" want logits of an image; with "segmentation" a model that has such a
            head returns (N, num_classes, H, W), in training with auxiliary logits beside where it has a head for them;
            empty: what the model was made for.
        elasticize: stages whose residual blocks get a branch at half resolution, as `anysize.elasticize` takes them:
            "auto", "all" or names; empty: none.
        norm: swap the model's norms for this one, as `convert_norms` does; empty: the model's own.
        norm_options: options of the norm, and `skip` and `image_size` of `convert_norms`.
        pretrained: start from torchvision's or timm's published weights; their name where they are not the default
            ones, such as "IMAGENET1K_V1". With another class count the head stays untrained, and the first convolution
            is adapted to other input channels. `load_weights` takes files and runs.
        options: further arguments of the builder.

    Raises:
        UserError: an unknown model, file, function or norm, fewer than 1 classes or channels, a task that the model
            has no head for, an option that the builder or the norm does not take, a result that is no `nn.Module`,
            norms that cannot be swapped, `norm` for a builder that has an option of that name itself, or published
            weights that there are not or that cannot be downloaded.

    >>> import torch
    >>> create_model("resnet20", num_classes=100, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 100])
    >>> create_model("resnet20", norm="group", norm_options={"num_groups": 4}).bn1
    GroupNorm(4, 16, eps=1e-05, affine=True, bias=True)
    >>> create_model("resnet-20")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: unknown model 'resnet-20': did you mean 'resnet20'?
    """
    model = _create(name, num_classes, in_channels, _with_task(name, task, options), ("norm",) if norm else ())
    if pretrained:
        from anysize.models.weights.published import load_pretrained  # which itself builds models

        load_pretrained(model, name, pretrained, num_classes, options)
    return _with_norm(_elastic(model, elasticize), name, in_channels, norm, norm_options or {})


def rebuild_model(
    description: Mapping[str, Any], first_weights: Callable[[nn.Module], None] | None = None
) -> nn.Module:
    """Build the model that a recipe asks for or a checkpoint describes.

    Args:
        description: `name`, `options`, `num_classes` and `in_channels`; `task` where it is not classification;
            `elasticize` where residual blocks get a branch at half resolution; and where the norms are swapped `norm`,
            `norm_options` and `image_size` (pixels), which `layer_elementwise` is built for.
        first_weights: called with the model before its blocks are made elastic and its norms are swapped.

    Raises:
        UserError: as `create_model`. An option `norm` of the model's own is one of `options`.

    >>> description = {"name": "resnet8", "options": {}, "num_classes": 10, "in_channels": 3, "norm": "layer"}
    >>> rebuild_model(description).bn1
    GroupNorm(1, 16, eps=1e-05, affine=True, bias=True)
    """
    name, in_channels = description["name"], description["in_channels"]
    norm, norm_options = description.get("norm", ""), dict(description.get("norm_options", {}))
    if norm == "layer_elementwise":
        norm_options.setdefault("image_size", description["image_size"])
    options = _with_task(name, description.get("task", ""), description["options"])
    model = _create(name, description["num_classes"], in_channels, options)
    if first_weights:
        first_weights(model)
    return _with_norm(_elastic(model, description.get("elasticize", "")), name, in_channels, norm, norm_options)


def _elastic(model: nn.Module, stages: str | Sequence[str]) -> nn.Module:
    if stages:
        elasticize_blocks(model, stages)
    return model


def _create(
    name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any], ours_too: tuple[str, ...] = ()
) -> nn.Module:
    """The model with its own norms; `ours_too` are arguments of `create_model` that the builder must not have."""
    for argument, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UserError(f"model {name!r}: {argument} is {number!r}; expected at least 1, a whole number")
    if name.startswith("timm:"):
        return timm_model(name, num_classes, in_channels, options)
    ours = name in MODELS or ":" in name
    if ours:
        builder = import_builder(name) if ":" in name else MODELS[name]
        own = 10 if ":" in name else None
        fixed: dict[str, Any] = {"num_classes": num_classes or own, "in_channels": in_channels}
    else:
        builder = _torchvision_builder(name)
        fixed = {"weights": None, "num_classes": num_classes or 1000, **_TORCHVISION_FIXED.get(name, {})}
        options = {**_TORCHVISION_DEFAULTS.get(name, {}), **options}
        if options.get("transform_input") and in_channels != 3:
            raise UserError(
                f"model {name!r}: transform_input changes the scale of three colours, and the images have "
                f"{in_channels} channels; leave it out"
            )
    for option in ours_too:
        if option in (builder_parameters(builder) or {}):
            raise UserError(
                f"model {name!r} has an option {option!r} of its own, so that {option}= may mean either; build the "
                "model with its own builder, then call anysize.convert_norms"
            )
    model = call_builder(name, builder, fixed, options)
    if not ours and in_channels != 3:
        replace_first_convolution(model, in_channels)
    return model


def _with_task(name: str, task: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a builder with the head that a task wants."""
    if task not in ("", "classification", "multilabel", "segmentation"):
        raise UserError(f"task is {task!r}; expected classification, multilabel or segmentation")
    if not task:
        return options
    made_for = _made_for(name)
    if task == "segmentation":
        if made_for is None and ":" not in name:
            heads = ", ".join(ours for ours in MODELS if _made_for(ours))
            raise UserError(f"model {name!r} has no head for segmentation; those that have one: {heads}")
        return {**options, "task": task}
    if made_for == "segmentation":
        raise UserError(
            f"model {name!r} is for segmentation alone, and the task is {task}; choose another model, or task "
            "segmentation"
        )
    return options


def _made_for(name: str) -> str | None:
    """The task that a network of ours with a head for segmentation was made for; None: it has no such head."""
    parameter = (builder_parameters(MODELS[name]) or {}).get("task") if name in MODELS else None
    return None if parameter is None else str(parameter.default)


def _with_norm(model: nn.Module, name: str, in_channels: int, norm: str, norm_options: Mapping[str, Any]) -> nn.Module:
    if not norm:
        if norm_options:
            raise UserError(f"norm_options {dict(norm_options)} are given without a norm; name it with norm")
        return model
    try:
        check_options(norm, {key: value for key, value in norm_options.items() if key not in ("skip", "image_size")})
        convert_norms(model, norm, in_channels=in_channels, **norm_options)
    except UserError as error:
        raise UserError(f"model {name!r} with norm {norm!r}: {error}") from None
    return model


def list_models() -> list[str]:
    """Names of all models, ours and torchvision's.

    >>> "resnet20" in list_models() and "mobilenet_v2" in list_models()
    True
    """
    return sorted({*MODELS, *torchvision.models.list_models(module=torchvision.models)})


def describe_model(name: str) -> str:
    """One line on a model.

    >>> describe_model("resnet20"), describe_model("resnet50")
    ('ResNet-20 for 32-pixel images.', "torchvision's resnet50")
    """
    if name not in MODELS:
        _torchvision_builder(name)
        return f"torchvision's {name}"
    return (MODELS[name].__doc__ or name).strip().splitlines()[0]


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    if name not in list_models():
        raise UserError(f"unknown model {name!r}: {did_you_mean(name, list_models())}")
    builder: Callable[..., nn.Module] = torchvision.models.get_model_builder(name)
    return builder


__all__ = ["create_model", "describe_model", "list_models", "rebuild_model"]
