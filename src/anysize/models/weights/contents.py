"""Find the weights in what a file held, and what stands beside them: pure functions of plain data."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anysize.registry import UserError, counted

WEIGHTS = (
    "state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "weights", "params",
)  # fmt: skip
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema")
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and AveragedModel, and torch.compile, put before every name."""

_CLASSES = (
    "classes", "class_names", "class_to_idx", "idx_to_class", "CLASSES", "names", "label_names", "labels", "id2label",
    "label2id",
)  # fmt: skip
_BESIDES = ("meta", "dataset_meta", "hyper_parameters", "hparams", "config", "cfg", "args", "metadata")
"""Where programs write down what else a model was trained with; mmlab's dataset_meta lies in its meta."""

_MOST_CLASSES, _LONGEST_CLASS = 100_000, 500
_DIGITS = 19
_METRICS = ("best", "acc", "prec", "top1", "top5", "err", "loss", "metric")


@dataclasses.dataclass
class ForeignCheckpoint:
    """The weights of a file and what the file says of them.

    `tensors` by name, without the wrappers' `prefix`; `arch` is the model's name as the program called it, `config`
    its options as text; `epoch` counts as the program did; `classes` are the names of its outputs, where it tells them;
    `averaged` says that these are averaged weights, and `has_averaged` that there are some beside; `ignored` names
    entries that are no tensors.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    arch: str = ""
    config: str = ""
    epoch: int | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    averaged: bool = False
    has_averaged: bool = False
    ignored: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Sentences on what was read."""
        values = sum(tensor.numel() for tensor in self.tensors.values())
        what = f"{self.format} file with {counted(len(self.tensors), 'tensor')}, {counted(values, 'value')}"
        beside = [f"model {self.arch!r}"] if self.arch else []
        beside += [f"options {self.config}"] if self.config else []
        beside += [f"epoch {self.epoch}"] if self.epoch is not None else []
        beside += [f"{name} {value:.6g}" for name, value in self.metrics.items()]
        beside += [f"{counted(len(self.classes), 'class')} ({_some(self.classes)})"] if self.classes else []
        lines = [f"{self.path}: {what}" + (f"; it says: {', '.join(beside)}" if beside else "")]
        if self.prefix:
            lines.append(f"the prefix {self.prefix!r} of every name is taken off")
        if self.averaged:
            lines.append("these are averaged weights")
        elif self.has_averaged:
            lines.append("averaged weights are in it, too, and not taken: --averaged takes them")
        if self.ignored:
            lines.append(f"ignored, since no tensors: {_some(self.ignored)}")
        return lines


def find_contents(held: Any, path: Path, form: str, averaged: bool = False) -> ForeignCheckpoint:
    """Find weights and what stands beside them in what was read from `path`.

    Raises:
        UserError: there are no weights, or no averaged ones where they are wanted.

    >>> import torch
    >>> held = {"model": {"w": torch.zeros(1)}, "model_ema": {"n_averaged": torch.tensor(3), "module.w": torch.ones(1)}}
    >>> find_contents(held, Path("checkpoint.pth"), "PyTorch", averaged=True).tensors
    {'w': tensor([1.])}
    """
    if not isinstance(held, Mapping):
        what = f"one tensor {tuple(held.shape)}" if isinstance(held, Tensor) else f"a {type(held).__name__}"
        raise UserError(f"{path} holds {what}; expected a checkpoint: weights by name, or a dict with them")
    beside = {key: value for key, value in held.items() if isinstance(key, str)}
    extra = next((beside[key] for key in AVERAGED if _has_tensors(beside.get(key))), None)
    main = main_weights(beside)
    if averaged and extra is None:
        raise UserError(f"{path} holds no averaged weights ({_some(list(beside))}); leave --averaged out")
    if main is None and extra is None:
        raise UserError(
            f"{path} holds no weights: it has {_some(list(beside)) or 'nothing'}; expected tensors by name, or a dict "
            "with them under state_dict or model"
        )
    taken = extra if averaged or main is None else main
    assert taken is not None
    tensors = {str(key): value.detach() for key, value in taken.items() if isinstance(value, Tensor)}
    ignored = () if taken is held else tuple(str(key) for key, value in taken.items() if not isinstance(value, Tensor))
    tensors, prefix = strip_wrappers(tensors)
    for name, tensor in tensors.items():
        if (kind := _without_plain_values(tensor)) is not None:
            raise UserError(
                f"{path}: the tensor {name} {kind}; expected plain tensors: save the weights anew where they were made"
            )
    return ForeignCheckpoint(
        path=path,
        format=form,
        tensors=tensors,
        arch=_arch(beside),
        config=config if isinstance(config := beside.get("config"), str) else "",
        epoch=_whole(beside.get("epoch")),
        metrics=_metrics(beside) if taken is not held else {},
        prefix=prefix,
        averaged=taken is extra,
        has_averaged=extra is not None,
        ignored=ignored,
        classes=_class_names(beside) if taken is not held else (),
    )


