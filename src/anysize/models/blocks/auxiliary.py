"""The outputs of a network with an auxiliary classifier, which in training are more than one."""

from typing import NamedTuple

from torch import Tensor


class AuxiliaryOutputs(NamedTuple):
    """Logits (N, classes) or (N, classes, H, W), then those of the head half-way; in evaluation the first alone.

    torchvision's `GoogLeNetOutputs` and `InceptionOutputs` are of the same form. The loss of the first counts once,
    that of each other `task.auxiliary_weight` times.
    """

    logits: Tensor
    auxiliary: Tensor


def logits_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """All logits that a model returned: its own, then those of auxiliary classifiers where it has some in training."""
    return (outputs,) if isinstance(outputs, Tensor) else outputs
