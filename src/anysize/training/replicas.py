"""The copies of a model that the processes of a run train: their gradients added up, their running statistics.

Each process normalises its own part of a batch, so that the running statistics of norms are those of the process. What
is evaluated and saved is one model; `training.statistics` says with whose statistics.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anysize.norms.pooling import pooled, pooled_statistics
from anysize.training.gradients import ControlVariables
from anysize.training.shapes import unchanged_buffers
from anysize.world import World

# The option got a new name in torch 2.14.
_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}


def replicate(model: nn.Module, device: torch.device, *, find_unused: bool) -> DistributedDataParallel:
    """The model as the processes call it: `DistributedDataParallel` adds the gradients up while they are computed.

    It adds where DDP divides by the number of processes, since each loss weighs what it has of the global batch.
    Buffers stay each process's own. `find_unused`: look in each step for parameters without a gradient.
    """
    replica = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        **_OWN_BUFFERS,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
    )
    replica.register_comm_hook(None, _add_up)
    return replica


# DDP looks at the annotations.
def _add_up(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    added: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return added


def has_unused_parameters(model: nn.Module, channels: int, size: int, device: torch.device) -> bool:
    """Whether a training step leaves some parameter without a gradient, tried on two images."""
    model.train()
    with unchanged_buffers(model):
        outputs = model(torch.zeros(2, channels, size, size, device=device))
        logits = (outputs,) if isinstance(outputs, Tensor) else outputs
        torch.autograd.backward([each.float().square().mean() for each in logits])
    unused = any(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return unused


@contextlib.contextmanager
def one_model(model: nn.Module, world: World, statistics: str) -> Iterator[None]:
    """Within this context all processes have the same model, whose running statistics `training.statistics` names.

    "averaged": those of all processes pooled; "first": those of process 0; "each": every process keeps its own.
    """
    if world.size == 1 or statistics == "each":
        yield
    elif statistics == "averaged":
        with pooled(model, world):
            yield
    else:
        with unchanged_buffers(model):
            first = world.share({name: buffer.cpu() for name, buffer in model.named_buffers()} if world.main else None)
            for name, buffer in model.named_buffers():
                buffer.copy_(first[name])
            yield


@torch.no_grad()
def share_statistics(model: nn.Module, world: World, statistics: str) -> None:
    """Give all processes the running statistics that `training.statistics` names, for good: from now on they stand.

    Where they are the same already, not a bit changes.
    """
    if world.size == 1 or statistics == "each":
        return
    values = pooled_statistics(model, world)
    if statistics == "first":
        own = {name: buffer.cpu() for name, buffer in model.named_buffers() if name in values}
        values = world.share(own if world.main else None)
    for name, buffer in model.named_buffers():
        if name in values:
            buffer.copy_(values[name])


class Replicas:
    """What each process has of its own, as a part of the state: a run that goes on gives each process its own back.

    That is the buffers of its models, and the unit of the control variables among them, which follows the length of its
    part of the last batch.

    Args:
        models: the trained model, and that of averaged weights where there is one, by the names of their parts.
        control: the control variables of the model.
        world: the processes.
        statistics: as `one_model` takes it.
    """

    def __init__(
        self, models: Mapping[str, nn.Module], control: ControlVariables, world: World, statistics: str
    ) -> None:
        self.models = models
        self.control = control
        self.world = world
        self.statistics = statistics
        self.reported: dict[str, dict[str, Tensor]] = {}
        """Buffers that a checkpoint has in place of process 0's own, by part."""
        self._gathered: list[dict[str, Tensor]] = []
        self._units: list[float | None] = []

    def gather(self) -> None:
        """Collect what `state_dict` returns and `reported` holds; all processes call it."""
        if self.world.size == 1:
            return
        self._gathered = self.world.gather(dict(self._own()))
        self._units = self.world.gather(self.control.state_dict()["unit"])
        if self.statistics == "averaged":
            self.reported = {part: pooled_statistics(model, self.world) for part, model in self.models.items()}

    def state_dict(self) -> dict[str, Any]:
        """The buffers of each process by `RANK/PART/NAME`, the units by rank, and how many processes there were."""
        tensors = {f"{rank}/{key}": value for rank, own in enumerate(self._gathered) for key, value in own.items()}
        return {"processes": self.world.size, "units": self._units, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what is this process's; where there were fewer processes, some take over the same."""
        rank = self.world.rank % state["processes"]
        if state.get("units"):  # older checkpoints have that of the first process alone
            self.control.unit = state["units"][rank]
        with torch.no_grad():
            for part, model in self.models.items():
                for name, buffer in model.named_buffers():
                    if (held := state.get(f"{rank}/{part}/{name}")) is not None:
                        buffer.copy_(held)

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        for part, model in self.models.items():
            for name, buffer in model.named_buffers():
                yield f"{part}/{name}", buffer.detach().cpu()