def strip_wrappers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take the wrappers' prefixes off that every name has, and the count of an average; returns what was taken off.

    >>> import torch
    >>> strip_wrappers({"module._orig_mod.w": torch.zeros(1)})
    ({'w': tensor([0.])}, 'module._orig_mod.')
    """
    left = {name: value for name, value in tensors.items() if name != "n_averaged"}
    prefix = ""
    while found := next((w for w in WRAPPERS if left and all(name.startswith(w) for name in left)), ""):
        left = {name.removeprefix(found): value for name, value in left.items()}
        prefix += found
    return left, prefix


def _without_plain_values(tensor: Tensor) -> str | None:
    """Why a tensor is no array of numbers; None if it is one."""
    if tensor.is_nested:
        return "is nested"
    if tensor.is_meta:
        return "was saved without its values (device meta)"
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype}), and `anysize import` makes a run of torchvision's quantized networks"
    return None if tensor.layout is torch.strided else f"is sparse ({tensor.layout})"


def main_weights(beside: Mapping[str, Any], deep: int = 1) -> Mapping[Any, Any] | None:
    """The weights by name among what a file held, as many dicts deep; None where there are none.

    Those of several networks, such as a student and a teacher, stand side by side, each behind its own name.

    >>> import torch
    >>> list(main_weights({"student": {"w": torch.zeros(1)}, "teacher": {"w": torch.zeros(1)}, "epoch": 3}))
    ['student.w', 'teacher.w']
    """
    for key in WEIGHTS:
        if _has_tensors(beside.get(key)):
            return beside[key]  # type: ignore[no-any-return]
    if _has_tensors(beside):
        return beside
    dicts = {key: value for key, value in beside.items() if key not in AVERAGED and isinstance(value, Mapping)}
    nested = {key: value for key, value in dicts.items() if _has_tensors(value)}
    if len(nested) > 1:
        return {f"{key}.{name}": value for key, value in nested.items() for name, value in value.items()}
    if deep and not nested:
        below = [main_weights(value, deep - 1) for value in dicts.values()]
        nested = {str(number): value for number, value in enumerate(below) if value is not None}
    return next(iter(nested.values())) if len(nested) == 1 else None


def _has_tensors(value: Any) -> bool:
    """Whether a dict holds tensors by name; the state of an optimizer is numbered."""
    return isinstance(value, Mapping) and any(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _arch(beside: Mapping[str, Any]) -> str:
    arguments = beside.get("args")
    from_arguments = vars(arguments) if hasattr(arguments, "__dict__") else arguments
    for place in (beside, from_arguments):
        for key in ("arch", "model", "architecture", "model_name"):
            if isinstance(place, Mapping) and isinstance(place.get(key), str):
                return str(place[key])
    return ""


def _class_names(beside: Mapping[str, Any], depth: int = 2) -> tuple[str, ...]:
    """The names of the outputs in their order, as a list, or as a dict of names and numbers; empty: it tells none.

    >>> _class_names({"meta": {"CLASSES": ["dog", "cat"]}}), _class_names({"class_to_idx": {"dog": 1, "cat": 0}})
    (('dog', 'cat'), ('cat', 'dog'))
    """
    for key in _CLASSES:
        if names := _in_order(beside.get(key)):
            return names
    for key in _BESIDES if depth else ():
        inner = beside.get(key)
        inner = vars(inner) if hasattr(inner, "__dict__") else inner
        if isinstance(inner, Mapping) and (names := _class_names(inner, depth - 1)):
            return names
    return ()


def _in_order(held: Any) -> tuple[str, ...]:
    """Names by their numbers, from 0 and without a gap, each there once; empty for anything else."""
    if isinstance(held, str) and held[:1] in ("[", "{"):  # the header of a safetensors file holds text alone
        with contextlib.suppress(ValueError, RecursionError):
            held = json.loads(held)
    if isinstance(held, Mapping):
        turned = all(isinstance(key, str) for key in held) and all(_whole(value) is not None for value in held.values())
        by_number = {_whole(value): key for key, value in held.items()} if turned else {
            _whole(key): value for key, value in held.items()
        }  # fmt: skip
        held = [by_number.get(number) for number in range(len(held))]
    if not isinstance(held, (list, tuple)) or len(held) > _MOST_CLASSES:
        return ()
    if not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_CLASS for name in held):
        return ()
    return tuple(held) if len(set(held)) == len(held) else ()


def _metrics(beside: Mapping[str, Any]) -> dict[str, float]:
    """Numbers whose name says that they are a result."""
    found = {}
    for key, value in beside.items():
        number = _plain(value)
        if any(word in key.lower() for word in _METRICS) and type(number) in (int, float):
            with contextlib.suppress(OverflowError):  # a whole number of any length
                found[key] = float(number)
    return found


def _whole(value: Any) -> int | None:
    # The header of a safetensors file holds text alone.
    if isinstance(value, str) and value.isdecimal() and len(value) < _DIGITS:
        return int(value)
    number = _plain(value)
    return number if type(number) is int else None


def _plain(value: Any) -> Any:
    """The Python number that a tensor or a numpy scalar of one value holds."""
    if isinstance(value, (Tensor, np.generic)):
        return value.item() if not isinstance(value, Tensor) or value.numel() == 1 else None
    return value


def _some(names: Any, count: int = 5) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
