"""What a task owns: target, loss and metrics. A new task is one new file that registers itself in `TASKS`."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import MetricCollection

import anysize.tasks
from anysize.registry import Registry


class Task(Protocol):
    """The four questions that training and evaluation ask."""

    name: str
    best: str
    """Name of the metric, higher is better, that chooses the best checkpoint."""

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch among themselves (mixup, cutmix); draws from torch's generator."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of a batch: a scalar, the mean over its images."""
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
    for module in pkgutil.iter_modules(anysize.tasks.__path__):
        importlib.import_module(f"anysize.tasks.{module.name}")
    return TASKS[name](**options)
