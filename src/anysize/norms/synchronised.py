"""Batch norm over the batches of all processes, on CPUs too: `SyncBatchNorm`.

    convert_norms(model, "sync_batch")         # or --model.norm sync_batch in a recipe
    synchronise_anywhere(model)                # for a model that has torch's `nn.SyncBatchNorm` already

torch's `nn.SyncBatchNorm` refuses tensors of a CPU, and `DistributedDataParallel` a model on a CPU that has one.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.modules._functions import SyncBatchNorm as _OnGPUs
from torch.nn.modules.batchnorm import _BatchNorm

from anysize.norms.online.backends import statistics_dtype
from anysize.registry import UserError

_ALONE = contextvars.ContextVar("alone", default=False)


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the batches of all processes together: (N, C, *) to the same.

    In training the processes exchange their means and variances in the forward pass, and the sums that the gradient
    needs in the backward pass: all of them have to call it, equally often, with batches of any length, or of none.
    Each call is synchronised by itself, so the parts of a batch (gradient accumulation) are normalised apart. Running
    statistics are the same in all processes; the variance there is unbiased over the values of all of them.

    In evaluation, and in a single process, it is torch's batch norm to the bit. On GPUs torch's kernels do the work. It
    is no subclass of `nn.SyncBatchNorm`, which `DistributedDataParallel` would refuse on CPUs. `torch.compile` leaves
    it out of its graphs where there are several processes.

    Args:
        num_features, eps, momentum, affine, track_running_stats, factory: as of `nn.BatchNorm2d`.
        process_group: the processes that share statistics; None: all of them.

    Raises:
        UserError: in `forward`, fewer than two values a channel in all processes together.

    >>> norm = SyncBatchNorm(2)  # in a single process
    >>> norm(torch.tensor([[1.0, 5.0], [3.0, 7.0]])).detach()
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, process_group: Any = None, **factory: Any,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **factory)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch; in training together with the other processes."""
        if not self.training or _processes(self.process_group) == 1:
            return super().forward(input)
        return _synchronised(self, input)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise UserError(
                f"synchronised batch norm received an input of shape {tuple(input.shape)}; expected "
                f"(N, {self.num_features}, ...)"
            )


def synchronise_anywhere(model: nn.Module) -> int:
    """Let torch's own `nn.SyncBatchNorm` modules of `model` work on CPUs too, in place; returns how many there are.

    They become `SyncBatchNorm` modules with all that they hold: parameters, statistics, hooks, processes. Subclasses
    with a forward pass of their own, such as timm's `SyncBatchNormAct`, stay; `convert_norms(model, "sync_batch")`
    swaps those.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))
    >>> synchronise_anywhere(model), type(model[1]).__module__
    (1, 'anysize.norms.synchronised')
    """
    found: list[Any] = [module for module in model.modules() if type(module) is nn.SyncBatchNorm]
    for norm in found:
        norm.__class__ = SyncBatchNorm
    return len(found)


@contextlib.contextmanager
def each_alone() -> Iterator[None]:
    """Let each process normalise by its own batch meanwhile, so that none waits for another, as in a step on trial.

    For `SyncBatchNorm`; torch's own modules know of no such thing.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _processes(group: Any) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


@_disable_dynamo  # torch.compiler.disable, which would load the compiler when this file is imported
def _synchronised(norm: SyncBatchNorm, x: Tensor) -> Tensor:
    if _ALONE.get():
        return _BatchNorm.forward(norm, x)
    norm._check_input_dim(x)
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    share = 0.0
    if norm.track_running_stats:
        running, count = (norm.running_mean, norm.running_var), norm.num_batches_tracked
        assert count is not None  # as always with running statistics
        count.add_(1)
        share = 1 / float(count) if norm.momentum is None else norm.momentum
    group = norm.process_group or dist.group.WORLD
    if x.is_meta:  # shapes alone are asked for: nothing to exchange
        return torch.batch_norm(x, norm.weight, norm.bias, *running, True, share, norm.eps, False)
    if x.device.type != "cpu":
        of_all: Tensor = _OnGPUs.apply(x, norm.weight, norm.bias, *running, norm.eps, share, group, _processes(group))
        return of_all
    total, mean, var = _statistics_of_all(x.detach(), group)
    if total < 2:
        raise UserError(
            f"synchronised batch norm received {total} value a channel in all processes together (here an input of "
            f"{tuple(x.shape)}), which has no variance; give larger batches or images"
        )
    with torch.no_grad():
        for own, value in zip(running, (mean, var * (total / (total - 1))), strict=True):
            if own is not None:
                own.lerp_(value.to(own.dtype), share)
    wide = statistics_dtype(x.dtype)
    weight, bias = (None if value is None else value.to(wide) for value in (norm.weight, norm.bias))
    out: Tensor = _Normalise.apply(x, weight, bias, mean.to(wide), var.to(wide), total, norm.eps, group)
    return out


def _statistics_of_all(x: Tensor, group: Any) -> tuple[int, Tensor, Tensor]:
    """The number of values a channel of x, (N, C, *), in all processes; their mean and biased variance in float64."""
    channels = x.shape[1]
    count = x.numel() // channels
    own = torch.zeros(1 + 2 * channels, dtype=torch.float64)
    if count:
        wide = x.to(statistics_dtype(x.dtype))
        own[0] = count
        own[1:] = torch.cat(torch.batch_norm_update_stats(wide, None, None, 0.0))
    each = [torch.empty_like(own) for _ in range(_processes(group))]
    dist.all_gather(each, own, group=group)
    parts = torch.stack(each)  # (processes, 1 + 2 C)
    counts, means, variances = parts[:, :1], parts[:, 1 : channels + 1], parts[:, channels + 1 :]
    total = int(counts.sum())
    shares = counts / max(total, 1)
    mean = (shares * means).sum(0)
    # Variances within and between the processes (Chan, Golub and LeVeque 1979): nothing cancels where means are large.
    return total, mean, (shares * (variances + (means - mean) ** 2)).sum(0)


class _Normalise(torch.autograd.Function):
    """Normalise x, (N, C, *), by the mean and variance, (C,), of all processes, of whose values x has a part."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor,
        total: int, eps: float, group: Any,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, var)
        ctx.total, ctx.eps, ctx.group = total, eps, group
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if x.numel() else torch.empty_like(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        of_x: Tensor | None = None
        of_weight = of_bias = torch.zeros_like(mean)
        wide = x.to(mean.dtype)
        if x.numel():  # as if mean and variance were constants
            of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad.to(mean.dtype), wide, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        if ctx.needs_input_grad[0]:
            sums = torch.cat((of_bias, of_weight))
            dist.all_reduce(sums, group=ctx.group)
            scale = (var + ctx.eps).rsqrt() if weight is None else weight * (var + ctx.eps).rsqrt()
            shift, slope = (-scale * part / ctx.total for part in sums.chunk(2))
            if of_x is None:
                of_x = torch.zeros_like(x)
            else:  # the parts of the gradient that go through the mean and through the variance
                of_x = of_x.add_(F.batch_norm(wide, mean, var, slope, shift, False, 0.0, ctx.eps)).to(x.dtype)
        wanted = zip(ctx.needs_input_grad, (of_x, of_weight, of_bias), strict=False)
        return *(value if needed else None for needed, value in wanted), None, None, None, None, None
