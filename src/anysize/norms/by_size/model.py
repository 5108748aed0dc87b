"""A norm for each size in any model: `norm_by_size`, and plain norms again: `fix_norm_size`."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from anysize.norms.by_size.norm import STEPS, ImageSize, NormBySize, side
from anysize.norms.convert.recognise import recognise
from anysize.norms.running import keeps_statistics
from anysize.registry import UserError
from anysize.world import World


def norm_by_size(model: nn.Module, sizes: Iterable[Any], affine: bool = False) -> nn.Module:
    """Give `model` a norm for each image size, in place; returns it.

    Each norm that keeps running statistics (batch, synchronised, online, timm's fused ones, instance norms that track
    statistics) becomes a `NormBySize`; with `affine` also group, layer and instance norms, which have weights and
    biases alone. All of them begin with what the norm holds. Of several processes each moves its own statistics, as
    those of plain norms.

    Statistics that move by a momentum are at first the mean of the batches of their size, batch k at a weight of 1 / k,
    until that is less than the momentum. All else of a size that is first trained at later than others begins with what
    the norm of the nearest one has. In evaluation sizes that were not trained at yet are passed over, unless none was.
    The count of passes by size is the buffer `norm_steps` of the model, the sizes ascending.

    Call this before an optimizer takes the parameters where `affine` is set, and after `convert_norms` and
    `elasticize`. Folding, export and int8 want one set of statistics: see `fix_norm_size`.

    Args:
        model: called with images (N, C, H, W) first; any module with such norms.
        sizes: of training, in pixels: whole numbers, or (height, width), which counts as the square of its area.
        affine: weights and biases by size, too. Those of the sizes that a step does not see get no gradient in it, so
            that no optimizer of torch moves or decays them.

    Raises:
        UserError: no sizes, no norm to keep by size, or a model that has it already.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> _ = norm_by_size(model, (8, 16))(torch.randn(2, 3, 16, 16))
    >>> model.norm_steps, model[1].at_16.running_mean.any().item(), model[1].at_8.running_mean.any().item()
    (tensor([0, 1]), True, False)
    """
    sides = sorted({side(size) for size in sizes})
    if not sides or sides[0] < 1:
        raise UserError(f"norm_by_size received the sizes {sides}; expected at least one, of at least 1 pixel")
    check_norm_by_size(model, affine=affine)
    image = ImageSize(sides)
    made = {norm: NormBySize(norm, image, affine=affine) for norm in _eligible(model, affine=affine)}
    _replace(model, made)
    device = next((value.device for value in itertools.chain(model.parameters(), model.buffers())), None)
    model.register_buffer(STEPS, torch.zeros(len(sides), dtype=torch.int64, device=device))
    _hook(model, image)
    return model


def check_norm_by_size(model: nn.Module, *, affine: bool = False) -> None:
    """Raise a `UserError` where `norm_by_size` cannot be done."""
    if not isinstance(model, nn.Module):
        raise UserError(f"norm_by_size received {model!r}; expected a torch.nn.Module and then the sizes of training")
    if norm_sizes(model):
        raise UserError(f"{type(model).__name__} has norms for the sizes {norm_sizes(model)} already; build it anew")
    if recognise(model) is not None:
        raise UserError(f"the model is itself a norm ({type(model).__name__}); give the module that holds it")
    found = _eligible(model, affine=affine)
    if not found:
        others = sorted({type(module).__name__ for module in model.modules() if recognise(module)})
        has = f"its norms ({', '.join(others)}) keep no running statistics" if others else "it has no norms"
        more = "; their weights and biases alone can be kept by size: affine (model.norm_by_size_affine)"
        can = others and not affine and _eligible(model, affine=True)
        raise UserError(f"nothing of {type(model).__name__} can be kept by size: {has}{more if can else ''}")
    if affine and not any(True for norm in found for _ in norm.parameters()):
        raise UserError(f"the norms of {type(model).__name__} have no weights and biases to keep by size; leave it out")


def norm_sizes(model: nn.Module) -> tuple[int, ...]:
    """The sizes that the norms of a model are kept for; empty: it has plain norms."""
    return next((module.image.sizes for module in model.modules() if isinstance(module, NormBySize)), ())


def fix_norm_size(model: nn.Module, size: Any) -> nn.Module:
    """Give a model of `norm_by_size` plain norms again, in place: those for images of one size; returns it.

    Its names are then those of the model before `norm_by_size`, and it no longer asks the size of its images. What is
    learnt stays, of weights and biases by size those of this size.

    Args:
        model: has norms by size.
        size: pixels, or (height, width); between two training sizes the norms are the mean of theirs, as in evaluation.

    Raises:
        UserError: the model has plain norms.

    >>> model = norm_by_size(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (8, 16))
    >>> type(fix_norm_size(model, 12)[1]).__name__, hasattr(model, "norm_steps")
    ('BatchNorm2d', False)
    """
    if not norm_sizes(model):
        raise UserError(f"{type(model).__name__} has plain norms: there is no size to fix them at")
    _fix(model, size)
    return model


@contextlib.contextmanager
def fixed_norm_size(model: nn.Module, size: Any) -> Iterator[None]:
    """Within this context a model of `norm_by_size` has plain norms for one size; another model is left as it is.

    What happens to the statistics meanwhile is undone.
    """
    undo = _fix(model, size) if norm_sizes(model) else None
    try:
        yield
    finally:
        if undo:
            undo()


@contextlib.contextmanager
def fixed_at_first(
    model: nn.Module, batches: Iterable[Any], images_of: Callable[[Any], Tensor], world: World, *, keep: bool
) -> Iterator[Iterable[Any]]:
    """`fixed_norm_size` for the size of the first of `batches`, of any process of `world`; yields them all.

    With `keep` the norms stay plain where nothing is raised.
    """
    if not norm_sizes(model):
        yield batches
        return
    left = iter(batches)
    first = list(itertools.islice(left, 1))
    sizes = [size for size in world.gather([side(images_of(batch).shape[2:]) for batch in first]) if size]
    undo = _fix(model, sizes[0][0] if sizes else norm_sizes(model)[0])
    try:
        yield itertools.chain(first, left)
    except BaseException:
        undo()
        raise
    if not keep:
        undo()


def refuse_norm_by_size(model: nn.Module, doing: str) -> None:
    """Raise a `UserError` where the norms of a model are kept by size, and one set of them is needed."""
    if sizes := norm_sizes(model):
        raise UserError(
            f"{doing} needs one set of statistics, and {type(model).__name__} has norms for the sizes "
            f"{', '.join(map(str, sizes))}: choose one with anysize.fix_norm_size(model, {sizes[-1]})"
        )


def _eligible(model: nn.Module, *, affine: bool) -> list[nn.Module]:
    """The norms that can be kept by size, each once."""
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        if keeps_statistics(module):
            if isinstance(module, LazyModuleMixin):
                raise UserError(f"norm {name!r} has not seen a batch yet: call the model once before")
            found.append(module)
        elif affine and _has_affine(module):
            found.append(module)
    return found


def _has_affine(module: nn.Module) -> bool:
    """Whether a module without statistics is a norm with weights that can be those of a size."""
    kind = recognise(module)
    known = kind is not None and not kind.refused and kind.name != "layer_elementwise"
    return known and any(True for _ in module.parameters())


def _fix(model: nn.Module, size: Any) -> Callable[[], None]:
    """Give the model plain norms for a size; what is returned undoes it."""
    image = next(each.image for each in model.modules() if isinstance(each, NormBySize))
    place = image.between(side(size), image.trained(model) or image.sizes)
    made = {norm: norm.at(place) for norm in model.modules() if isinstance(norm, NormBySize)}
    steps: Tensor = getattr(model, STEPS)
    _replace(model, dict(made))
    for hooks, ours in ((model._forward_pre_hooks, image), (model._forward_hooks, image.after)):
        for key in [key for key, hook in hooks.items() if hook == ours]:
            del hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
    del model._buffers[STEPS]

    def undo() -> None:
        _replace(model, {plain: norm for norm, plain in made.items()})
        model.register_buffer(STEPS, steps)
        _hook(model, image)

    return undo


def _hook(model: nn.Module, image: ImageSize) -> None:
    """Let the image size of a model be noted before each of its passes, and its norms be weighed behind it."""
    model.register_forward_pre_hook(image, with_kwargs=True)
    model.register_forward_hook(image.after)


def _replace(model: nn.Module, made: dict[Any, Any]) -> None:
    """Put modules in the place of others, under each of their names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in made:
                parent._modules[name] = made[child]
