"""Checks of options, arguments and weights that several families and functions share."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from anysize.registry import UserError

_RANGE = re.compile(r"\bquantization\.values\..*\.(low|high)\b")


def check_is_model(function: str, model: object) -> None:
    """Do nothing if `model` is one.

    Raises:
        UserError: anything else, such as a name or a class, in place of the model that `function` takes.

    >>> check_is_model("elasticize", "resnet50")
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: elasticize received 'resnet50'; expected a torch.nn.Module, such as create_model returns
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{function} received {model!r}; expected a torch.nn.Module, such as create_model returns")


def find_damaged(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer that holds a value that is not finite, if any."""
    return first_not_finite(model.state_dict())


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds a value that is not finite, if any; a device is waited for once.

    >>> first_not_finite({"count": torch.tensor(3), "weight": torch.ones(2), "bias": torch.tensor([0.0, torch.nan])})
    'bias'
    """
    numbers = {
        name: value
        for name, value in tensors.items()
        if (value.is_floating_point() or value.is_complex()) and not value.is_meta
    }
    flags = [_is_sound(name, value) for name, value in numbers.items()]
    if not flags or all(torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()):
        return None
    return next(name for name, flag in zip(numbers, flags, strict=True) if not flag)


def _is_sound(name: str, value: Tensor) -> Tensor:
    value = value if value.element_size() > 1 else value.float()
    # The range of an observer that has seen no value yet begins at infinity.
    return (~value.isnan() if _RANGE.search(name) else value.isfinite()).all()


def whole_numbers(option: str, values: object, example: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values` as a tuple of as many positive whole numbers as `example` has.

    Raises:
        UserError: too few or too many values, or one that is not a whole number above 0.

    >>> whole_numbers("layers", [2, 0], example=(3, 4, 6, 3))
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: layers is [2, 0]; expected 4 positive whole numbers, such as [3, 4, 6, 3]
    """
    numbers = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
    if len(numbers) != len(example) or not all(type(number) is int and number > 0 for number in numbers):
        shown = list(numbers) or values
        raise UserError(f"{option} is {shown}; expected {len(example)} positive whole numbers, such as {list(example)}")
    return numbers


def whole_number(option: str, value: object, example: int) -> int:
    """Return `value`, a positive whole number; raises a `UserError` for anything else."""
    if type(value) is not int or value < 1:
        raise UserError(f"{option} is {value}; expected a positive whole number, such as {example}")
    return value


def branch_groups(cardinality: int, widths: Iterable[int]) -> int:
    """Groups of the 3x3 convolution in each of two branches, which share `cardinality` evenly.

    Raises:
        UserError: a cardinality that is no even number above 0, or one that does not divide a width.
    """
    if type(cardinality) is not int or cardinality < 2 or cardinality % 2:
        raise UserError(f"cardinality is {cardinality}; expected an even number above 0, half of it for each branch")
    for width in widths:
        if width % (cardinality // 2):
            raise UserError(
                f"cardinality {cardinality} gives each branch {cardinality // 2} groups, which do not divide its "
                f"{width} channels; choose another width or cardinality"
            )
    return cardinality // 2
