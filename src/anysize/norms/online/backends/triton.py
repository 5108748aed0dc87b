"""The Triton backend of Online Normalization: CUDA, or any device under Triton's interpreter.

The passes over the activations are the fewest that there can be without keeping a sample on the chip: forward, x is
read twice and the output written; backward, the gradient and x are read twice and the gradient of x written.

    forward:   sample_moments   -> two sums a plane
               forward_recurrence -> m, var before each sample; mean z^2
               (mean of z^2 over the channels of a group, for layer scaling, by PyTorch)
               normalize        -> the output
    backward:  gradient_moments -> two sums a plane
               (mean of z dz over the channels of a group, for layer scaling, by PyTorch)
               backward_recurrence -> u, v before each sample; gradients of weight and bias
               input_gradient   -> the gradient of x

The mathematics is in `pytorch.py`. Sums are float32 (float64 for float64), recurrences float64, in a fixed order, so
that two runs are equal to the bit. The tests run the kernels under `TRITON_INTERPRET=1` on a CPU, and compile them for
GPUs that are not there.
"""

import contextlib
import dataclasses
import math
import types
from typing import Any

import torch
from torch import Tensor

from anysize.norms.online.backends import Affine, Saved, statistics_dtype
from anysize.norms.online.backends.pytorch import empty_saved as empty_saved
from anysize.norms.online.options import Options

_TILE = 2048  # values a program has in flight: 16 a thread
_PROGRAMS = 1024  # positions are split over programs until there are about this many, to fill a GPU at batch size 1
_MIN_TILES = 4  # that a split has at least, so that the first tile, which each split reads, stays cheap
_CHANNELS = 32  # of a program of the recurrences: one warp
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def available(x: Tensor) -> bool:
    """Whether this backend can normalise `x`: Triton is installed, and x is on CUDA or Triton's interpreter is on."""
    return not why_not(x)


def why_not(x: Tensor) -> str:
    """The reason why `available` is false; empty where it is true.

    >>> why_not(torch.ones(1, 1, dtype=torch.int32))
    'it takes float32, float64, float16 and bfloat16'
    """
    if x.dtype not in _DTYPES:
        return "it takes float32, float64, float16 and bfloat16"
    if _kernels().triton is None:
        return "triton is not installed"
    if not x.is_cuda and not _kernels().interpreted:
        return "it needs a CUDA device, or TRITON_INTERPRET=1 in the environment from the start"
    return ""


def forward(x: Tensor, affine: Affine, m: Tensor, var: Tensor, options: Options) -> tuple[Tensor, Saved]:
    """Normalise a batch and advance `m` and `var`: see `Backend`."""
    kernels, grid = _kernels(), _Grid.of(x)
    weight, bias = affine or (None, None)
    dtype = statistics_dtype(x.dtype)
    centre = m.to(dtype, copy=True)
    pivots, shift, inverse, y1, y2 = x.new_empty((5, grid.n, grid.c), dtype=dtype).unbind()
    sums = x.new_empty((2, grid.splits, grid.n, grid.c), dtype=dtype)
    scaled = options.ecm == "ls"
    z2 = x.new_empty((grid.n, grid.c), dtype=dtype) if scaled else None
    out = torch.empty_like(x)
    with _on(x):
        kernels.sample_moments[grid.reduction](x, centre, pivots, *sums, *grid.reduced, **grid.tile)
        kernels.forward_recurrence[grid.recurrence](
            pivots, *_pooled(sums), centre, m, var, shift, inverse, y1, y2, z2, weight, bias,
            options.alpha_fwd, options.eps, grid.n, grid.c, grid.d,
            AFFINE=affine is not None, SCALED=scaled, BLOCK=_CHANNELS, num_warps=1,
        )  # fmt: skip
        scale = None
        if z2 is not None:
            scale = (z2.view(grid.n, options.groups(grid.c), -1).mean(2) + options.ls_eps).rsqrt_()
        kernels.normalize[grid.elementwise](
            x, out, centre, shift, inverse, scale, weight, bias, grid.c, grid.d, grid.tiles, _group(options, grid),
            AFFINE=affine is not None, SCALED=scaled, LIMIT=_limit(options), **grid.tile,
        )  # fmt: skip
    saved = (centre, shift, inverse, y1, y2)
    return out, saved if scale is None else (*saved, scale)


