"""The learning rate's relation to the batch of all processes: the rules of `optimizer.batch_rule`. Imports no torch.

| rule | what changes with a batch r times the one that the settings are written for | source |
|---|---|---|
| linear | lr x r | Goyal et al., arXiv 1706.02677 |
| sqrt | lr x sqrt(r) | Krizhevsky, arXiv 1404.5997; Hoffer et al., arXiv 1705.08741 |
| momentum | momentum ^ r, and lr so that a sample moves the weights as far | Chiley et al., arXiv 1905.05894 |
| none | nothing | |
"""

import math

from anysize.registry import UserError
from anysize.training.settings import OptimizerSettings


def scale_to_batch(settings: OptimizerSettings, lr: float, momentum: float, batch_size: int) -> tuple[float, float]:
    """The learning rate and the momentum for a batch, over all processes, of `batch_size` (0: the settings' own).

    >>> settings = OptimizerSettings(batch_size=256, batch_rule="sqrt")
    >>> scale_to_batch(settings, 0.1, 0.9, 1024)
    (0.2, 0.9)
    """
    if not is_scaled(settings, batch_size):
        return lr, momentum
    ratio = batch_size / settings.batch_size
    if settings.batch_rule == "momentum":
        return momentum_rule(lr, momentum, ratio)
    return lr * (ratio if settings.batch_rule == "linear" else math.sqrt(ratio)), momentum


def is_scaled(settings: OptimizerSettings, batch_size: int) -> bool:
    """Whether the settings are scaled to a run whose batch, over all processes, is `batch_size` (0: their own)."""
    return settings.batch_rule != "none" and bool(settings.batch_size) and batch_size not in (0, settings.batch_size)


def momentum_rule(lr: float, momentum: float, ratio: float) -> tuple[float, float]:
    """The learning rate and momentum of sgd for a batch `ratio` times the one that they are written for.

    The momentum m' = m ** ratio averages over as many samples as m did, and lr' = lr ratio (1 - m') / (1 - m) moves the
    weights as far a sample. The rule of Online Normalization's code (arXiv 1905.05894), exact for any ratio.

    Raises:
        UserError: a momentum of 1 or more, or below 0.

    >>> lr, momentum = momentum_rule(0.1, 0.9, 32 / 256)
    >>> round(lr, 6), round(momentum, 8)
    (0.001635, 0.98691628)
    """
    if not 0 <= momentum < 1:
        raise UserError(f"optimizer.momentum is {momentum:g}; scaling it to the batch expects at least 0 and below 1")
    scaled = momentum**ratio
    return lr * ratio * (1 - scaled) / (1 - momentum), scaled


def why_not_scaled(settings: OptimizerSettings) -> str:
    """Why the learning rate is that of the settings, where it is."""
    if not settings.batch_size:
        return "optimizer.batch_size does not say which batch it is written for"
    if settings.batch_rule == "none":
        return f"it is written for batches of {settings.batch_size}, and optimizer.batch_rule is none"
    return "it is written for this batch"


def check_batch_rule(settings: OptimizerSettings, names: set[str]) -> None:
    """Raise a `UserError` for a rule that lacks its batch, or that does not hold for the optimizers `names`."""
    if settings.batch_rule in ("linear", "sqrt") and not settings.batch_size:
        raise UserError(
            f"optimizer.batch_rule is {settings.batch_rule}, and optimizer.batch_size does not say which batch lr is "
            "written for; set it, or leave batch_rule out"
        )
    if settings.batch_rule == "momentum" and settings.batch_size and names != {"sgd"}:
        raise UserError(
            f"optimizer.batch_size is {settings.batch_size}, but the rule that scales lr and momentum to the batch "
            f"holds for sgd, not for {' and '.join(sorted(names - {'sgd'}))}; set optimizer.batch_rule to linear, sqrt "
            "or none, or remove batch_size"
        )
