"""Batch-norm calibration: running statistics measured afresh for an image size.

The running statistics of a network belong to the sizes it was trained at. At another size, or after training on a
mixture of sizes, they fit badly: the same weights gain tens of points of accuracy once the statistics are recomputed
from training images at the size of evaluation (Mix & Match, arXiv 1908.08986, section on calibration).

    with calibrated(model, loader_at_160):
        evaluate(model)                      # the training statistics are back afterwards, to the bit

Labels are not used, weights do not change.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils import _pytree as pytree

from anysize.norms.by_size.model import fixed_at_first
from anysize.norms.online.backends import statistics_dtype
from anysize.norms.running import is_online, is_synchronised, running_norms, statistics_of
from anysize.registry import NotFinite, UserError, some_of
from anysize.world import World


def has_running_statistics(model: nn.Module) -> bool:
    """Tell whether any norm of `model` keeps running statistics, that is, whether calibration changes anything."""
    return bool(running_norms(model))


def calibrate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    max_images: int | None = None,
    world: World | None = None,
    describe: Callable[[int], str] = "image {}".format,
) -> int:
    """Replace the running statistics of every norm by the pooled statistics of the images of `batches`, in place.

    The images pass through the network once. Each norm normalises a batch by the batch's own statistics, as in
    training, and ends up with those of all values it saw: the mean of the batch means, and the mean of the batch
    variances plus the variance of the batch means, weighted by the number of values and summed in float64. How the
    images are cut into batches matters a little to norms behind other norms alone. The variance is unbiased, as
    torch's: one batch gives exactly what a training step with momentum 1 would leave.

    The code of Mix & Match averaged the statistics of 201 augmented training batches with the same weight each, left
    the variance of the batch means out, and kept dropout active. Here all but the norms is in evaluation mode.

    Norms are recognised by `running_mean`, `running_var` and `momentum`: torch's batch norms, instance norms that
    track statistics (they get the mean over images of an image's statistics, which is torch's definition), timm's
    fused `BatchNormAct2d`. An online norm normalises by the batch's statistics for once; it gets the pooled mean and
    (biased) variance as `m` and `var`, and its control variables stay. A norm that no image reaches keeps its
    statistics.

    A model of `norm_by_size` gets plain norms, those for the size of the first images: what is measured holds for them.

    Several processes share the work: each gives `world` and its own part of the batches, as many as it has, of none up.
    What their norms saw is pooled once at the end, and all processes end up with the statistics that one process with
    all the batches would have, up to rounding. Synchronised norms normalise by the process's own batch meanwhile, with
    or without `world`.

    Args:
        model: called with images (N, C, H, W); autocast and memory format are the caller's.
        batches: image tensors, tuples that start with one, or objects with one as `.images`.
        max_images: stop after this many images of this process, cutting the last batch.
        world: the processes that take part, all of which call this; None: this one alone.
        describe: names an image in errors by its number: that in `.indices` of its batch, or else in all batches.

    Returns:
        Number of images used, in all processes; 0, and `batches` untouched, where no norm keeps running statistics.

    Raises:
        UserError: no images in any process, something that is no image tensor, or a norm that sees one value a channel,
            which has no variance; in one process or another. The statistics are then as before.
        NotFinite: outputs of the network, or the statistics, are NaN or infinite. They are as before, too.

    >>> norm = nn.BatchNorm2d(1)
    >>> calibrate_batch_norm(norm, torch.arange(8.0).reshape(4, 1, 1, 2).split(2))
    4
    >>> norm.running_mean.item(), norm.running_var.item()
    (3.5, 6.0)
    """
    if max_images is not None and max_images < 1 and has_running_statistics(model):
        raise UserError(f"max_images is {max_images}; expected at least 1, or None for all images")
    world = world or World()
    with fixed_at_first(model, batches, _images, world, keep=True) as all_batches:
        return _calibrate(model, all_batches, max_images, world, describe)


def _calibrate(
    model: nn.Module, batches: Iterable[Any], max_images: int | None, world: World, describe: Callable[[int], str]
) -> int:
    norms = running_norms(model)
    if not norms:
        return 0
    pools = {name: _Pool(isinstance(norm, _InstanceNorm), is_online(norm)) for name, norm in norms.items()}
    used = 0
    unsound: list[int] = []
    with _restored(norms) as keep, _batch_statistics(model, norms, pools), torch.no_grad():
        device = statistics_of(next(iter(norms.values())))[0].device
        with world.together():
            for batch in batches:
                images = _images(batch)[: None if max_images is None else max_images - used]
                outputs = model(images if images.device == device else images.to(device))
                numbers = None if isinstance(batch, (Tensor, tuple, list)) else getattr(batch, "indices", None)
                rows = _rows_not_finite(outputs, len(images))
                unsound += [used + row if numbers is None else int(numbers[row % len(numbers)]) for row in rows]
                used += len(images)
                if used == max_images:
                    break
            if unsound:
                raise NotFinite(
                    f"the outputs of the network are NaN or infinite for {len(unsound):,} of {used:,} images that "
                    f"calibrate it: {some_of([describe(number) for number in unsound])}; it has diverged, or these "
                    "images are at fault: calibrate another checkpoint, or train with a lower learning rate"
                )
        used = int(world.sum([used])[0])
        if not used:
            raise UserError("calibration received no images; expected at least one batch")
        pools = _of_all(pools, world)
        odd = [name for name, pool in pools.items() if pool.count and not pool.is_finite()]
        with world.together():
            if odd:
                raise NotFinite(
                    f"what {len(odd)} of {len(pools)} norms see of {used:,} images is NaN or infinite "
                    f"({some_of(odd)}): the network has diverged; calibrate another checkpoint, or train with a lower "
                    "learning rate"
                )
        keep({name: pool.statistics() for name, pool in pools.items() if pool.count})
    return used


@contextlib.contextmanager
def calibrated(
    model: nn.Module,
    batches: Iterable[Any],
    max_images: int | None = None,
    world: World | None = None,
    describe: Callable[[int], str] = "image {}".format,
) -> Iterator[int]:
    """Calibrate `model` for the length of a `with` block, then put the training statistics back exactly.

    Yields the number of images used; takes and raises what `calibrate_batch_norm` does.

    >>> norm = nn.BatchNorm2d(1)
    >>> with calibrated(norm, [torch.full((2, 1, 4, 4), 5.0)]):
    ...     print(norm.running_mean)
    tensor([5.])
    """
    with (
        fixed_at_first(model, batches, _images, world or World(), keep=False) as all_batches,
        _restored(running_norms(model)),
    ):
        yield calibrate_batch_norm(model, all_batches, max_images, world, describe)


@dataclasses.dataclass
class _Pool:
    """Mean and variance, (C,) in float64, of everything that one norm has seen."""

    per_image: bool
    biased: bool
    count: int = 0
    mean: Tensor | float = 0.0
    var: Tensor | float = 0.0

    def add(self, count: int, mean: Tensor, var: Tensor) -> None:
        """Pool with the mean and biased variance of `count` further values (Chan, Golub and LeVeque 1979)."""
        self.count += count
        share = count / self.count
        shift = mean - self.mean
        self.mean = self.mean + share * shift
        self.var = self.var + share * (var - self.var)
        if not self.per_image:
            self.var = self.var + share * (1 - share) * shift**2

    def is_finite(self) -> bool:
        """Whether mean and variance are numbers, in the precision that norms store them in."""
        return all(bool(torch.as_tensor(value).float().isfinite().all()) for value in (self.mean, self.var))

    def statistics(self) -> tuple[Any, Any]:
        """Mean and variance as the norm stores them."""
        biased = self.per_image or self.biased
        return self.mean, self.var if biased else self.var * (self.count / (self.count - 1))


def _of_all(pools: dict[str, _Pool], world: World) -> dict[str, _Pool]:
    """The pools of all processes as one, by norm; a process may have seen nothing."""
    if world.size == 1:
        return pools
    own = [(pool.count, torch.as_tensor(pool.mean).cpu(), torch.as_tensor(pool.var).cpu()) for pool in pools.values()]
    merged = {}
    for (name, pool), parts in zip(pools.items(), zip(*world.gather(own), strict=True), strict=True):
        merged[name] = _Pool(pool.per_image, pool.biased)
        for part in parts:
            if part[0]:
                merged[name].add(*part)
    return merged


def _images(batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else getattr(batch, "images", batch)
    if not isinstance(images, Tensor):
        raise UserError(
            f"calibration received a batch of type {type(batch).__name__}; expected an image tensor, a tuple that "
            "starts with one, or an object with one as .images"
        )
    return images


def _rows_not_finite(outputs: Any, images: int) -> list[int]:
    """The rows of a network's outputs, one an image, that hold a value that is NaN or infinite."""
    found: set[int] = set()
    for values in pytree.tree_leaves(outputs):
        if isinstance(values, Tensor) and values.is_floating_point() and not values.isfinite().all():
            if values.ndim < 2 or len(values) != images:
                return list(range(images))  # who knows of which
            found |= {*(~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()}
    return sorted(found)


@contextlib.contextmanager
def _restored(norms: dict[str, Any]) -> Iterator[Any]:
    """Put the statistics back at the end; the function that is yielded says which to store instead."""
    before = {name: tuple(value.clone() for value in statistics_of(norm)) for name, norm in norms.items()}
    try:
        yield before.update
    finally:
        for name, values in before.items():
            for own, value in zip(statistics_of(norms[name]), values, strict=True):
                own.copy_(value)


@contextlib.contextmanager
def _batch_statistics(model: nn.Module, norms: dict[str, Any], pools: dict[str, _Pool]) -> Iterator[None]:
    """Let the norms alone train with momentum 1, and collect in `pools` what each call of them leaves behind."""
    with contextlib.ExitStack() as undo:
        if "torch._dynamo" in sys.modules:
            # A compiled model would be compiled again, for the hooks and for every size: calibration is too short.
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            undo.callback(setattr, module, "training", module.training)
        model.eval()
        for name, norm in norms.items():
            instead = _normalise_by_batch if is_online(norm) else _normalise_alone if is_synchronised(norm) else None
            if instead:
                undo.callback(vars(norm).update, {key: norm.forward for key in ("forward",) if key in vars(norm)})
                undo.callback(vars(norm).pop, "forward")
                norm.forward = functools.partial(instead, norm)
            if not is_online(norm):
                undo.callback(setattr, norm, "momentum", norm.momentum)
                norm.training = True  # not .train(): a fused norm may hold an activation and a dropout
                norm.momentum = 1.0
                if (count := getattr(norm, "num_batches_tracked", None)) is not None:
                    undo.callback(count.copy_, count.clone())
            for value in statistics_of(norm):
                value.zero_()  # with momentum 1 the old value still enters as 0 times itself, NaN for NaN
            undo.callback(norm.register_forward_pre_hook(functools.partial(_refuse_single_values, name)).remove)
            undo.callback(norm.register_forward_hook(functools.partial(_collect, pools[name])).remove)
        yield


def _normalise_by_batch(norm: Any, x: Tensor) -> Tensor:
    """Normalise x by its own statistics, as an online norm does by its running ones; they are left in the norm."""
    wide = statistics_dtype(x.dtype)
    mean, var = (value.to(wide) for value in statistics_of(norm))
    weight, bias = (None if value is None else value.to(wide) for value in (norm.weight, norm.bias))
    out = F.batch_norm(x, mean, var, weight, bias, True, 1.0, norm.options.eps)
    for own, value in zip(statistics_of(norm), (mean, var), strict=True):
        own.copy_(value)  # nothing to do unless the types differ
    return norm.compensate(out)  # type: ignore[no-any-return]


def _normalise_alone(norm: Any, x: Tensor) -> Tensor:
    """What a synchronised norm, timm's with dropout and activation among them, does in a single process."""
    out = _BatchNorm.forward(norm, x)
    return norm.act(norm.drop(out)) if hasattr(norm, "act") else out


def _refuse_single_values(name: str, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    images, channels = args[0].shape[:2]
    if args[0].numel() // channels // (images if isinstance(norm, _InstanceNorm) else 1) < 2:
        raise UserError(
            f"the norm {name!r} sees a single value a channel (its input is {tuple(args[0].shape)}), which has no "
            "variance; calibrate with more images in every batch, or at a larger size"
        )


def _collect(pool: _Pool, norm: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
    device = "cpu" if args[0].device.type == "mps" else args[0].device  # MPS has no float64
    mean, var = (value.to(device, torch.float64) for value in statistics_of(norm))
    images, channels = args[0].shape[:2]
    count = images if pool.per_image else args[0].numel() // channels
    pool.add(count, mean, var if pool.per_image else var * ((count - 1) / count))
