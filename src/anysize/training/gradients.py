"""Gradients between the backward pass and the optimizer's step: their norm, their scale."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anysize.norms.online.norm import online_norms


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, as a scalar on their device."""
    return torch.nn.utils.get_total_norm(gradients_of(parameters))


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are."""
    return [p.grad for p in parameters if p.grad is not None]


def scale_gradients(parameters: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply every gradient by `factor`, a scalar on their device, in place."""
    for gradient in gradients_of(parameters):
        gradient.mul_(factor)


class GradientSmoothing:
    """Rescale each gradient to the moving average of its own global norm (Mix & Match, gradient smoothing).

    With n the global L2 norm of the gradient and r its average: first step r = n and nothing is scaled; afterwards
    r = m r + (1 - m) n and the gradient is multiplied by r / (n + 1e-6). Small images make noisier and larger
    gradients; a step then moves the weights no further than the recent ones did.

    The average, `norm`, stays on the device: NaN before the first step.

    >>> smoothing, fine = GradientSmoothing(momentum=0.9), torch.tensor(True)
    >>> [round(float(smoothing.factor(torch.tensor(norm), fine)), 4) for norm in (2.0, 4.0)]
    [1.0, 0.55]
    >>> smoothing.state_dict()
    {'norm': 2.2}
    """

    def __init__(self, momentum: float = 0.9, device: torch.device | str = "cpu") -> None:
        self.momentum = momentum
        self.norm = torch.full((), math.nan, dtype=wide(device), device=device)

    def factor(self, norm: Tensor, fine: Tensor) -> Tensor:
        """Advance the average by a step whose gradient has this norm; return what to multiply the gradient by.

        Where `fine`, a truth on the device, does not hold, the step is not made and the average stays.
        """
        norm = norm.to(self.norm.dtype)
        first = self.norm.isnan()
        average = torch.where(first, norm, self.momentum * self.norm + (1 - self.momentum) * norm)
        self.norm = torch.where(fine, average, self.norm)
        return torch.where(first, 1.0, average / (norm + 1e-6))

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        norm = float(self.norm)
        return {"norm": None if math.isnan(norm) else norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.norm.fill_(math.nan if state["norm"] is None else state["norm"])


def copies_factor(norm: Callable[[Tensor, Tensor], Tensor], images: Tensor, targets: Tensor, copies: int) -> Tensor:
    """How much larger the gradient of one copy is than that of all copies together (adaptive gradient scaling).

    mean_j ||g(copy j)|| / ||g(all copies)||, for images and targets laid out copy by copy; `norm` measures the norm of
    the gradient of some images, a scalar on the device, on which the factor stays, too.
    """
    each = [norm(i, t) for i, t in zip(images.chunk(copies), targets.chunk(copies), strict=True)]
    together = norm(images, targets)
    factor = functools.reduce(torch.add, each) / len(each) / together
    fine = (together > 0) & factor.isfinite()  # float16's loss scale may be too large for the moment
    return torch.where(fine, factor, 1.0)


class AdaptiveCopies:
    """The factors of adaptive gradient scaling by image size, each measured anew every so many steps of its size."""

    def __init__(self, every: int, device: torch.device | str = "cpu") -> None:
        self.every = every
        self.device = device
        self.factors: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}

    def factor(self, size: int, copies: int, measure: Callable[[], Tensor]) -> Tensor | float:
        """The factor that the loss of a batch of this size is multiplied by."""
        if not self.every or copies == 1:
            return 1.0
        key = str(size)
        seen = self.steps.get(key, 0)
        if seen % self.every == 0:
            self.factors[key] = measure()
        self.steps[key] = seen + 1
        return self.factors[key]

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"factors": {size: float(factor) for size, factor in self.factors.items()}, "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        # Tensors as measured: a step takes a number for no factor.
        self.factors = {
            size: torch.tensor(factor, dtype=wide(self.device), device=self.device)
            for size, factor in state["factors"].items()
        }
        self.steps = dict(state["steps"])


class ControlVariables:
    """The control variables u and v of a model's online norms, kept in the unit that gradients come in.

    They are moving sums of gradients. The loss is a mean over images, and a network that ends in an average over
    positions spreads each image's gradient over them: at another number of images, another size or another scale of
    the loss, gradients are smaller or larger by the ratio of scale / (images x size^2), and so must the sums be.
    """

    def __init__(self, model: nn.Module) -> None:
        self.values = [value for _, norm in online_norms(model) for value in (norm.norm.u, norm.norm.v)]
        self.unit: Tensor | float | None = None

    def follow(self, unit: Tensor | float) -> None:
        """Bring them to the unit of the step that comes."""
        known = isinstance(unit, float) and isinstance(self.unit, float)
        if self.unit is not None and not (known and unit == self.unit):
            for value in self.values:
                value.mul_(unit / self.unit)
        self.unit = unit

    def copies(self) -> list[Tensor]:
        """Their values, to `keep`."""
        return [value.clone() for value in self.values]

    def keep(self, before: list[Tensor], fine: Tensor) -> None:
        """Put `before` back unless `fine`, a truth on the device, holds."""
        for own, value in zip(self.values, before, strict=True):
            own.copy_(torch.where(fine, own, value))

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready: the unit. The values are the model's."""
        return {"unit": None if self.unit is None else float(self.unit)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.unit = state["unit"]


def chunk_slices(length: int, chunks: int) -> list[slice]:
    """Slices that cut a batch of `length` images into at most `chunks` parts of nearly the same length.

    >>> chunk_slices(10, 3)
    [slice(0, 3, None), slice(3, 7, None), slice(7, 10, None)]
    """
    chunks = min(chunks, length)
    edges = [round(i * length / chunks) for i in range(chunks + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def wide(device: torch.device | str) -> torch.dtype:
    """The widest floating-point type of a device, in which sums over steps are kept."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
