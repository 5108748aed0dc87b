"""A model as torch.export's graph for any batch, height and width; where it cannot be, the layer that hinders it."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.fx.experimental._config as experimental
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from anysize.export.extras import quiet
from anysize.machine import is_short
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


class Normalised(nn.Module):
    """A model that takes pixels uint8 (N, C, H, W) and normalises them itself.

    >>> class Same(nn.Module):
    ...     def forward(self, images):
    ...         return images
    >>> Normalised(Same(), Preprocessing(2, (0.5,), (0.25,)))(torch.zeros(1, 1, 1, 2, dtype=torch.uint8)).flatten()
    tensor([-2., -2.])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        mean, std = (torch.tensor(values).double().view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Any:
        return self.model(images.float() * self.scale + self.shift)


class _Logits(nn.Module):
    """Gives what counts of a model's outputs, and names its input `images`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images)
        logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return logits


def capture(model: nn.Module, images: Tensor, *, any_size: bool = True) -> torch.export.ExportedProgram:
    """The graph of `model` in evaluation, traced with `images` (2, C, H, W) for any batch, height and width.

    Without `any_size` for any batch at this height and width.

    Raises:
        UserError: the graph depends on the values of an image, or on the number of images, or torch.export fails
            otherwise; the layer where it happened is named.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> capture(model, torch.zeros(2, 3, 8, 8)).module()(torch.zeros(1, 3, 5, 7)).shape
    torch.Size([1, 8])
    """
    auto = torch.export.Dim.AUTO
    sides = (0, 2, 3) if any_size else (0,)
    stack: list[nn.Module] = []
    try:
        with _followed(stack), quiet(), torch.no_grad(), experimental.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            # Otherwise sides of 1, which maps deep in a network come to, are taken for a case that cannot be.
            program = torch.export.export(
                _Logits(model).eval(), (images,), dynamic_shapes=(dict.fromkeys(sides, auto),), strict=False
            )
    except GuardOnDataDependentSymNode:
        raise UserError(
            f"{_name(stack, model)} decides by the values of an image what it computes, which no exported graph can; "
            "compute both ways and choose with torch.where"
        ) from None
    except Exception as error:  # whatever a model or torch.export says
        if is_short(error):
            raise
        raise UserError(
            f"{_name(stack, model)} cannot be exported: {first_line(error)}; write what it does with operations on "
            "tensors alone"
        ) from error
    held = {0: "images", 2: "pixels in height", 3: "pixels in width"}
    for side in sides:
        if isinstance(_input_of(program).shape[side], int):
            raise UserError(
                f"model {type(model).__name__} can be exported for {images.shape[side]} {held[side]} alone: it "
                "computes with that number; take it from the shape of the images wherever it is needed"
            )
    for node in program.graph.nodes:  # paths and code of this machine, which are no one's business
        node.meta.pop("stack_trace", None)
    return program


def layer_of(program: torch.export.ExportedProgram, operator: str) -> str:
    """The layer that first calls an operator, such as "aten.conv2d.default", for messages."""
    for node in program.run_decompositions().graph.nodes:
        if str(node.target) == operator and node.meta.get("nn_module_stack"):
            path, _ = list(node.meta["nn_module_stack"].values())[-1]
            return f"layer {_below(path)!r}" if _below(path) else "the model"
    return "a layer"


def _input_of(program: torch.export.ExportedProgram) -> Tensor:
    name = program.graph_signature.user_inputs[0]
    found: Tensor = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    return found


def _below(path: str) -> str:
    """The name of a module within the model, of its path in the graph, where the model is called `model`."""
    return re.sub(r"^model\.?", "", path)


@contextlib.contextmanager
def _followed(stack: list[nn.Module]) -> Iterator[None]:
    """Keep in `stack` the modules that are being called; where one fails it stays there."""

    def leave(*_: object) -> None:
        stack.pop()

    before = nn.modules.module.register_module_forward_pre_hook(lambda module, _: stack.append(module))
    after = nn.modules.module.register_module_forward_hook(leave)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _name(stack: list[nn.Module], model: nn.Module) -> str:
    """What failed: the innermost module that was being called, by its name in the model."""
    names = {id(module): name for name, module in model.named_modules()}
    for module in reversed(stack):
        if names.get(id(module)):
            return f"layer {names[id(module)]!r} ({type(module).__name__})"
    return f"model {type(model).__name__}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
