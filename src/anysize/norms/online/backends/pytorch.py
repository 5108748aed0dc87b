"""The PyTorch backend of Online Normalization: any device, no compiler.

The samples of a batch depend on each other through one number a sample and channel alone. So the forward pass is: mean
and mean square of each plane, two short recurrences over the samples, one element-wise pass. The backward pass is:
two sums over each plane, two recurrences, one element-wise pass. Affine transform and layer scaling only change the
coefficients. The recurrences and all that is (N, C) run in float64, since they decide the state.

With y = (x - m) / s, a plane's Y1 = mean(y), Y2 = mean(y^2), and outer gradient g, G = mean(g), P = mean(g y):

    m' = m + (1 - a) S1                         var' = a var + (1 - a) sigma^2 + a (1 - a) S1^2
    v' = (1 - (1 - b) Y2) v + P                 u' = b u + (G - (1 - b) v Y1) / s
    grad x = (g - (1 - b) v y) / s - (1 - b) u

On a CPU `sum` and `vector_norm` are 10 to 20 times faster than `var_mean` over the last dimension, and in-place
products twice as fast as `addcmul` with broadcasting: hence the operations chosen here.
"""

import torch
from torch import Tensor

from anysize.norms.online.backends import Affine, Saved, statistics_dtype
from anysize.norms.online.options import Options
from anysize.norms.online.recurrence import constant_decay, varying_decay

_CACHED = 1 << 17  # values whose squares stay in a second-level cache
_ROW = 512  # values that a row of a channels-last view has at most, unless there are more channels


def forward(x: Tensor, affine: Affine, m: Tensor, var: Tensor, options: Options) -> tuple[Tensor, Saved]:
    """Normalise a batch and advance `m` and `var`: see `Backend`."""
    weight, bias = affine or (None, None)
    planes, dim = as_planes(x)
    values = planes.to(statistics_dtype(x.dtype))
    decay, channels = options.alpha_fwd, len(m)
    length = planes[0].numel() // channels
    # Centred on a mean of the data, so that nothing cancels however far the data is from zero.
    centre = fold(values[:1].sum(dim), channels)[0] / length if length > 1 else m.to(values.dtype, copy=True)
    result = torch.empty_like(x)  # itself and no view of it goes out, else an in-place ReLU behind it is refused
    out = as_planes(result)[0] if values.dtype == x.dtype else torch.empty_like(values)
    torch.sub(values, spread(centre[None], planes, dim), out=out)
    shift = wide(m) - wide(centre)
    if length > 1:
        mean = fold(wide(out.sum(dim)), channels) / length
        square = fold(sums_of_squares(out, dim), channels) / length
        spread_within = (square - mean * mean).clamp_(min=0)
    else:
        mean, spread_within = wide(out.squeeze(dim)), None
    before, after = constant_decay(shift, (1 - decay) * mean, decay)  # m - centre
    first = mean - before
    second = first * first
    step = second * (decay * (1 - decay))
    if spread_within is not None:
        step.add_(spread_within, alpha=1 - decay)
        second += spread_within
    variance, last = constant_decay(wide(var), step, decay)
    m.copy_(after.add_(wide(centre)))
    var.copy_(last)
    inverse = (variance + options.eps).rsqrt_()
    y1, y2 = first.mul_(inverse), second.mul_(inverse).mul_(inverse)
    scale = inverse if weight is None else inverse * weight
    offset = -before * scale if bias is None else bias - before * scale
    scaling: Saved = ()
    if options.ecm == "ls":
        zeta = root_mean_square(y1, y2, affine, options)
        scale, offset = scale / _by_channel(zeta, scale), offset / _by_channel(zeta, scale)
        scaling = (zeta,)
    out.mul_(spread(scale, planes, dim)).add_(spread(offset, planes, dim))
    if options.ecm == "ac":
        out.clamp_(-options.clamp_val, options.clamp_val)
    if out.dtype != x.dtype:
        as_planes(result)[0].copy_(out)
    return result, (centre, *(value.to(values.dtype) for value in (before, inverse, y1, y2, *scaling)))


