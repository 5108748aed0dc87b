"""The state of online norms over several ranks.

A rank normalises its own samples by its own state, as the method is defined for one sequence of samples. Wrap the model
so that the ranks keep their states:

    model = DistributedDataParallel(model, broadcast_buffers=False)

With DDP's default, `broadcast_buffers=True`, rank 0's state replaces the others' before each forward pass. A rank
stores and evaluates its own state, unless `average_online_state` was called on all ranks before.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anysize.norms.online.norm import online_norms


def average_online_state(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give the online norms of all ranks the state that stands for the samples of all ranks, in place.

    m becomes the mean of the ranks' m; var the mean of their var plus the variance of their m, which is the variance of
    the pooled samples; u and v become means. All ranks of the group have to call it. Does nothing in a single process.

    `model` is any module, wrapped by DDP or not, the same on all ranks; `group` the ranks to average over (None: all).
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return
    states = [module.norm for _, module in online_norms(model)]
    if not states:
        return
    own_m, var, u, v = (
        torch.cat([getattr(state, name).double() for state in states]) for name in ("m", "var", "u", "v")
    )
    m, u, v = _mean(torch.stack((own_m, u, v)), group)
    (var,) = _mean((var + (own_m - m) ** 2)[None], group)
    sizes = [len(state.m) for state in states]
    for name, values in (("m", m), ("var", var), ("u", u), ("v", v)):
        for state, value in zip(states, values.split(sizes), strict=True):
            getattr(state, name).copy_(value)


def _mean(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """(rows, channels) averaged over the ranks."""
    dist.all_reduce(values, group=group)
    return values / dist.get_world_size(group)
