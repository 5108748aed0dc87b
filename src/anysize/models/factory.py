"""Models by name: `create_model`, and what a model can be asked before it trains.

A name is that of a family in `families/`, of a torchvision classification model, of one of timm's as `timm:NAME`, or
of your own builder, written `FILE.py:FUNCTION` or `MODULE:FUNCTION`.
Where a name is both ours and torchvision's, ours is meant.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from anysize.models import families
from anysize.models.families import MODELS
from anysize.norms.convert import convert_norms
from anysize.norms.factory import check_options
from anysize.registry import UserError, did_you_mean

for _family in pkgutil.iter_modules(families.__path__):
    importlib.import_module(f"{families.__name__}.{_family.name}")

# Without auxiliary heads the output is always a tensor of logits; the slow initialization is going out of use.
_TORCHVISION_FIXED = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    task: str = "classification",
    norm: str = "",
    norm_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build an untrained model that maps images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        name: one of `list_models()`, or a builder of your own as `FILE.py:FUNCTION` or `MODULE:FUNCTION`, which is
            called with `num_classes`, `in_channels` and the options.
        num_classes: of the data; None: as many as the model was published with, such as 1000 for ImageNet; 10 for a
            builder of your own.
        in_channels: of the data. A torchvision model gets a new first convolution for other than 3 channels.
        task: "classification" and "multilabel" take the model as it is; with "segmentation" a model that has such a
            head returns (N, num_classes, H, W).
        norm: swap the model's norms for this one, as `convert_norms` does; empty: the model's own.
        norm_options: options of the norm, and `skip` and `image_size` of `convert_norms`.
        options: further arguments of the builder.

    Raises:
        UserError: an unknown model, file, function or norm, a task that the model has no head for, an option that the
            builder or the norm does not take, a result that is no `nn.Module`, norms that cannot be swapped, or `norm`
            for a builder that has an option of that name itself.

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
    return _with_norm(model, name, in_channels, norm, norm_options or {})


def rebuild_model(description: Mapping[str, Any]) -> nn.Module:
    """Build the model that a recipe asks for or a checkpoint describes.

    Args:
        description: `name`, `options`, `num_classes` and `in_channels`; `task` where it is not classification; and
            where the norms are swapped `norm`, `norm_options` and `image_size` (pixels), which `layer_elementwise` is
            built for.

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
    options = _with_task(name, description.get("task", "classification"), description["options"])
    model = _create(name, description["num_classes"], in_channels, options)
    return _with_norm(model, name, in_channels, norm, norm_options)


def _create(
    name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any], ours_too: tuple[str, ...] = ()
) -> nn.Module:
    """The model with its own norms; `ours_too` are arguments of `create_model` that the builder must not have."""
    if name.startswith("timm:"):
        return _timm_model(name.removeprefix("timm:"), num_classes, in_channels, options)
    ours = name in MODELS or ":" in name
    if ours:
        builder = _import_builder(name) if ":" in name else MODELS[name]
        own = 10 if ":" in name else None
        fixed: dict[str, Any] = {"num_classes": num_classes or own, "in_channels": in_channels}
    else:
        builder = _torchvision_builder(name)
        fixed = {"weights": None, "num_classes": num_classes or 1000, **_TORCHVISION_FIXED.get(name, {})}
    for option in ours_too:
        if option in (_parameters(builder) or {}):
            raise UserError(
                f"model {name!r} has an option {option!r} of its own, so that {option}= may mean either; build the "
                "model with its own builder, then call anysize.convert_norms"
            )
    model = _build(name, builder, fixed, options)
    if not ours and in_channels != 3:
        _replace_first_convolution(model, in_channels)
    return model


def _with_task(name: str, task: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a builder with the head that a task wants."""
    if task in ("classification", "multilabel"):
        return options
    if task != "segmentation":
        raise UserError(f"task is {task!r}; expected classification, multilabel or segmentation")
    heads = [ours for ours in MODELS if "task" in (_parameters(MODELS[ours]) or {})]
    if name not in heads and ":" not in name:
        raise UserError(f"model {name!r} has no head for segmentation; those that have one: {', '.join(heads)}")
    return {**options, "task": task}


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


def _timm_model(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"model timm:{name} needs timm, which is not installed: pip install timm") from None
    if not timm.is_model(name):
        raise UserError(f"unknown model 'timm:{name}': {did_you_mean(name, timm.list_models())}")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model: nn.Module = timm.create_model(name, in_chans=in_channels, **classes, **options)
    except TypeError as error:
        raise UserError(f"timm:{name} does not take the options {dict(options)}: {error}") from None
    return model


def _import_builder(name: str) -> Callable[..., nn.Module]:
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"model {name!r}: there is no file {source}; expected FILE.py:FUNCTION")
        spec = importlib.util.spec_from_file_location(f"anysize_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            raise UserError(
                f"model {name!r}: there is no module {source!r}; install it, or give a file as FILE.py:FUNCTION"
            ) from None
    builder = getattr(module, function, None)
    if not callable(builder):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"model {name!r}: {source} has no function {function!r}: {did_you_mean(function, public)}")
    return typing.cast(Callable[..., nn.Module], builder)


def _build(
    name: str, builder: Callable[..., nn.Module], fixed: dict[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    parameters = _parameters(builder)
    if parameters is not None:
        for argument in fixed:
            if argument not in parameters:
                raise UserError(
                    f"model {name!r} takes no argument {argument!r}; expected a function of ({', '.join(fixed)}, ...)"
                )
        for option in options:
            if option not in parameters or option in fixed:
                optional = {key for key, parameter in parameters.items() if parameter.default is not parameter.empty}
                accepted = ", ".join(sorted(optional - set(fixed) - {"progress"})) or "none"
                raise UserError(f"model {name!r} takes no option {option!r}; its options: {accepted}")
    try:
        model = builder(**{key: value for key, value in fixed.items() if value is not None}, **options)
    except UserError as error:
        raise UserError(f"model {name!r}: {error}") from None
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise UserError(f"model {name!r} cannot be built with the options {dict(options)}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _parameters(builder: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """What a builder takes by name; None: anything.

    `**options` are passed on to the class that the return annotation names, in our families as in torchvision.
    """
    signature = inspect.signature(builder)
    parameters = dict(signature.parameters)
    built = signature.return_annotation
    if _takes_any(parameters):
        if not (inspect.isclass(built) and issubclass(built, nn.Module)) or built is nn.Module:
            return None
        inner = dict(inspect.signature(built).parameters)
        # Some of torchvision's classes swallow what they do not know.
        if _takes_any(inner) and not built.__module__.startswith("torchvision."):
            return None
        parameters = {**inner, **parameters}
    return {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _takes_any(parameters: dict[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Make a torchvision model take `in_channels` channels."""
    name, old = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        old.groups,
        old.bias is not None,
        old.padding_mode,
    )
    with torch.no_grad():  # keep the model's own initialization: its spread, and its bias
        new.weight.copy_(torch.randn_like(new.weight) * old.weight.std())
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


__all__ = ["create_model", "describe_model", "list_models", "rebuild_model"]
