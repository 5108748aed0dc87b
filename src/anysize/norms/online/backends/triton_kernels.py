# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""The Triton kernels of Online Normalization; `triton.py` launches them and lists the passes.

A tile is (BLOCK_C, BLOCK_D): channels times positions of one sample. x lies in memory as (N, C, D) or, channels last,
as (N, D, C); CHANNELS_LAST tells which. Statistics (N, C) are float32, or float64 for float64 values; recurrences run
in float64, for which their decay factors are annotated: Triton takes a float to be float32 otherwise.

No integer argument is asked for its methods, since Triton makes a constant of a 1. Bounds are applied with comparisons,
not with `tl.minimum` and `tl.maximum`, which drop a NaN.
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:  # there is none for this system; `triton.available` says so
    triton = tl = None

jit = triton.jit if triton else lambda kernel: kernel
interpreted = bool(triton and triton.knobs.runtime.interpret)  # TRITON_INTERPRET, when the kernels were defined


@jit
def _tile(SPLITS, C, BLOCK_C: tl.constexpr):
    """The place of this program: its sample, its channels, whether these exist, and its split of the positions."""
    program = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK_C)
    c = (program // SPLITS) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.cast(program // SPLITS // blocks, tl.int64)  # offsets pass 2^31 in large tensors
    return n, c, c < C, program % SPLITS


@jit
def _offsets(n, c, d, C, D, CHANNELS_LAST: tl.constexpr):
    """Offsets of a tile of x, and which of them are inside."""
    inside = (c < C)[:, None] & (d < D)[None, :]
    if CHANNELS_LAST:
        return (n * D + d[None, :]) * C + c[:, None], inside
    return (n * C + c[:, None]) * D + d[None, :], inside


@jit
def _moments(centre, shift, inverse, n, c, known, C):
    """Per-channel numbers that normalise sample n: the two parts of its mean, and 1 / sqrt(variance)."""
    first = tl.load(centre + c, mask=known, other=0.0)
    second = tl.load(shift + n * C + c, mask=known, other=0.0)
    return first[:, None], second[:, None], tl.load(inverse + n * C + c, mask=known, other=0.0)[:, None]


@jit
def _affine(weight, bias, c, known, like, AFFINE: tl.constexpr):
    """Weight and bias of channels c, in the dtype of `like`; 1 and 0 where there are none."""
    w = tl.full(like.shape, 1.0, like.dtype)
    b = tl.full(like.shape, 0.0, like.dtype)
    if AFFINE:
        w = tl.load(weight + c, mask=known, other=0.0).to(like.dtype)
        b = tl.load(bias + c, mask=known, other=0.0).to(like.dtype)
    return w, b


@jit
def sample_moments(
    x, centre, pivots, sums, squares, N, C, D, CHUNK, SPLITS,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sums of e and e^2, e = x - centre - pivot, over one split of a sample's positions: (SPLITS, N, C) each.

    The pivot (N, C) is the mean of x - centre over the first BLOCK_D positions. Its square is at most D / BLOCK_D
    times the variance off, so that the variance does not cancel however far the sample is from the centre.
    """
    n, c, known, split = _tile(SPLITS, C, BLOCK_C)
    mean = tl.load(centre + c, mask=known, other=0.0)[:, None]
    d = tl.arange(0, BLOCK_D)
    offsets, inside = _offsets(n, c, d, C, D, CHANNELS_LAST)
    first = tl.where(inside, tl.load(x + offsets, mask=inside, other=0.0).to(mean.dtype) - mean, 0.0)
    pivot = tl.sum(first, axis=1) / tl.minimum(D, BLOCK_D)
    tl.store(pivots + n * C + c, pivot, mask=known)  # every split stores the same

    total = tl.zeros((BLOCK_C, BLOCK_D), dtype=mean.dtype)
    square = tl.zeros((BLOCK_C, BLOCK_D), dtype=mean.dtype)
    begin = split * CHUNK
    for start in range(begin, tl.minimum(begin + CHUNK, D), BLOCK_D):
        offsets, inside = _offsets(n, c, start + d, C, D, CHANNELS_LAST)
        e = (tl.load(x + offsets, mask=inside, other=0.0).to(mean.dtype) - mean) - pivot[:, None]
        e = tl.where(inside, e, 0.0)
        total += e
        square += e * e
    at = (split * N + n) * C + c
    tl.store(sums + at, tl.sum(total, axis=1), mask=known)
    tl.store(squares + at, tl.sum(square, axis=1), mask=known)


@jit
def forward_recurrence(
    pivots, sums, squares, centre, m, var, shift, inverse, y1, y2, z2, weight, bias,
    decay: tl.float64, eps: tl.float64, N, C, D,
    AFFINE: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Running mean and variance before each sample, and after the last in `m` and `var`.

    Writes, (N, C) each: shift = m - centre, inverse = 1 / sqrt(var + eps), the sample's means of y and y^2, and, for
    layer scaling, of z^2 with z = weight y + bias.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = c < C
    middle = tl.load(centre + c, mask=known, other=0.0).to(tl.float64)
    mean = tl.load(m + c, mask=known, other=0.0).to(tl.float64) - middle
    variance = tl.load(var + c, mask=known, other=1.0).to(tl.float64)
    w, b = _affine(weight, bias, c, known, middle, AFFINE)
    for n in tl.range(N, num_stages=4):  # loads of later samples are under way
        at = tl.cast(n, tl.int64) * C + c
        offset = tl.load(sums + at, mask=known, other=0.0).to(tl.float64) / D
        within = tl.load(squares + at, mask=known, other=0.0).to(tl.float64) / D - offset * offset
        within = tl.where(within < 0.0, 0.0, within)
        away = tl.load(pivots + at, mask=known, other=0.0).to(tl.float64) + offset - mean
        inv = 1.0 / tl.sqrt(variance + eps)
        first = away * inv
        second = (within + away * away) * inv * inv
        tl.store(shift + at, mean, mask=known)
        tl.store(inverse + at, inv, mask=known)
        tl.store(y1 + at, first, mask=known)
        tl.store(y2 + at, second, mask=known)
        if SCALED:
            tl.store(z2 + at, w * w * second + 2.0 * w * b * first + b * b, mask=known)
        variance = decay * variance + (1.0 - decay) * (within + decay * away * away)
        mean = mean + (1.0 - decay) * away
    tl.store(m + c, middle + mean, mask=known)
    tl.store(var + c, variance, mask=known)


@jit
def normalize(
    x, out, centre, shift, inverse, scale, weight, bias, C, D, TILES, GROUP,
    AFFINE: tl.constexpr, SCALED: tl.constexpr, LIMIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out = (weight y + bias) scale, clamped to +-LIMIT unless that is 0; scale is (N, C / GROUP)."""
    n, c, known, tile = _tile(TILES, C, BLOCK_C)
    first, second, inv = _moments(centre, shift, inverse, n, c, known, C)
    w, b = _affine(weight, bias, c, known, tl.load(centre + c, mask=known, other=0.0), AFFINE)
    offsets, inside = _offsets(n, c, tile * BLOCK_D + tl.arange(0, BLOCK_D), C, D, CHANNELS_LAST)
    y = ((tl.load(x + offsets, mask=inside, other=0.0).to(first.dtype) - first) - second) * inv
    z = y * w[:, None] + b[:, None]
    if SCALED:
        z = z * tl.load(scale + n * (C // GROUP) + c // GROUP, mask=known, other=0.0)[:, None]
    if LIMIT > 0:
        z = tl.where(z > LIMIT, LIMIT, z)
        z = tl.where(z < -LIMIT, -LIMIT, z)
    tl.store(out + offsets, z, mask=inside)


@jit
def gradient_moments(
    grad, x, centre, shift, inverse, weight, bias, sums, products, N, C, D, CHUNK, SPLITS,
    AFFINE: tl.constexpr, LIMIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sums of g and g y over one split of a sample's positions, (SPLITS, N, C) each; g is 0 where z was clamped."""
    n, c, known, split = _tile(SPLITS, C, BLOCK_C)
    first, second, inv = _moments(centre, shift, inverse, n, c, known, C)
    w, b = _affine(weight, bias, c, known, tl.load(centre + c, mask=known, other=0.0), AFFINE)
    total = tl.zeros((BLOCK_C, BLOCK_D), dtype=first.dtype)
    product = tl.zeros((BLOCK_C, BLOCK_D), dtype=first.dtype)
    begin = split * CHUNK
    for start in range(begin, tl.minimum(begin + CHUNK, D), BLOCK_D):
        offsets, inside = _offsets(n, c, start + tl.arange(0, BLOCK_D), C, D, CHANNELS_LAST)
        y = ((tl.load(x + offsets, mask=inside, other=0.0).to(first.dtype) - first) - second) * inv
        g = tl.load(grad + offsets, mask=inside, other=0.0).to(first.dtype)
        if LIMIT > 0:
            g = tl.where(tl.abs(y * w[:, None] + b[:, None]) <= LIMIT, g, 0.0)
        total += g
        product += tl.where(inside, g * y, 0.0)
    at = (split * N + n) * C + c
    tl.store(sums + at, tl.sum(total, axis=1), mask=known)
    tl.store(products + at, tl.sum(product, axis=1), mask=known)


@jit
def backward_recurrence(
    sums, products, inverse, y1, y2, scale, coupling, weight, bias, u, v, slope, constant, grad_weight, grad_bias,
    decay: tl.float64, lowest: tl.float64, N, C, D, GROUP,
    AFFINE: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Control variables before each sample, after the last in `u` and `v`, and gradients of weight and bias.

    Writes slope and constant, (N, C) each: grad x = g weight scale / s + slope y + constant. `coupling` (N, C / GROUP)
    is what layer scaling takes off along z: dz = g scale - coupling z. `lowest` bounds the decay of v from below.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = c < C
    mean_control = tl.load(u + c, mask=known, other=0.0).to(tl.float64)
    control = tl.load(v + c, mask=known, other=0.0).to(tl.float64)
    w, b = _affine(weight, bias, c, known, control, AFFINE)
    sum_weight = tl.zeros((BLOCK,), dtype=tl.float64)
    sum_bias = tl.zeros((BLOCK,), dtype=tl.float64)
    for n in tl.range(N, num_stages=4):  # loads of later samples are under way
        at = tl.cast(n, tl.int64) * C + c
        inv = tl.load(inverse + at, mask=known, other=0.0).to(tl.float64)
        first = tl.load(y1 + at, mask=known, other=0.0).to(tl.float64)
        second = tl.load(y2 + at, mask=known, other=0.0).to(tl.float64)
        dz = tl.load(sums + at, mask=known, other=0.0).to(tl.float64) / D
        dzy = tl.load(products + at, mask=known, other=0.0).to(tl.float64) / D
        along = (1.0 - decay) * control
        rest = (1.0 - decay) * mean_control
        if SCALED:
            group = tl.cast(n, tl.int64) * (C // GROUP) + c // GROUP
            factor = tl.load(scale + group, mask=known, other=0.0).to(tl.float64)
            own = tl.load(coupling + group, mask=known, other=0.0).to(tl.float64)
            dz = dz * factor - (w * first + b) * own
            dzy = dzy * factor - (w * second + b * first) * own
            tl.store(slope + at, -(w * w * own + along) * inv, mask=known)
            tl.store(constant + at, -(w * b * own * inv + rest), mask=known)
        else:
            tl.store(slope + at, -along * inv, mask=known)
            tl.store(constant + at, -rest, mask=known)
        sum_weight += dzy * D
        sum_bias += dz * D
        keep = 1.0 - (1.0 - decay) * second
        keep = tl.where(keep < lowest, lowest, keep)
        mean_control = decay * mean_control + (w * dz - along * first) * inv
        control = keep * control + w * dzy
    tl.store(u + c, mean_control, mask=known)
    tl.store(v + c, control, mask=known)
    if AFFINE:
        tl.store(grad_weight + c, sum_weight, mask=known)
        tl.store(grad_bias + c, sum_bias, mask=known)


@jit
def input_gradient(
    grad, x, out, centre, shift, inverse, scale, slope, constant, weight, bias, C, D, TILES, GROUP,
    AFFINE: tl.constexpr, SCALED: tl.constexpr, LIMIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out = g weight scale / s + slope y + constant, with g 0 where z was clamped."""
    n, c, known, tile = _tile(TILES, C, BLOCK_C)
    first, second, inv = _moments(centre, shift, inverse, n, c, known, C)
    w, b = _affine(weight, bias, c, known, tl.load(centre + c, mask=known, other=0.0), AFFINE)
    offsets, inside = _offsets(n, c, tile * BLOCK_D + tl.arange(0, BLOCK_D), C, D, CHANNELS_LAST)
    y = ((tl.load(x + offsets, mask=inside, other=0.0).to(first.dtype) - first) - second) * inv
    g = tl.load(grad + offsets, mask=inside, other=0.0).to(first.dtype)
    if LIMIT > 0:
        g = tl.where(tl.abs(y * w[:, None] + b[:, None]) <= LIMIT, g, 0.0)
    factor = w[:, None] * inv
    if SCALED:
        factor = factor * tl.load(scale + n * (C // GROUP) + c // GROUP, mask=known, other=0.0)[:, None]
    by_y = tl.load(slope + n * C + c, mask=known, other=0.0)[:, None]
    rest = tl.load(constant + n * C + c, mask=known, other=0.0)[:, None]
    tl.store(out + offsets, g * factor + (y * by_y + rest), mask=inside)