def backward(
    grad: Tensor, x: Tensor, affine: Affine, saved: Saved, u: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Affine]:
    """Gradients of x and of weight and bias; advances `u` and `v`: see `Backend`."""
    weight, bias = affine or (None, None)
    centre = saved[0]
    before, inverse, y1, y2, *scaling = (wide(value) for value in saved[1:])
    planes, dim = as_planes(x)
    outer = as_planes(grad)[0].to(centre.dtype)
    channels = len(centre)
    length = planes[0].numel() // channels
    scale = inverse if weight is None else inverse * weight
    result = torch.empty_like(x)
    buffer = as_planes(result)[0] if centre.dtype == x.dtype else torch.empty_like(planes, dtype=centre.dtype)
    torch.sub(planes, spread(centre[None], planes, dim), out=buffer)
    if options.ecm == "ac":
        offset = -before * scale if bias is None else bias - before * scale
        z = (buffer * spread(scale, planes, dim)).add_(spread(offset, planes, dim))
        outer = outer.masked_fill(z.abs_() > options.clamp_val, 0)
    if length > 1:
        mean_grad = fold(wide(outer.sum(dim)), channels) / length
        mean_product = fold(wide(buffer.mul_(outer).sum(dim)), channels) / length
    else:
        mean_grad = wide(outer.squeeze(dim))
        mean_product = wide(buffer.squeeze(dim)).mul_(mean_grad)
    product = (mean_product - before * mean_grad).mul_(inverse)  # mean of g y
    own = None  # the part of the gradient along z, which layer scaling takes off
    if options.ecm == "ls":
        (zeta,) = scaling
        weighted = product if affine is None else product * affine[0] + mean_grad * affine[1]
        own = _by_channel(_group_mean(weighted, options) / zeta**3, product)
        zeta = _by_channel(zeta, product)
        z1, z2 = (y1, y2) if affine is None else (y1 * affine[0] + affine[1], y2 * affine[0] + y1 * affine[1])
        mean_grad, product = mean_grad / zeta - z1 * own, product / zeta - z2 * own
    of_affine = None
    if weight is not None:
        of_weight, of_bias = (value.sum(0).mul_(length).to(weight.dtype) for value in (product, mean_grad))
        of_affine = of_weight, of_bias
        mean_grad, product = mean_grad * weight, product * weight

    control, decay = 1 - options.alpha_bkw, options.alpha_bkw
    decays = 1 - control * y2
    if options.alpha_min is not None:
        decays.clamp_(min=options.alpha_min)
    v_before, v_after = varying_decay(wide(v), decays, product)
    along = v_before * control
    u_before, u_after = constant_decay(wide(u), (mean_grad - along * y1).mul_(inverse), decay)
    u.copy_(u_after)
    v.copy_(v_after)

    if own is not None:
        scale = scale / zeta
        along = along + (own if weight is None else own * weight * weight)
    slope = -(along * inverse * inverse)
    rest = -slope * (before + centre) - control * u_before
    if own is not None and affine is not None:
        rest = rest - affine[0] * affine[1] * own * inverse
    if planes.dtype == buffer.dtype:
        torch.mul(planes, spread(slope, planes, dim), out=buffer)
    else:
        buffer.copy_(planes).mul_(spread(slope, planes, dim))
    buffer.add_(spread(rest, planes, dim)).addcmul_(outer, spread(scale, planes, dim))
    if buffer.dtype != x.dtype:
        as_planes(result)[0].copy_(buffer)
    return result, of_affine


def empty_saved(x: Tensor, options: Options) -> Saved:
    """Tensors as `forward` saves them, not filled: see `Backend`."""
    dtype, (samples, channels) = statistics_dtype(x.dtype), x.shape[:2]
    scaling = [x.new_empty(samples, options.groups(channels), dtype=dtype)] if options.ecm == "ls" else []
    return (
        x.new_empty(channels, dtype=dtype),
        *(x.new_empty(samples, channels, dtype=dtype) for _ in range(4)),
        *scaling,
    )


def root_mean_square(y1: Tensor, y2: Tensor, affine: Affine, options: Options) -> Tensor:
    """Layer scaling's divisor, (N, groups): the root mean square of weight y + bias, from the moments (N, C) of y."""
    square = y2
    if affine is not None:
        weight, bias = affine
        square = weight * weight * y2 + 2 * weight * bias * y1 + bias * bias
    return (_group_mean(square, options) + options.ls_eps).sqrt_()


def as_planes(x: Tensor) -> tuple[Tensor, int]:
    """A view of x with one dimension of positions, and which one it is.

    (N, C, D), or for channels last (N, D / k, k C): k positions in a row, since element-wise operations are slow on
    rows as short as C.
    """
    if x.dim() == 2:
        return x[:, None], 1
    if x.is_contiguous():
        return x.flatten(2), 2
    channels, length = x.shape[1], x[0, 0].numel()
    together = max(k for k in range(1, max(_ROW // channels, 1) + 1) if length % k == 0)
    return x.movedim(1, -1).reshape(len(x), length // together, together * channels), 1


def fold(values: Tensor, channels: int) -> Tensor:
    """Sums (N, k C) over planes with k positions in a row, as (N, C)."""
    return values if values.shape[1] == channels else values.view(len(values), -1, channels).sum(1)


def in_order_of(x: Tensor, grad: Tensor) -> Tensor:
    """grad in the memory order of x, contiguous or channels last."""
    if x.is_contiguous():
        return grad.contiguous()
    return grad.movedim(1, -1).contiguous().movedim(-1, 1)


def sums_of_squares(planes: Tensor, dim: int) -> Tensor:
    """Sum of squares over the positions of each plane."""
    if dim == 2:
        return wide(torch.linalg.vector_norm(planes, dim=2)).square_()
    # `vector_norm` is slow over any but the last dimension; a few samples at a time, the squares stay in the cache.
    few = max(1, _CACHED // planes[0].numel())
    return wide(torch.cat([(part * part).sum(1) for part in planes.split(few)]))  # type: ignore[no-untyped-call]


def spread(values: Tensor, planes: Tensor, dim: int) -> Tensor:
    """(N, C) as it broadcasts over planes whose positions are dimension `dim`, in the statistics' dtype."""
    values = values.to(statistics_dtype(planes.dtype))
    together = 1 if dim == 2 else planes.shape[2] // values.shape[1]
    return (values if together == 1 else values.repeat(1, together)).unsqueeze(dim)


def _group_mean(values: Tensor, options: Options) -> Tensor:
    """(N, C) to the mean over each group of channels, (N, groups)."""
    samples, channels = values.shape
    return values.reshape(samples, options.groups(channels), -1).mean(2)


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    """(N, groups) as it divides (N, C)."""
    groups, channels = values.shape[1], like.shape[1]
    return values if groups == 1 else values.repeat_interleave(channels // groups, 1)


def wide(values: Tensor) -> Tensor:
    """`values` in float64, or float32 where the device has none."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
