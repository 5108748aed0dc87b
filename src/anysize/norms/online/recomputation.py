"""The state that a forward pass of Online Normalization starts from when activation checkpointing runs it again.

Checkpointing (`torch.utils.checkpoint`) throws activations away and runs the forward pass once more inside the backward
pass. By then the state has moved on. So a pass that may run again is remembered: where its state started, and the sums
of its input, by which it is recognised.
"""

import collections
from typing import NamedTuple

import torch
from torch import Tensor

from anysize.norms.online.backends import statistics_dtype

_REMEMBERED = 4096  # passes: so many may precede their backward passes, as in an unrolled recurrent network
_SAME = 1e-3  # of the sums: not every device adds up to the same bit twice


class _Pass(NamedTuple):
    sums: Tensor
    m: Tensor
    var: Tensor


class Passes:
    """The last forward passes that may run again.

    >>> passes, (m, var) = Passes(), torch.tensor([[0.0], [1.0]])
    >>> passes.remember(torch.ones(2, 1), m, var)
    >>> passes.recall(torch.ones(2, 1))
    (tensor([0.]), tensor([1.]))
    """

    def __init__(self) -> None:
        self._passes: collections.deque[_Pass] = collections.deque(maxlen=_REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._passes)

    def remember(self, x: Tensor, m: Tensor, var: Tensor) -> None:
        """Keep the state with which the pass over `x` begins."""
        self._passes.append(_Pass(_sums(x), m.clone(), var.clone()))

    def recall(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Copies of m and var with which the pass over `x` began; None if there was none.

        Of passes over equal inputs it is the last that has not been recalled yet: backward passes run last to first.
        """
        sums = _sums(x)
        for found in reversed(self._passes):
            if torch.equal(found.sums, sums):
                break
        else:
            found = min(reversed(self._passes), key=lambda one: _distance(one.sums, sums))
            if not _distance(found.sums, sums) <= _SAME * float(sums.abs().max()):  # NaN is no match either
                return None
        self._passes = collections.deque((one for one in self._passes if one is not found), maxlen=_REMEMBERED)
        self._passes.appendleft(found)
        return found.m.clone(), found.var.clone()


def may_run_again() -> bool:
    """Whether the current forward pass may be one under activation checkpointing.

    With `use_reentrant=True` it runs without gradients, with `use_reentrant=False` under hooks for saved tensors.
    """
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def runs_again() -> bool:
    """Whether the current forward pass runs inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def _sums(x: Tensor) -> Tensor:
    """(N, C, *) to (C,)."""
    return x.detach().sum([dim for dim in range(x.dim()) if dim != 1], dtype=statistics_dtype(x.dtype))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
