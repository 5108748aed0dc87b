"""The optimizer that a regime drives: torch.optim's, with its settings renewed before every step."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anysize.registry import UserError, counted, did_you_mean
from anysize.sizes.multiples import check_places
from anysize.training.batch_rule import check_batch_rule, is_scaled, scale_to_batch, why_not_scaled
from anysize.training.decay import parameter_groups
from anysize.training.muon import MUON, MuonAndSgd
from anysize.training.regime import FLOAT32_MAX, constant, is_schedule, shorten, to_data, value_at
from anysize.training.settings import OptimizerSettings

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, ("lr", "momentum", "weight_decay", "nesterov")),
    "adam": (torch.optim.Adam, ("lr", "betas", "eps", "weight_decay")),
    "adamw": (torch.optim.AdamW, ("lr", "betas", "eps", "weight_decay")),
    "rmsprop": (torch.optim.RMSprop, ("lr", "momentum", "alpha", "eps", "weight_decay")),
    "muon": (MuonAndSgd, MUON),
}

FUSED = ("sgd", "adam", "adamw")
"""The optimizers that torch has a fused implementation of: one kernel for all weights, which a flag can skip."""


class RegimeOptimizer:
    """A torch optimizer whose hyper-parameters, and whose very kind, are a function of progress.

    When the name changes the new optimizer starts without the old one's state. `batch_size` is the run's, over all
    processes; it matters where the settings say which batch they are written for.

    Raises:
        UserError: an unknown optimizer, a setting that none of the optimizers of the regime uses, settings that do not
            fit together, or what `parameter_groups` raises.

    >>> settings = OptimizerSettings()
    >>> optimizer = RegimeOptimizer(nn.Linear(2, 2), settings)
    >>> optimizer.apply(0.0)["lr"]
    0.1
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings, batch_size: int = 0) -> None:
        self.settings = settings
        self.batch_size = batch_size
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        names = {str(point.value) for point in settings.name}
        self._groups = parameter_groups(model, settings, matrices="muon" in names)
        self._names = {id(p): name for name, p in model.named_parameters()}
        for name in names:
            if name not in OPTIMIZERS:
                raise UserError(f"unknown optimizer {name!r}: {did_you_mean(name, OPTIMIZERS)}")
        if "muon" in names and len(names) > 1:
            raise UserError(
                "optimizer.name changes between muon and another one, and muon's groups of parameters have learning "
                "rates that are not for others; name muon alone"
            )
        used = {key for name in names for key in OPTIMIZERS[name][1]} | ({"other_lr"} if "muon" in names else set())
        for key in ("momentum", "nesterov", "betas", "alpha", "eps", "other_lr", *MUON[4:]):
            value, default = getattr(settings, key), getattr(OptimizerSettings(), key)
            if key not in used and value not in (default, constant(0.0)):
                raise UserError(
                    f"optimizer.{key} is set, but {' and '.join(sorted(names))} takes no {key}; remove it, or give its "
                    f"default {to_data(default) if is_schedule(default) else default}"
                )
        check_batch_rule(settings, names)
        check_places("optimizer.lr_by_size", settings.lr_by_size, "pixels")
        _check_warm_up(settings)
        if not self.parameters:
            raise UserError("the model has no parameters to train; expected at least one that requires a gradient")
        self.name = ""
        self.warming_up = False
        self.torch: torch.optim.Optimizer
        self._check_every_point()
        self.apply(0.0)

    @property
    def names(self) -> list[str]:
        """The names of the parameters that are trained."""
        return [self._names[id(parameter)] for parameter in self.parameters]

    def _check_every_point(self) -> None:
        """Let torch look at the settings of every phase before the first step."""
        schedules = {key: value for key, value in vars(self.settings).items() if is_schedule(value)}
        for key, schedule in schedules.items():
            for point in schedule:
                if isinstance(point.value, str) != (key == "name"):
                    raise UserError(
                        f"optimizer.{key} is {point.value!r}; expected a {'name' if key == 'name' else 'number'}"
                    )
        for epoch in sorted({point.epoch for schedule in schedules.values() for point in schedule}):
            try:
                self._switch(*regime_at(self.settings, epoch, self.batch_size))
            except ValueError as error:
                raise UserError(f"the optimizer refuses its settings at epoch {epoch:g}: {error}") from None
        self.name = ""

    def apply(self, epoch: float, factor: float = 1.0) -> dict[str, Any]:
        """Set the optimizer to what the regime says at `epoch` epochs of progress; return it.

        `factor` is that of the learning rate at the size of the step (`lr_by_size`).
        """
        name, values = regime_at(self.settings, epoch, self.batch_size, factor)
        self.warming_up = progress(self.settings, epoch) < self.settings.warmup_epochs
        if name != self.name:
            self._switch(name, values)
        for group in self.torch.param_groups:
            group.update(values)
            if group["decay"] is not None:
                group["weight_decay"] = group["decay"]
            if group["multiple"] != 1:
                group["lr"] = min(group["lr"] * group["multiple"], FLOAT32_MAX)
            if group["until"]:
                group["lr"] *= max(0.0, 1 - progress(self.settings, epoch) / group["until"])
        # torch makes this state in the first step alone: rmsprop's only if momentum began above 0, and fused sgd's
        # without values if that step is skipped.
        if name in ("sgd", "rmsprop") and values["momentum"] > 0:
            for parameter in self.parameters:
                state = self.torch.state[parameter]
                if "momentum_buffer" not in state and (state or name == "sgd"):
                    state["momentum_buffer"] = torch.zeros_like(parameter)
        return values

    def _switch(self, name: str, values: dict[str, Any]) -> None:
        def build(**options: Any) -> torch.optim.Optimizer:
            return OPTIMIZERS[name][0]([dict(group) for group in self._groups], **values, **options)

        self.name = name
        if name not in FUSED:
            self.torch = build()
            return
        try:
            self.torch = build(fused=True)
        except RuntimeError:  # not on this kind of device
            self.torch = build()

    def step(self, fine: Tensor) -> None:
        """One step where `fine`, a truth on the device, holds; otherwise weights and state stay as they are.

        The host does not learn which. torch's fused optimizers take a flag for it; for others the step is made, and
        what was there before is put back.
        """
        if self.torch.defaults.get("fused"):
            self.torch.found_inf = (~fine).float()  # type: ignore[attr-defined]  # as torch.amp's loss scaling sets it
            self.torch.step()
            return
        before = [parameter.detach().clone() for parameter in self.parameters]
        states = {key: value.clone() for key, value in self._state_tensors()}
        self.torch.step()
        with torch.no_grad():
            for parameter, value in zip(self.parameters, before, strict=True):
                parameter.copy_(torch.where(fine, parameter, value))
            for key, value in self._state_tensors():
                old = states.get(key)  # a state that the step has made was 0 before it
                value.copy_(torch.where(fine.to(value.device), value, torch.zeros_like(value) if old is None else old))

    def _state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for parameter, values in self.torch.state.items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    yield f"{self._names[id(parameter)]}/{key}", value

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's `name`, and its tensors by `parameter name/state name`."""
        return {"name": self.name, **dict(self._state_tensors())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the optimizer that `state_dict` described; `apply` then moves on from it."""
        name = state["name"]
        values = {key: value_at(v, 0) if is_schedule(v) else v for key, v in vars(self.settings).items()}
        self._switch(name, {key: values[key] for key in OPTIMIZERS[name][1]})
        parameters = {self._names[id(parameter)]: parameter for parameter in self.parameters}
        for key, value in state.items():
            parameter_name, _, kind = key.rpartition("/")
            if not parameter_name:
                continue
            parameter = parameters[parameter_name]
            # A moment lies in memory as its parameter does; a step count is a scalar, with fused optimizers beside it.
            if kind == "step":
                like = value.to(parameter.device) if self.torch.defaults.get("fused") else value
            elif value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(f"{key} is {value.dtype} {tuple(value.shape)}, and not as its parameter")
            else:
                like = torch.empty_like(parameter).copy_(value)
            self.torch.state[parameter][kind] = like


def stretch(settings: OptimizerSettings, epochs: int) -> OptimizerSettings:
    """The same regime over `epochs` epochs, where the settings say how many they are written for.

    >>> from anysize.training.regime import parse_schedule
    >>> settings = OptimizerSettings(epochs=200, lr=parse_schedule("0:0.1 100:0.01"))
    >>> [point.epoch for point in stretch(settings, 20).lr]
    [0.0, 10.0]
    """
    if not settings.epochs:
        return settings
    ratio = epochs / settings.epochs
    schedules: dict[str, Any] = {
        key: shorten(value, ratio) for key, value in vars(settings).items() if is_schedule(value)
    }
    until = {name: value * ratio for name, value in settings.trained_until.items()}
    return dataclasses.replace(
        settings, epochs=epochs, warmup_epochs=settings.warmup_epochs * ratio, trained_until=until, **schedules
    )


def regime_at(
    settings: OptimizerSettings, epoch: float, batch_size: int = 0, factor: float = 1.0
) -> tuple[str, dict[str, Any]]:
    """The optimizer's name and its hyper-parameters at `epoch` epochs of progress: a pure function.

    Where the settings say for which batch they are written, lr and momentum are scaled to the run's `batch_size` (over
    all processes; 0: the same) by their rule: see `batch_rule`. lr is then multiplied by `factor`.

    >>> regime_at(OptimizerSettings(warmup_epochs=4.0), 1.0)[1]["lr"]
    0.025
    >>> regime_at(OptimizerSettings(batch_size=256, batch_rule="linear"), 0.0, batch_size=1024)[1]["lr"]
    0.4
    >>> values = regime_at(OptimizerSettings(batch_size=256), 0.0, batch_size=32)[1]
    >>> round(values["lr"], 6), round(values["momentum"], 8)
    (0.001635, 0.98691628)
    """
    epoch = progress(settings, epoch)
    values: dict[str, Any] = {
        key: value_at(value, epoch) if is_schedule(value) else value for key, value in vars(settings).items()
    }
    if epoch < settings.warmup_epochs:
        start = settings.warmup_start
        done = epoch / settings.warmup_epochs if settings.warmup_method == "linear" else 0.0
        values["lr"] *= start + (1 - start) * done
    lr, values["momentum"] = scale_to_batch(settings, values["lr"], values["momentum"], batch_size)
    values["lr"] = min(lr * factor, FLOAT32_MAX)
    name = values["name"]
    return name, {key: values[key] for key in OPTIMIZERS[name][1]}


def progress(settings: OptimizerSettings, epoch: float) -> float:
    """The progress that warm-up and schedules see: whole epochs alone where the settings say so."""
    return math.floor(epoch) if settings.update == "epoch" else epoch


def describe_batch(settings: OptimizerSettings, batch_size: int, processes: int) -> str:
    """A sentence on the batch and the learning rate of a run of so many processes with `batch_size` images each.

    The learning rate is the largest that the schedule, warm-up included, comes to.

    >>> describe_batch(OptimizerSettings(batch_size=256, batch_rule="linear"), 64, processes=2)
    '2 processes with 64 images each make batches of 128; the learning rate, at its largest 0.1 for batches of 256, ...
    """
    total = batch_size * processes
    who = (
        f"{processes} processes with {counted(batch_size, 'image')} each make"
        if processes > 1
        else "a single process makes"
    )
    said = f"{who} batches of {total}; the learning rate, at its largest "
    if not is_scaled(settings, total):
        return f"{said}{largest_lr(settings):g}, is not scaled to the batch ({why_not_scaled(settings)})"
    said += (
        f"{largest_lr(settings):g} for batches of {settings.batch_size}, becomes {largest_lr(settings, total):g} by "
        f"the {settings.batch_rule} rule"
    )
    if settings.batch_rule == "momentum":
        before, after = (regime_at(settings, 0.0, size)[1]["momentum"] for size in (0, total))
        said += f", and the momentum, at first {before:g}, {after:.6g}"
    return f"{said} (optimizer.batch_rule)"


def too_fast_for_weights(settings: OptimizerSettings, batch_size: int) -> float:
    """The largest learning rate, where it is one for training from scratch; 0 where weights may start with it.

    A rule of thumb for batches of 64 and below, which grows with larger ones: 0.02 for sgd, 0.0005 for the others.

    >>> too_fast_for_weights(OptimizerSettings(), 64), too_fast_for_weights(OptimizerSettings(lr=constant(0.005)), 64)
    (0.1, 0.0)
    """
    slow = 0.02 if all(point.value == "sgd" for point in settings.name) else 5e-4
    peak = largest_lr(settings, batch_size)
    return peak if peak > slow * max(1.0, batch_size / 64) else 0.0


def largest_lr(settings: OptimizerSettings, batch_size: int = 0) -> float:
    """The largest learning rate that the schedule, warm-up included, comes to with this batch (0: the settings' own).

    >>> largest_lr(OptimizerSettings(warmup_epochs=5.0))
    0.1
    """
    points = [point.epoch for value in vars(settings).values() if is_schedule(value) for point in value]
    warming_up = [settings.warmup_epochs * share / 100 for share in range(101)]
    epochs = (*points, *warming_up, math.ceil(settings.warmup_epochs))
    return max(float(regime_at(settings, epoch, batch_size)[1]["lr"]) for epoch in epochs)


def _check_warm_up(settings: OptimizerSettings) -> None:
    if not settings.warmup_epochs or settings.warmup_start:
        return
    for key, value in (("warmup_method", "constant"), ("update", "epoch")):
        if getattr(settings, key) == value:
            raise UserError(
                f"optimizer.{key} is {value} and optimizer.warmup_start 0, so that nothing would be learned at first; "
                "set warmup_start, such as 0.01"
            )
