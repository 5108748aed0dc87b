"""The optimizer's groups of parameters: how strongly each decays, how fast it learns, and which are left alone."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from anysize.models.weights.heads import head_parameters
from anysize.norms.convert.recognise import recognise
from anysize.registry import UserError, did_you_mean
from anysize.training.settings import OptimizerSettings

_STAGES = 4


def parameter_groups(model: nn.Module, settings: OptimizerSettings, *, matrices: bool = False) -> list[dict[str, Any]]:
    """The trainable parameters by their weight decay, and by their learning rate where not all have the same.

    Each group has its `params`, its `decay` (None: that of the regime), `multiple`, the factor of its learning rate,
    and `until`, the epoch at which it is no longer trained (0: to the end). With `matrices` it tells, too, whether it
    is one of filters and matrices before the head (`matrix`); the others learn `other_lr` times as fast.

    Raises:
        UserError: `head_lr` for a model without a head, `trained_until` or a custom weight decay for what is not there,
            or no matrix where some are wanted.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> [(group["decay"], len(group["params"])) for group in parameter_groups(model, OptimizerSettings())]
    [(None, 2), (0.0, 4)]
    """
    head: set[str] = set()
    if settings.head_lr != 1 or matrices:
        parameters = dict(model.named_parameters())
        head = {name for name in head_parameters(model) if parameters[name].requires_grad}
        if not head and settings.head_lr != 1:
            raise UserError(
                f"optimizer.head_lr is {settings.head_lr:g}, and {type(model).__name__} has no head that is trained: "
                "expected a last linear layer, or children named in its attribute head_modules; or leave it at 1"
            )
    decays, depths = weight_decays(model, settings), stage_depths(model) if settings.layer_decay != 1 else {}
    until = _trained_until(model, settings.trained_until)
    inside = _matrices(model) - head if matrices else set()
    groups: dict[tuple[float | None, float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in decays:
            other = settings.other_lr if matrices and name not in inside else 1.0
            multiple = settings.head_lr if name in head else other
            multiple *= settings.layer_decay ** depths.get(name, 0)
            key = (decays[name], multiple, until.get(name, 0.0), name in inside)
            groups.setdefault(key, []).append(parameter)
    if matrices and not any(matrix for *_, matrix in groups):
        raise UserError(
            f"optimizer.name is muon, and {type(model).__name__} has no filters or matrices before its head that are "
            "trained; expected some, or sgd, adam or adamw"
        )
    return [
        {"params": params, "decay": decay, "multiple": multiple, "until": end, **({"matrix": it} if matrices else {})}
        for (decay, multiple, end, it), params in groups.items()
    ]


def _matrices(model: nn.Module) -> set[str]:
    """The names of filters and matrices: parameters of two dimensions or more that are not a norm's."""
    in_norms = _in_norms(model)
    return {name for name, value in model.named_parameters() if value.ndim > 1 and id(value) not in in_norms}


def _in_norms(model: nn.Module) -> set[int]:
    """The parameters of norms, by identity: a shared parameter has one name, and norms are found by theirs."""
    return {id(p) for module in model.modules() if recognise(module) for p in module.parameters(recurse=False)}


