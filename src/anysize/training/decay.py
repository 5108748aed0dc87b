"""Which parameters weight decay applies to, and how strongly: the optimizer's groups of parameters."""

from typing import Any

from torch import nn

from anysize.models.weights.heads import head_parameters
from anysize.norms.convert.recognise import recognise
from anysize.registry import UserError, did_you_mean
from anysize.training.settings import OptimizerSettings


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """The trainable parameters by their weight decay, and where the head has a learning rate of its own by that.

    Each group has its `params`, its `decay` (None: that of the regime) and `multiple`, the factor of its learning rate.

    Raises:
        UserError: `head_lr` for a model without a head, or a custom weight decay for a parameter that is not there.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> [(group["decay"], len(group["params"])) for group in parameter_groups(model, OptimizerSettings())]
    [(None, 2), (0.0, 4)]
    """
    head: set[str] = set()
    if settings.head_lr != 1:
        parameters = dict(model.named_parameters())
        head = {name for name in head_parameters(model) if parameters[name].requires_grad}
        if not head:
            raise UserError(
                f"optimizer.head_lr is {settings.head_lr:g}, and {type(model).__name__} has no head that is trained: "
                "expected a last linear layer, or children named in its attribute head_modules; or leave it at 1"
            )
    decays = weight_decays(model, settings)
    groups: dict[tuple[float | None, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in decays:
            key = (decays[name], settings.head_lr if name in head else 1.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": params, "decay": decay, "multiple": multiple} for (decay, multiple), params in groups.items()]


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
    # By identity: a shared parameter has one name here, and norms are found by theirs.
    in_norms = {id(p) for module in model.modules() if recognise(module) for p in module.parameters(recurse=False)}
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
