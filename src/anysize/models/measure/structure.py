"""The stages of a model with their output shapes, parameters and FLOPs at an image size."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anysize.models.expected import expected_preprocessing
from anysize.models.measure.flops import count_flops
from anysize.models.measure.input_size import check_size, smallest_size
from anysize.models.measure.meta import build_on_meta, device_of, try_on_meta
from anysize.models.measure.table import ModelFigures
from anysize.models.names import summary
from anysize.models.spec import create_model

# A part with more than this share of the FLOPs is opened, while the table has at most so many rows.
_OPEN = 0.5
_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a model: a child, or a child of a child where that does most of the work."""

    name: str
    kind: str
    """Its class."""
    output: tuple[int, ...] | None
    """Shape of what it returns for one image; None where it returns no tensor or is not used in evaluation."""
    parameters: int
    flops: int


def structure(model: nn.Module, size: int, in_channels: int = 3) -> list[Part]:
    """The parts of `model` in the order of their use, in evaluation on one image (in_channels, size, size).

    The parts are the children of the model. One that takes more than half of the FLOPs is replaced by its own children,
    and so on. What stands outside of them, such as parameters of the model itself, is a last part without a kind. All
    parts together have the parameters and the FLOPs of the model (a multiply-add counts as 2). Shapes alone are
    computed, on the meta device where the model can do that.

    Raises:
        UserError: a size that the model does not take; names the smallest.

    >>> from anysize.models.spec import create_model
    >>> [(part.name, part.output) for part in structure(create_model("resnet20"), 32) if part.flops][:2]
    [('conv1', (16, 32, 32)), ('layer1', (16, 32, 32))]
    """
    check_size(model, size, in_channels)
    probe, shapes, flops = try_on_meta(model, lambda copied: _measure(copied, size, in_channels))
    modules = dict(probe.named_modules())
    names = [name for name, _ in probe.named_children()]
    while (opened := _opened(names, modules, flops)) != names:
        names = opened
    order = {name: i for i, name in enumerate(shapes)}
    names.sort(key=lambda name: order.get(name, len(order)))
    counted: set[int] = set()
    parts = []
    for name in names:
        parameters = _count(modules[name], counted)
        parts.append(Part(name, type(modules[name]).__name__, shapes.get(name), parameters, flops.get(name, 0)))
    rest = _count(probe, counted), flops[""] - sum(part.flops for part in parts)
    return [*parts, *([Part("(the rest)", "", None, *rest)] if any(rest) else [])]


def model_figures(name: str) -> ModelFigures:
    """Measure what `table.csv` says of a model, on the meta device: no weight takes up memory.

    >>> model_figures("resnet20").parameters
    272474
    """
    expected = expected_preprocessing(name)
    model = build_on_meta(lambda: create_model(name, in_channels=expected.channels))
    return ModelFigures(
        name=name,
        parameters=_count(model, set()),
        flops=count_flops(model, expected.image_size, expected.channels, backward=False).forward,
        image_size=expected.image_size,
        smallest=smallest_size(model, expected.channels),
        description=summary(name),
    )


def _measure(model: nn.Module, size: int, in_channels: int) -> tuple[nn.Module, dict[str, Any], Mapping[str, int]]:
    """The model that was run, output shapes by module in the order of use, and FLOPs by module; "" is the model."""
    shapes: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        shapes[name] = tuple(output.shape[1:]) if isinstance(output, Tensor) else None

    for name, module in model.eval().named_modules():
        module.register_forward_hook(functools.partial(keep, name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, in_channels, size, size, device=device_of(model)))
    root = type(model).__name__
    counts = {name: sum(each.values()) for name, each in counter.get_flop_counts().items()}
    flops = {name.removeprefix(root).removeprefix("."): count for name, count in counts.items()}
    return model, shapes, {**flops, "": counter.get_total_flops()}


def _opened(names: list[str], modules: Mapping[str, nn.Module], flops: Mapping[str, int]) -> list[str]:
    """`names` with the first part that does most of the work replaced by its children, where there is room."""
    for i, name in enumerate(names):
        children = [f"{name}.{child}" for child, _ in modules[name].named_children()]
        large = flops.get(name, 0) > _OPEN * flops[""] or not hasattr(type(modules[name]), "forward")
        if len(children) > 1 and large and len(names) + len(children) <= _ROWS:
            return [*names[:i], *children, *names[i + 1 :]]
    return names


def _count(module: nn.Module, counted: set[int]) -> int:
    """Parameters that were not counted before."""
    new = [parameter for parameter in module.parameters() if id(parameter) not in counted]
    counted |= {id(parameter) for parameter in new}
    return sum(parameter.numel() for parameter in new)
