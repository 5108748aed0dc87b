"""Builders of models, wherever they come from: found, asked what they take, and called."""

import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from anysize.models import trust
from anysize.models.blocks.convolution import resized_convolution
from anysize.models.named_code import is_code, no_module, read_file
from anysize.registry import UserError, did_you_mean

_TIMM_READS = ("cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Options of timm's that name files and addresses: a recipe from somebody else is not to have them read."""


def import_timm(what: str) -> ModuleType:
    """The module timm, which `what` needs; raises a `UserError` where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise UserError(f"{what} needs timm, which is not installed: pip install 'anysize[zoo]'") from None


def timm_name(name: str) -> str:
    """The name that timm has for the model `timm:NAME`; raises a `UserError` where timm or the model is not there."""
    timm, own = import_timm(f"model {name}"), name.removeprefix("timm:")
    if not timm.is_model(own):
        raise UserError(f"unknown model {name!r}: {did_you_mean(own, timm.list_models())}")
    return own


def timm_model(name: str, num_classes: int | None, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The model `timm:NAME`; raises a `UserError` where timm, the model or an option is not there."""
    check_timm_options(name, options)
    own, timm = timm_name(name), import_timm(name)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model: nn.Module = timm.create_model(own, in_chans=in_channels, **classes, **options)
    except (TypeError, ValueError, AssertionError) as error:
        if not options:
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"{name} does not take the options {dict(options)}: {reason}") from error
    return model


def check_timm_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise a `UserError` for options that would read files or addresses of weights."""
    for option in _TIMM_READS:
        if option in options:
            raise UserError(f"model {name!r}: the option {option!r} is not taken; weights are given with model.weights")


def is_timm_model(name: str) -> bool:
    """Whether timm, if it is installed, has a model of this name."""
    try:
        timm_name(name)
    except UserError:
        return False
    return True


def import_builder(name: str) -> Callable[..., nn.Module]:
    """The function that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names; the one place where code that is named comes in.

    Raises:
        UserError: no such file, module or function, or code that the user has not consented to run (`trust`).
    """
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        path, content = read_file(name)
        trust.check(name, content=content)
        spec = importlib.util.spec_from_file_location(f"anysize_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        # What was looked at is run, and no compiled copy that lies beside the file.
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    else:
        trust.check(name)
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            raise no_module(name, source) from None
    builder = getattr(module, function, None)
    if not callable(builder):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"model {name!r}: {source} has no function {function!r}: {did_you_mean(function, public)}")
    return typing.cast(Callable[..., nn.Module], builder)


def call_builder(
    name: str, builder: Callable[..., nn.Module], fixed: dict[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    """Call the builder of the model `name` with the `fixed` arguments that are not None and with `options`.

    Raises:
        UserError: an argument that it does not take, a value that it refuses, a result that is no `nn.Module`, or
            options with which the user has not consented to call it (`trust`).
    """
    if is_code(name):
        trust.check(name, options)
    parameters = builder_parameters(builder)
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


def builder_parameters(builder: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters that a builder takes by name; None: it takes any.

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


def replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Make a torchvision model take `in_channels` channels."""
    name, old = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    new = resized_convolution(old, in_channels, old.out_channels, old.groups)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)