def backward(
    grad: Tensor, x: Tensor, affine: Affine, saved: Saved, u: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Affine]:
    """Gradients of x and of weight and bias; advances `u` and `v`: see `Backend`."""
    kernels, grid = _kernels(), _Grid.of(x)
    weight, bias = affine or (None, None)
    centre, shift, inverse, y1, y2, *rest = saved
    scale = rest[0] if rest else None
    sums = x.new_empty((2, grid.splits, grid.n, grid.c), dtype=centre.dtype)
    slope, constant = x.new_empty((2, grid.n, grid.c), dtype=centre.dtype).unbind()
    of_affine = affine and (torch.empty_like(affine[0]), torch.empty_like(affine[1]))
    out = torch.empty_like(x)
    group, limit = _group(options, grid), _limit(options)
    with _on(x):
        kernels.gradient_moments[grid.reduction](
            grad, x, centre, shift, inverse, weight, bias, *sums, *grid.reduced,
            AFFINE=affine is not None, LIMIT=limit, **grid.tile,
        )  # fmt: skip
        sum_grad, sum_product = _pooled(sums)
        coupling = None
        if scale is not None:
            z_dz = sum_product if affine is None else sum_product * affine[0] + sum_grad * affine[1]
            z_dz = z_dz.view(*scale.shape, group).sum(2)
            coupling = z_dz.mul_(scale * scale * scale).div_(group * grid.d)
        kernels.backward_recurrence[grid.recurrence](
            sum_grad, sum_product, inverse, y1, y2, scale, coupling, weight, bias, u, v,
            slope, constant, *(of_affine or (None, None)),
            options.alpha_bkw, -math.inf if options.alpha_min is None else options.alpha_min,
            grid.n, grid.c, grid.d, group,
            AFFINE=affine is not None, SCALED=scale is not None, BLOCK=_CHANNELS, num_warps=1,
        )  # fmt: skip
        kernels.input_gradient[grid.elementwise](
            grad, x, out, centre, shift, inverse, scale, slope, constant, weight, bias,
            grid.c, grid.d, grid.tiles, group,
            AFFINE=affine is not None, SCALED=scale is not None, LIMIT=limit, **grid.tile,
        )  # fmt: skip
    return out, of_affine


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The cut of a tensor (N, C, D) into programs, with which kernels are launched."""

    n: int
    c: int
    d: int
    splits: int
    """Parts of a sample's positions that are added up apart."""
    tiles: int
    """Parts of a sample's positions that are normalised apart."""
    reduction: tuple[int]
    elementwise: tuple[int]
    recurrence: tuple[int]
    reduced: tuple[int, ...]
    """The last arguments of kernels that add up over positions."""
    tile: dict[str, Any]

    @classmethod
    def of(cls, x: Tensor) -> "_Grid":
        n, c, *positions = x.shape
        d, channels_last = math.prod(positions), not x.is_contiguous()
        wide_c, wide_d = _power_of_two(c), _power_of_two(d)
        if channels_last:  # 64 channels in a row fill the lines of the memory, and leave a program some positions
            block_c = min(wide_c, 64, _TILE)
            block_d = min(wide_d, _TILE // block_c)
        else:
            block_d = min(wide_d, _TILE)
            block_c = min(wide_c, _TILE // block_d)
        tiles, rows = _cdiv(d, block_d), n * _cdiv(c, block_c)
        splits = max(1, min(_cdiv(_PROGRAMS, rows), tiles // _MIN_TILES))
        chunk = _cdiv(tiles, splits) * block_d  # positions of a split, whole tiles
        splits = _cdiv(d, chunk)
        return cls(
            n, c, d, splits, tiles,
            reduction=(rows * splits,),
            elementwise=(rows * tiles,),
            recurrence=(_cdiv(c, _CHANNELS),),
            reduced=(n, c, d, chunk, splits),
            tile={"CHANNELS_LAST": channels_last, "BLOCK_C": block_c, "BLOCK_D": block_d},
        )  # fmt: skip


def _kernels() -> types.ModuleType:
    from anysize.norms.online.backends import triton_kernels  # not before it is needed: it imports triton

    return triton_kernels


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the device of x the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _pooled(sums: Tensor) -> Tensor:
    """(2, splits, N, C) to (2, N, C)."""
    return sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)


def _group(options: Options, grid: _Grid) -> int:
    """Channels that layer scaling scales together."""
    return grid.c // options.groups(grid.c)


def _limit(options: Options) -> float:
    return float(options.clamp_val) if options.ecm == "ac" else 0.0


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _cdiv(count: int, size: int) -> int:
    return -(-count // size)
