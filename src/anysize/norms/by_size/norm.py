"""Norms of which the size of the images chooses: `NormBySize`, and `ImageSize`, the hook of a model that notes it."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from anysize.norms.by_size.first_batches import FirstBatch, first_batches
from anysize.registry import UserError

STEPS = "norm_steps"
"""The buffer of a model that counts its passes by size."""


class Place(NamedTuple):
    """Where a size lies among those of the norms: between two of them, `share` of the way from the first."""

    first: int
    second: int
    share: float = 0.0


class ImageSize:
    """The place of the images that a model was called with last. It is a hook of the model, which its norms ask.

    Behind a pass, `after` is another one.

    >>> ImageSize((16, 32)).between(23, (16, 32)).share > 0.5, ImageSize((16, 32)).between(64, (16, 32))
    (True, Place(first=32, second=32, share=0.0))
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sorted(sizes))
        self.place: Place | None = None
        self._steps = [0] * len(self.sizes)
        self._version = -1
        self._first: list[FirstBatch] = []
        self._settled = math.inf  # passes at a size from which its first batches are over

    @_disable_dynamo
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        size = self._noted(args, kwargs)
        self._first = []
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
            if (k := self._steps[number]) < self._settled:
                self._first = first_batches((norm.get_submodule(f"at_{own}") for norm in _norms(model, self)), k)
                if not self._first:
                    self._settled = k
        self.place = Place(own, own)

    @_disable_dynamo
    def after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Weigh the first batches of a size alike: a hook of the model, behind its pass."""
        for each in self._first:
            each.weigh()
        self._first = []

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
        own, given = (getattr(self, f"at_{each}").state_dict(keep_vars=True) for each in (size, other))
        for name, value in own.items():
            if value is not given[name]:  # what they share waits for a backward pass, perhaps, and may not be written
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
    sides: list[float] = list(size) if isinstance(size, Sequence) else [size]
    if not sides or not all(isinstance(each, (int, float)) and each > 0 for each in sides):
        raise UserError(f"a size is {size!r}; expected pixels, or (height, width), above 0")
    exact: float = math.prod(sides) ** (1 / len(sides))
    return round(exact)


def copied(norm: nn.Module, *, same_parameters: bool) -> nn.Module:
    """A copy of a norm, with parameters of its own or with the same ones."""
    return copy.deepcopy(norm, {id(each): each for each in norm.parameters()} if same_parameters else {})


@torch.no_grad()
def _start(model: nn.Module, image: ImageSize, size: int, other: int) -> None:
    for norm in _norms(model, image):
        norm.start(size, other)


def _norms(model: nn.Module, image: ImageSize) -> Iterator[NormBySize]:
    """The norms of a model that ask for the size of `image`."""
    return (each for each in model.modules() if isinstance(each, NormBySize) and each.image is image)


def _steps_of(model: nn.Module) -> Tensor:
    steps: Tensor = getattr(model, STEPS)
    return steps


def _nearest(size: float, sizes: Sequence[int]) -> int:
    """The size with the smallest ratio to another; of two alike the larger."""
    return min(sizes, key=lambda each: (abs(math.log(size / each)), -each))
