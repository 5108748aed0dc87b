"""Follow the forward pass of any model, call by call: each function of torch that it calls can be seen and changed.

    with Interception(model, on_call):
        model(images)

Nothing of the model is rewritten, and no code of it is guessed at: it runs as it is, in training and in evaluation, in
eager mode and while `torch.export` looks at it. A call is named by the module that makes it, by its function and by how
many such calls the module made before: `layer1.0.relu:relu:1` is the second one of a ReLU that is used twice.
"""

import collections
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from anysize.models.surgery.fold_layers import Compensation
from anysize.norms.convert.recognise import recognise

NORM = "norm"
"""The function's name of a call that is a whole norm, whatever it computes inside."""

OnCall = Callable[["Call", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What is done for a call: given the call, the function that makes it and its arguments, it returns the result."""


class Call:
    """One call in a forward pass.

    Attributes:
        module: the name of the module whose forward pass makes the call; empty: the model's own.
        function: its name, such as `conv2d`; `NORM` for a norm as a whole.
        key: the name of the call, the same in each forward pass.
        owner: the module itself.
    """

    __slots__ = ("function", "key", "module", "owner")

    def __init__(self, module: str, function: str, number: int, owner: nn.Module) -> None:
        self.module = module
        self.function = function
        self.key = f"{module}:{function}:{number}"
        self.owner = owner

    def __repr__(self) -> str:
        return f"Call({self.key!r})"


class Interception(TorchFunctionMode):
    """A context in which `on_call` sees each call of torch that a forward pass of `model` makes, from Python.

    Norms are one call each. What a call does inside is not seen. Enter it anew for each forward pass.

    >>> import torch
    >>> model, seen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), []
    >>> def see(call, run, args, kwargs):
    ...     seen.append(call.key)
    ...     return run(*args, **kwargs)
    >>> images = torch.zeros(2, 3, 8, 8)
    >>> with Interception(model, see):
    ...     _ = model(images)
    >>> seen
    ['0:conv2d:0', '1:norm:0', '2:relu:0']
    """

    def __init__(self, model: nn.Module, on_call: OnCall, parts: "Parts | None" = None) -> None:
        super().__init__()
        self._names, self._norms = parts or parts_of(model)
        self._on_call = on_call
        self._within: list[nn.Module] = [model]
        self._norm_arguments: tuple[Any, ...] = ()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._hooks: list[Any] = []
        self._answering = False
        """Whether `on_call` runs for a norm, whose own calls are not the model's."""

    def __enter__(self) -> "Interception":
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(self._enters),
            module_hooks.register_module_forward_hook(self._leaves, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._answering or self._within[-1] in self._norms:
            return func(*args, **kwargs)
        if func.__name__ != "__get__":
            return self._on_call(self._call(self._within[-1], func.__name__), func, args, kwargs)
        attribute = func(*args, **kwargs)  # such as a shape, or another view of the values
        if not isinstance(attribute, Tensor):
            return attribute
        call = self._call(self._within[-1], func.__self__.__name__)
        return self._on_call(call, lambda *_, **__: attribute, args, kwargs)

    def _call(self, owner: nn.Module, function: str) -> Call:
        kind = self._names[owner], function
        self._counts[kind] += 1
        return Call(*kind, self._counts[kind] - 1, owner)

    def _enters(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module in self._names and self._within[-1] not in self._norms:
            self._within.append(module)
            if module in self._norms:
                self._norm_arguments = args

    def _leaves(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._within[-1] is not module or len(self._within) == 1:
            return None
        self._within.pop()
        if module not in self._norms or output is None:  # None: the norm has raised an error
            return None
        self._answering = True
        try:
            return self._on_call(self._call(module, NORM), lambda *_, **__: output, args, {})
        finally:
            self._answering = False


Parts = tuple[dict[nn.Module, str], set[nn.Module]]
"""The modules of a model with their names, and those that are norms."""


def parts_of(model: nn.Module) -> Parts:
    """What an `Interception` has to know of a model; it takes milliseconds, so who runs a model often keeps it."""
    names = {module: name for name, module in model.named_modules()}
    return names, {module for module in names if is_norm(module)}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of a known kind, or what folding has left of one."""
    kind = recognise(module)
    return (kind is not None and not kind.refused) or isinstance(module, Compensation)


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in arguments or results, those in lists and tuples too, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors_in(value)]
    if isinstance(values, dict):
        return [tensor for value in values.values() for tensor in tensors_in(value)]
    return []