def _trained_until(model: nn.Module, ends: Mapping[str, float]) -> dict[str, float]:
    """The epoch at which parameters, by name, are no longer trained; see `optimizer.trained_until`."""
    found: dict[str, float] = {}
    for part, end in ends.items():
        names = parameters_of(model, part, "trained_until")
        found |= dict.fromkeys(names, end)
    return found


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Let the weights of the named parts of `model` stay as they are, in place.

    Args:
        parts: names of modules or parameters, such as "layer1", or patterns of parameters, such as "layer1.*.conv*".

    Raises:
        UserError: a part that is not there.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> freeze(model, ["0"])
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['1.weight', '1.bias']
    """
    parameters = dict(model.named_parameters())
    for part in parts:
        for name in parameters_of(model, part, "freeze"):
            parameters[name].requires_grad_(False)


def parameters_of(model: nn.Module, part: str, setting: str) -> list[str]:
    """The names of the parameters of a part of `model`: a module, a parameter, or a pattern with *.

    Raises a `UserError`, which names the setting of [optimizer], for a part that is not there.
    """
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if name == part or name.startswith(f"{part}.")] or fnmatch.filter(names, part)
    if not found:
        known = {name.rpartition(".")[0] for name in names} | {name.partition(".")[0] for name in names}
        raise UserError(
            f"optimizer.{setting} has {part!r}, and the model has no part of this name with weights: "
            f"{did_you_mean(part, known - {''})}"
        )
    return found


def stage_depths(model: nn.Module) -> dict[str, int]:
    """How many stages each parameter lies before the head, by its name: 0 in the head, 1 in the last stage.

    Stages are the children of the model, a norm belongs to what is before it. Where there are fewer than four beside
    the head, the largest is opened: a network may lie in a single `features`.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> stage_depths(model)["0.weight"], stage_depths(model)["1.weight"], stage_depths(model)["4.bias"]
    (2, 2, 0)
    """
    head, parameters = head_parameters(model), dict(model.named_parameters())
    stages: dict[str, list[str]] = {}
    for name in parameters:
        if name not in head:
            stages.setdefault(name.partition(".")[0], []).append(name)
    while len(stages) < _STAGES:
        whole = [stage for stage, names in stages.items() if any("." in name[len(stage) + 1 :] for name in names)]
        if not whole:
            break
        largest = max(whole, key=lambda stage: sum(parameters[name].numel() for name in stages[stage]))
        opened: dict[str, list[str]] = {}
        for stage, names in stages.items():
            for name in names:
                inside = name[len(stage) + 1 :].partition(".")[0]
                opened.setdefault(f"{stage}.{inside}" if stage == largest else stage, []).append(name)
        stages = opened
    joined: list[list[str]] = []
    for names in stages.values():
        if joined and all(parameters[name].ndim < 2 for name in names):
            joined[-1] += names
        else:
            joined.append(list(names))
    depths = {name: len(joined) - i for i, names in enumerate(joined) for name in names}
    return {name: depths.get(name, 0) for name in parameters}


def weight_decays(model: nn.Module, settings: OptimizerSettings) -> dict[str, float | None]:
    """The weight decay of each trainable parameter by its name; None: that of the regime.

    `custom_weight_decay` goes before `bias_weight_decay`, for all that is named `bias`, and that before
    `norm_weight_decay`, for all else in norms: the order of torchvision's reference training. What is left decays as
    `decay_on` says: `"weights"` leaves out biases and the parameters of norms; `"no-biases"` leaves out what is named
    `bias`, so that the weights of norms decay, as in Online Normalization's training on ImageNet; `"all"` leaves out
    none, as torchvision's.

    Raises:
        UserError: a custom weight decay below 0, or for a parameter that is not there.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> weight_decays(model, OptimizerSettings(decay_on="no-biases", norm_weight_decay=0.1))
    {'0.weight': None, '0.bias': 0.0, '1.weight': 0.1, '1.bias': 0.1}
    """
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    custom = settings.custom_weight_decay
    _check_custom(custom, names)
    in_norms = _in_norms(model)
    decays: dict[str, float | None] = {}
    for name, parameter in names.items():
        last = name.rpartition(".")[2]
        bias, norm = last == "bias", id(parameter) in in_norms
        # Most norms have parameters of one dimension; a layer norm over (C, H, W) has three, as weights may.
        weight = parameter.ndim > 1 and not norm
        if name in custom or last in custom:
            decays[name] = custom.get(name, custom.get(last))
        elif bias and settings.bias_weight_decay >= 0:
            decays[name] = settings.bias_weight_decay
        elif norm and settings.norm_weight_decay >= 0:
            decays[name] = settings.norm_weight_decay
        else:
            decays[name] = None if {"all": True, "no-biases": not bias, "weights": weight}[settings.decay_on] else 0.0
    return decays


def _check_custom(custom: dict[str, float], names: dict[str, nn.Parameter]) -> None:
    last = {name.rpartition(".")[2] for name in names}
    for key, value in custom.items():
        if key not in names and key not in last:
            raise UserError(
                f"optimizer.custom_weight_decay has {key!r}, and the model has no trainable parameter of this name, "
                f"whole or behind its last dot: {did_you_mean(key, names if '.' in key else last)}"
            )
        if value < 0:
            raise UserError(f"optimizer.custom_weight_decay of {key!r} is {value:g}; expected at least 0")
