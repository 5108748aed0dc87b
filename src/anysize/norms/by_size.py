"""A norm for each image size: `norm_by_size`.

    norm_by_size(model, (16, 24, 32, 48))       # or --model.norm-by-size true in a recipe
    train(model)                                # images of any of these sizes, each batch of one
    evaluate(model)                             # at any size; nothing has to be told

The statistics of activations differ with the size of the images, so that one set of running statistics fits none of
the sizes that a network is trained at (Wang et al., Resolution Switchable Networks, arXiv 2007.09558, section 3.1).
Here each norm of a model becomes one for each training size, with the same weight and bias or, by option, its own.
The convolutions and the FLOPs stay.

A hook of the model notes the size of the images that it is called with: the square root of height times width, in
pixels. In training the norm of the nearest size is used and moved. In evaluation a training size takes its own norm; a
size between two of them takes the mean of theirs, linear in the logarithm of the size; one beyond takes the nearest.
"""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.modules.lazy import LazyModuleMixin

from anysize.norms.convert.recognise import recognise
from anysize.norms.running import keeps_statistics
from anysize.registry import UserError
from anysize.world import World

_STEPS = "norm_steps"


class Place(NamedTuple):
    """Where a size lies among those of the norms: between two of them, `share` of the way from the first."""

    first: int
    second: int
    share: float = 0.0


class ImageSize:
    """The place of the images that a model was called with last. It is a hook of the model, which its norms ask.

    >>> ImageSize((16, 32)).between(23, (16, 32)).share > 0.5, ImageSize((16, 32)).between(64, (16, 32))
    (True, Place(first=32, second=32, share=0.0))
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sorted(sizes))
        self.place: Place | None = None
        self._steps = [0] * len(self.sizes)
        self._version = -1

    @_disable_dynamo
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        size = self._noted(args, kwargs)
        if not model.training:
            self.place = self.between(size, self.trained(model) or self.sizes)
            return
        own = _nearest(size, self.sizes)
        trained = self.trained(model)
        if trained and own not in trained:
            _start(model, self, own, _nearest(own, trained))
        number = self.sizes.index(own)
        steps = _steps_of(model)
        steps[number] += 1
        if not steps.is_meta:
            self._steps[number] += 1
            self._version = steps._version
        self.place = Place(own, own)

    def trained(self, model: nn.Module) -> tuple[int, ...]:
        """The sizes that `model` was trained at so far; the device is asked only where others have written the count.

        A copy on the meta device knows none.
        """
        steps = _steps_of(model)
        if steps.is_meta:
            return ()
        if steps.is_inference() or steps._version != self._version:
            self._steps = steps.tolist()
            self._version = -1 if steps.is_inference() else steps._version
        return tuple(size for size, count in zip(self.sizes, self._steps, strict=True) if count)

    def between(self, size: float, sizes: Sequence[int]) -> Place:
        """The place of a size among `sizes`, which ascend."""
        for low, high in itertools.pairwise(sizes):
            if low < size < high:
                return Place(low, high, math.log(size / low) / math.log(high / low))
        near = _nearest(size, sizes)
        return Place(near, near)

    def _noted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() > 2:
                return side(value.shape[2:])
        raise UserError(
            "the norms of this model follow the size of its images, and it was called without any: expected a tensor "
            "(N, C, H, W) among its arguments"
        )


class NormBySize(nn.Module):
    """Norms of one kind, one for each size, of which the size of the images chooses.

    Args:
        norm: is copied for each size.
        image: notes the size.
        affine: whether each has parameters of its own; otherwise they share those of `norm`.

    In the state_dict they are `at_SIZE`, such as `bn1.at_32.running_mean`; a parameter that they share stands under
    each.
    """

    def __init__(self, norm: nn.Module, image: ImageSize, *, affine: bool = False) -> None:
        super().__init__()
        self.image = image
        self.affine_by_size = affine
        self.training = norm.training
        for size in image.sizes:
            self.add_module(f"at_{size}", copied(norm, same_parameters=not affine))

    def forward(self, x: Tensor) -> Tensor:
        place = self.image.place
        if place is None:
            raise UserError(
                "a norm by size was called before its model, which notes the size of the images: call the model itself"
            )
        if not place.share:
            return getattr(self, f"at_{place.first}")(x)  # type: ignore[no-any-return]
        first, values = self._mixed(place)
        return torch.func.functional_call(first, values, (x,))  # type: ignore[no-any-return]

    def at(self, place: Place) -> nn.Module:
        """A norm of the plain kind for this place; buffers are copies, parameters the norm's own where they can be."""
        first, values = self._mixed(place)
        plain = copied(first, same_parameters=not (place.share and self.affine_by_size))
        with torch.no_grad():
            for name, value in plain.state_dict(keep_vars=True).items():
                if name in values:
                    value.copy_(values[name])
        return plain

    def start(self, size: int, other: int) -> None:
        """Let the norm of a size begin with what that of another one has."""
        own, given = (getattr(self, f"at_{each}").state_dict() for each in (size, other))
        for name, value in own.items():
            value.copy_(given[name])

    def _mixed(self, place: Place) -> tuple[nn.Module, dict[str, Tensor]]:
        """The norm of the first size of a place, and the values that it has there."""
        first, second = (getattr(self, f"at_{size}") for size in place[:2])
        if not place.share:
            return first, {}
        other = second.state_dict(keep_vars=True)
        values = {
            name: torch.lerp(value, other[name], place.share)
            for name, value in first.state_dict(keep_vars=True).items()
            if value.is_floating_point() and value is not other[name]
        }
        return first, values

    def extra_repr(self) -> str:
        return "affine_by_size=True" if self.affine_by_size else ""


