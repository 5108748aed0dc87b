"""What happens to gradients between backward and the optimizer's step."""

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, as a scalar on their device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def scale_gradients(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply every gradient by `factor`, in place."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(gradients, factor)


class GradientSmoothing:
    """Rescale each gradient to the moving average of its own global norm (Mix & Match, gradient smoothing).

    With n the global L2 norm of the gradient and r its average: first step r = n and nothing is scaled; afterwards
    r = m r + (1 - m) n and the gradient is multiplied by r / (n + 1e-6). Small images make noisier and larger
    gradients; a step then moves the weights no further than the recent ones did.

    >>> smoothing = GradientSmoothing(momentum=0.9)
    >>> smoothing.factor(2.0), round(smoothing.factor(4.0), 4), round(smoothing.norm, 4)
    (1.0, 0.55, 2.2)
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.norm: float | None = None

    def factor(self, norm: float) -> float:
        """Advance the average by a step whose gradient has this norm; return what to multiply the gradient by."""
        if self.norm is None:
            self.norm = norm
            return 1.0
        self.norm = self.momentum * self.norm + (1 - self.momentum) * norm
        return self.norm / (norm + 1e-6)


def copies_factor(norm: Callable[[Tensor, Tensor], float], images: Tensor, targets: Tensor, copies: int) -> float:
    """How much larger the gradient of one copy is than that of all copies together (adaptive gradient scaling).

    mean_j ||g(copy j)|| / ||g(all copies)||, for images and targets laid out copy by copy; `norm` measures the norm of
    the gradient of some images.
    """
    each = [norm(i, t) for i, t in zip(images.chunk(copies), targets.chunk(copies), strict=True)]
    together = norm(images, targets)
    factor = sum(each) / len(each) / together if together > 0 else 1.0
    return factor if math.isfinite(factor) else 1.0  # float16's loss scale may be too large for the moment


def split_decay(model: nn.Module, decay_on: str) -> dict[bool, list[nn.Parameter]]:
    """Split the trainable parameters into those that weight decay applies to (True) and those it does not (False).

    `decay_on="weights"` leaves out biases and the parameters of norms; `"no-biases"` leaves out what is named `bias`,
    so that the weights of norms decay, as in Online Normalization's training on ImageNet; `"all"` leaves out none.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> for decay_on in ("weights", "no-biases", "all"):
    ...     print(decay_on, len(split_decay(model, decay_on)[True]))
    weights 1
    no-biases 2
    all 4
    """
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    # Most norms have parameters of one dimension; a layer norm over (C, H, W) has three, as weights may.
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = name.rpartition(".")[2] == "bias"
            weight = parameter.ndim > 1 and id(parameter) not in norms
            split[{"all": True, "no-biases": not bias, "weights": weight}[decay_on]].append(parameter)
    return split


def cut(length: int, chunks: int) -> list[slice]:
    """Slices that cut a batch of `length` images into at most `chunks` parts of nearly the same length.

    >>> cut(10, 3)
    [slice(0, 3, None), slice(3, 7, None), slice(7, 10, None)]
    """
    chunks = min(chunks, length)
    edges = [round(i * length / chunks) for i in range(chunks + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
