"""Metrics of a model over a data set at one image size. Each image counts exactly once."""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.base import Outputs, Task
from anysize.tasks.records import Summary


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode without gradients, and each of its modules back into its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class TimedForward:
    """Calls a model and sums up the seconds inside it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seconds = 0.0

    def __call__(self, images: Tensor) -> Outputs:
        started = time.perf_counter()
        outputs: Outputs = self.model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        self.seconds += time.perf_counter() - started
        return outputs


def evaluate_batches(
    model: nn.Module,
    task: Task,
    batches: Iterable[LoadedBatch],
    device: torch.device,
) -> Summary:
    """Run `model` over `batches` and return the task's summary, with `images` and `images_per_second` in its values.

    Where a batch holds several copies or crops of each image, their outputs are averaged before they are judged. The
    rate counts the time inside the model alone, so that it says what the model costs and not the reading of files. In
    float32 whatever the training's precision was, so that figures compare.

    Raises:
        UserError: there are no images.
    """
    metrics = task.metrics(device)
    for metric in metrics.values():  # each process of a run sees all images, and waits for no other one
        metric.distributed_available_fn = _alone
    forward = TimedForward(model)
    images = 0
    with evaluating(model):
        for batch in batches:
            task.measure(metrics, forward, on_device(batch, device))
            images += len(batch.indices)
        if not images:
            raise UserError("no image can be evaluated: there is none, or all files are damaged; see the warnings")
        summary = task.summary(metrics)
    facts = {"images": images, "images_per_second": images / forward.seconds if forward.seconds else 0.0}
    return dataclasses.replace(summary, values={**summary.values, **facts})


def on_device(batch: LoadedBatch, device: torch.device) -> LoadedBatch:
    """The batch with its tensors on a device."""
    return dataclasses.replace(
        batch,
        images=batch.images.to(device, non_blocking=True),
        targets=batch.targets.to(device, non_blocking=True),
    )


def _alone() -> bool:
    return False
