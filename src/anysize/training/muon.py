"""Muon for the filters and matrices of a network, SGD for its biases, its norms and its head: one torch optimizer.

Muon (Keller Jordan, kellerjordan.github.io/posts/muon) replaces the averaged gradient of a matrix by the nearest
orthogonal one, so that a step moves all directions alike. torch's computes it; it takes matrices alone, and so a filter
bank (outputs, inputs, h, w) is given to it as a matrix (outputs, inputs * h * w), a view of the same memory.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import muon  # what torch.optim.Muon calls, with the buffers given to it
from torch.optim.sgd import sgd

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""The coefficients of the quintic iteration that torch.optim.Muon has by default."""

MUON = ("lr", "momentum", "weight_decay", "nesterov", "newton_schulz_steps", "filter_norm", "other_momentum")


class MuonAndSgd(torch.optim.Optimizer):
    """One optimizer of groups that say whether their parameters are `matrix`: then Muon moves them, else SGD.

    For each matrix with gradient g and average b:  b <- m b + (1 - m) g;  g' = (1 - m) g + m b with Nesterov, else b;
    W <- (1 - lr wd) W - lr sqrt(max(1, outputs / inputs)) NS(g'), NS being Newton-Schulz steps in bfloat16. With
    `filter_norm` W is first scaled to the norm sqrt(outputs), so that steps keep their size beside it.

    Args:
        params: groups with `params` and `matrix`.
        lr, momentum, weight_decay, nesterov: of both, if a group does not say otherwise; the weight decay is decoupled
            for matrices and L2 for all else.
        newton_schulz_steps: of the iteration; 3 are enough for small networks, 5 are torch's.
        filter_norm: as above.
        other_momentum: of SGD.

    >>> weight, bias = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.zeros(2))
    >>> groups = [{"params": [weight], "matrix": True}, {"params": [bias], "matrix": False}]
    >>> optimizer = MuonAndSgd(groups, lr=0.1)
    >>> weight.grad, bias.grad = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.ones(2)
    >>> optimizer.step()
    >>> bias, bool(weight[0, 0] < 0.95), bool(weight[1, 1] == 1)
    (Parameter containing:
    tensor([-0.1000, -0.1000], requires_grad=True), True, True)
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        newton_schulz_steps: int = 5,
        filter_norm: bool = False,
        other_momentum: float = 0.9,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov,
            "newton_schulz_steps": newton_schulz_steps, "filter_norm": filter_norm, "other_momentum": other_momentum,
        }  # fmt: skip
        if nesterov and other_momentum == 0:
            raise ValueError("Nesterov momentum requires optimizer.other_momentum above 0")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        assert closure is None, "no line search here"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            averages = [self._average(parameter) for parameter in parameters]
            if not group["matrix"]:
                sgd(
                    parameters, gradients, [*averages], lr=group["lr"], momentum=group["other_momentum"],
                    weight_decay=group["weight_decay"], nesterov=group["nesterov"], dampening=0.0, maximize=False,
                )  # fmt: skip
                continue
            if group["filter_norm"]:
                for parameter in parameters:
                    parameter.mul_(math.sqrt(len(parameter)) / parameter.norm().clamp(min=1e-12))
            orders = [_order(parameter) for parameter in parameters]
            views = (
                [_matrix(tensor, order) for tensor, order in zip(tensors, orders, strict=True)]
                for tensors in (parameters, gradients, averages)
            )
            muon(
                *views, lr=group["lr"], weight_decay=group["weight_decay"], momentum=group["momentum"],
                nesterov=group["nesterov"], ns_coefficients=NEWTON_SCHULZ, ns_steps=group["newton_schulz_steps"],
                eps=1e-7, adjust_lr_fn="original", has_complex=False,
            )  # fmt: skip

    def _average(self, parameter: Tensor) -> Tensor:
        """The averaged gradient of a parameter, which begins at 0 and lies in memory as the parameter does."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum_buffer"]
        return average


def _order(parameter: Tensor) -> list[int]:
    """The dimensions of a parameter as they lie in memory, the outputs first: channels last has the channels last."""
    return [0, *sorted(range(1, parameter.ndim), key=parameter.stride, reverse=True)]


def _matrix(tensor: Tensor, order: list[int]) -> Tensor:
    """A tensor as (outputs, all else): a view where it lies in memory in this order, which weights and averages do.

    Orthogonalising does not depend on the order of the columns.
    """
    return tensor.permute(order).flatten(1)
