"""Metrics of a model over a data set at one image size. Each image counts exactly once, in any number of processes."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from anysize.data.loader import LoadedBatch
from anysize.evaluation.finite import check_all_finite, images_not_finite, is_finite
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.tasks.base import Outputs, Task, main_logits
from anysize.tasks.records import Judged, Summary
from anysize.world import World


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode without gradients, and each of its modules back into its own mode after."""
    with in_evaluation(model), torch.inference_mode():
        yield


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode, and each of its modules back into its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class TimedForward:
    """Calls a model, sums up the seconds inside it, and notes whether an output was not finite (`sound`)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seconds = 0.0
        self.sound = True

    def __call__(self, images: Tensor) -> Outputs:
        started = time.perf_counter()
        outputs: Outputs = self.model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        self.seconds += time.perf_counter() - started
        self.sound = self.sound and is_finite(main_logits(outputs))
        return outputs


def evaluate_batches(
    model: nn.Module,
    task: Task,
    batches: Iterable[LoadedBatch],
    device: torch.device,
    world: World | None = None,
    describe: Callable[[int], str] = "image {}".format,
    judged: dict[int, Judged] | None = None,
) -> Summary:
    """Run `model` over `batches` and return the task's summary, with `images` and `images_per_second` in its values.

    With a `world` of several processes each brings its own batches, in the order of the ranks, and the summary, the
    same on all, is that of all batches. Process 0 has at least one; another may have none.

    Where a batch holds several copies or crops of each image, their outputs are averaged before they are judged. The
    rate counts the time inside the model alone, so that it says what the model costs and not the reading of files. In
    float32 whatever the training's precision was, so that figures compare. It is that of one process.

    `judged`, where it is given, gets what is predicted for each image of all batches, by its number in the data set.

    Raises:
        UserError: there are no images.
        NotFinite: outputs are NaN or infinite; it says of how many images, and names them as `describe` does.
    """
    world = world or World()
    metrics = task.metrics(device)
    for metric in metrics.values():  # `_merge` asks the other processes
        metric.distributed_available_fn = _alone
    forward = TimedForward(model)
    images = 0
    unsound: list[int] = []
    with world.together(), evaluating(model):
        for batch in batches:
            batch, forward.sound = on_device(batch, device), True
            if judged is None:
                task.measure(metrics, forward, batch)
            else:
                noted: list[Judged] = []
                task.measure(metrics, forward, batch, noted.append)
                judged.update(zip(batch.indices.tolist(), noted, strict=True))
            if not forward.sound:
                unsound += images_not_finite(task, model, batch)
            images += len(batch.indices)
    total, seconds = world.sum([images, forward.seconds])
    found = [index for each in world.gather(unsound) for index in each]
    with world.together():
        check_all_finite(found, int(total), describe, model)
    _merge(metrics, world, device)
    if judged is not None:
        for each in world.gather(judged):
            judged.update(each)
    summary = None
    with world.together(), torch.inference_mode():
        if not total:
            raise UserError("no image can be evaluated: there is none, or all files are damaged; see the warnings")
        if world.main:
            summary = task.summary(metrics)
    whole: Summary = world.share(summary)
    facts = {"images": int(total), "images_per_second": total / seconds if seconds else 0.0}
    return dataclasses.replace(whole, values={**whole.values, **facts})


def share_of(batches: Sequence[Batch], world: World) -> Sequence[Batch]:
    """The batches of this process: whole ones, so that a figure does not depend on the number of processes.

    >>> [list(share_of(range(5), World(rank, 2))) for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    each, more = divmod(len(batches), world.size)
    start = world.rank * each + min(world.rank, more)
    return batches[start : start + each + (world.rank < more)]


def _merge(metrics: MetricCollection, world: World, device: torch.device) -> None:
    """Let the metrics of process 0 become those of all, in the order of the ranks."""
    if world.size == 1:
        return
    own = {name: _map(lambda value: value.cpu(), metric.metric_state) for name, metric in metrics.items()}
    others = world.gather(own)[1:]
    if world.main:
        for name, metric in metrics.items():
            for state in [_map(lambda value: value.to(device), other[name]) for other in others]:
                before = dict(metric.metric_state)
                for key, value in state.items():  # `merge_state` puts what it is given before what there is
                    setattr(metric, key, value)
                metric.merge_state(before)


def _map(do: Callable[[Tensor], Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a metric's state, alone or in lists, each changed."""
    return {key: [do(each) for each in held] if isinstance(held, list) else do(held) for key, held in state.items()}


def on_device(batch: LoadedBatch, device: torch.device) -> LoadedBatch:
    """The batch with its tensors on a device."""
    return dataclasses.replace(
        batch,
        images=batch.images.to(device, non_blocking=True),
        targets=batch.targets.to(device, non_blocking=True),
    )


def _alone() -> bool:
    return False
