"""Metrics of a model over a data set at one image size. Each image counts exactly once."""

import contextlib
import time
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from anysize.data.loader import LoadedBatch
from anysize.tasks.base import Task, main_logits


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


def evaluate_batches(
    model: nn.Module,
    task: Task,
    batches: Iterable[LoadedBatch],
    device: torch.device,
) -> dict[str, float]:
    """Run `model` over `batches` and return the task's metrics, `images` and `images_per_second`.

    Where a batch holds several copies or crops of each image, their outputs are averaged before they are judged. The
    rate counts the time inside the model alone, so that it says what the model costs and not the reading of files. In
    float32 whatever the training's precision was, so that figures compare.
    """
    metrics = task.metrics(device)
    images = 0
    seconds = 0.0
    with evaluating(model):
        for batch in batches:
            inputs = batch.images.to(device, non_blocking=True)
            started = time.perf_counter()
            outputs = main_logits(model(inputs))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - started
            count = len(outputs) // batch.copies
            outputs = outputs.float().reshape(batch.copies, count, *outputs.shape[1:]).mean(dim=0)  # copy-major
            metrics.update(outputs, batch.targets[:count].to(device))
            images += count
    values = {name: float(value) for name, value in metrics.compute().items()}
    return {**values, "images": images, "images_per_second": images / seconds if seconds else 0.0}