def norm_by_size(model: nn.Module, sizes: Iterable[Any], affine: bool = False) -> nn.Module:
    """Give `model` a norm for each image size, in place; returns it.

    Each norm that keeps running statistics (batch, synchronised, online, timm's fused ones, instance norms that track
    statistics) becomes a `NormBySize`; with `affine` also group, layer and instance norms, which have weights and
    biases alone. All of them begin with what the norm holds. Of several processes each moves its own statistics, as
    those of plain norms.

    A size that is first trained at later than others begins with the norm of the nearest one. In evaluation sizes that
    were not trained at yet are passed over, unless none was. The count of passes by size is the buffer `norm_steps` of
    the model, the sizes ascending.

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
    model.register_buffer(_STEPS, torch.zeros(len(sides), dtype=torch.int64, device=device))
    model.register_forward_pre_hook(image, with_kwargs=True)
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


def places_of(modules: Iterable[nn.Module]) -> list[tuple[ImageSize, Place | None]]:
    """What the norms by size in `modules` are set to, to be set again by `set_places`."""
    found = {each.image: None for module in modules for each in module.modules() if isinstance(each, NormBySize)}
    return [(image, image.place) for image in found]


def set_places(places: Iterable[tuple[ImageSize, Place | None]]) -> None:
    """Set norms by size to what they were when `places_of` was called."""
    for image, place in places:
        image.place = place


def newly_trained(own: nn.Module, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The tensors of the sizes that `model` was trained at and its copy `own` does not know yet: own ones, new ones."""
    norms = [[each for each in some.modules() if isinstance(each, NormBySize)] for some in (own, model)]
    if not norms[0]:
        return []
    seen, trained = ({*each[0].image.trained(some)} for each, some in zip(norms, (own, model), strict=True))
    return [
        (value, other.state_dict()[name])
        for mine, theirs in zip(*norms, strict=True)
        for size in sorted(trained - seen)
        for other in [getattr(theirs, f"at_{size}")]
        for name, value in getattr(mine, f"at_{size}").state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]


def side(size: Any) -> int:
    """The side (pixels, rounded) of the square with the area of an image: of a number, or (height, width).

    >>> side(32), side((24, 32))
    (32, 28)
    """
    sides = list(size) if isinstance(size, Sequence) else [size]
    if not sides or not all(isinstance(each, (int, float)) and each > 0 for each in sides):
        raise UserError(f"a size is {size!r}; expected pixels, or (height, width), above 0")
    return round(math.prod(sides) ** (1 / len(sides)))


def copied(norm: nn.Module, *, same_parameters: bool) -> nn.Module:
    """A copy of a norm, with parameters of its own or with the same ones."""
    return copy.deepcopy(norm, {id(each): each for each in norm.parameters()} if same_parameters else {})


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
    steps = _steps_of(model)
    _replace(model, dict(made))
    keys = [key for key, hook in model._forward_pre_hooks.items() if hook is image]
    for key in keys:
        del model._forward_pre_hooks[key]
        model._forward_pre_hooks_with_kwargs.pop(key, None)
    del model._buffers[_STEPS]

    def undo() -> None:
        _replace(model, {plain: norm for norm, plain in made.items()})
        model.register_buffer(_STEPS, steps)
        model.register_forward_pre_hook(image, with_kwargs=True)

    return undo


def _replace(model: nn.Module, made: dict[Any, Any]) -> None:
    """Put modules in the place of others, under each of their names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in made:
                parent._modules[name] = made[child]


@torch.no_grad()
def _start(model: nn.Module, image: ImageSize, size: int, other: int) -> None:
    for module in model.modules():
        if isinstance(module, NormBySize) and module.image is image:
            module.start(size, other)


def _steps_of(model: nn.Module) -> Tensor:
    steps: Tensor = getattr(model, _STEPS)
    return steps


def _nearest(size: float, sizes: Sequence[int]) -> int:
    """The size with the smallest ratio to another; of two alike the larger."""
    return min(sizes, key=lambda each: (abs(math.log(size / each)), -each))
