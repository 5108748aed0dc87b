"""What a task owns: target, loss and metrics. A new task is one new file that registers itself in `TASKS`."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import MetricCollection

import anysize.tasks
from anysize.registry import Registry

Outputs = Tensor | tuple[Tensor, ...]
"""What a model returns: logits, or in training a tuple of the logits and those of its auxiliary classifiers."""


def main_logits(outputs: Outputs) -> Tensor:
    """The logits that count, without those of auxiliary classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def loss_with_auxiliary(loss: Callable[[Tensor], Tensor], outputs: Outputs, weight: float) -> Tensor:
    """`loss` of the logits, plus `weight` times that of the logits of each auxiliary classifier.

    >>> loss_with_auxiliary(torch.mean, (torch.ones(2, 3), torch.full((2, 3), 10.0)), weight=0.4)
    tensor(5.)
    """
    total = loss(main_logits(outputs))
    for auxiliary in () if isinstance(outputs, Tensor) else outputs[1:]:
        total = total + weight * loss(auxiliary)
    return total


class Task(Protocol):
    """The four questions that training and evaluation ask."""

    name: str
    best: str
    """Name of the metric, higher is better, that chooses the best checkpoint."""

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch among themselves (mixup, cutmix); draws from torch's generator."""
        ...

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The training loss of a batch: a scalar, the mean over its images; auxiliary classifiers count in it."""
        ...

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """Cheap metrics of one training batch as scalars on its device, without a transfer."""
        ...

    def metrics(self, device: torch.device) -> MetricCollection:
        """Fresh metrics over a whole data set, updated with (outputs, targets); `loss` is among them."""
        ...


TASKS: Registry[Task] = Registry("task")


def create_task(name: str, **options: object) -> Task:
    """Build a task by name.

    Raises:
        UserError: an unknown name.
    """
    _find_tasks()
    return TASKS[name](**options)


def list_tasks() -> list[str]:
    """Names of the tasks that can be trained and evaluated.

    >>> "classification" in list_tasks()
    True
    """
    _find_tasks()
    return list(TASKS)


def _find_tasks() -> None:
    for module in pkgutil.iter_modules(anysize.tasks.__path__):
        importlib.import_module(f"anysize.tasks.{module.name}")
