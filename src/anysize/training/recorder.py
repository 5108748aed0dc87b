"""The recorder keeps what steps leave behind on the device: sums of their metrics, and the first failure.

A step only adds to them. The host learns of them later: at log points a copy is sent on its way, which is read at the
next one, when it has long arrived. So no step waits for the device. A row of `steps.csv` travels with such a copy: what
the host knows of its steps goes along, and what the device knows of them is added on arrival.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anysize.training.gradients import wide
from anysize.world import World

_LOSSES = 512  # of the last steps that are remembered
_AT_ONCE = 5  # steps


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """The step, and the samples that it was made on."""

    epoch: int
    step: int
    size: int
    indices: np.ndarray


@dataclasses.dataclass(frozen=True)
class Failure:
    """The first step whose loss or gradient is not finite: what of them, and its value."""

    record: StepRecord
    name: str
    value: float


class Recorder:
    """Sums over the steps of an epoch, weighted by images, and the first failure.

    Args:
        device: of the model.
        every: steps between two log points.
        world: whose processes `drain` sums over.

    >>> recorder = Recorder(torch.device("cpu"))
    >>> for step, loss in enumerate((0.5, 1.0), start=1):
    ...     recorder.add(StepRecord(0, step, 28, np.arange(4)), 4, ("loss",), torch.tensor([loss]))
    >>> recorder.drain(), recorder.sums, recorder.mean("loss")
    (None, {'loss': 6.0}, 0.75)
    """

    def __init__(self, device: torch.device, every: int = 1, world: World | None = None) -> None:
        self.dtype = wide(device)
        self.last: dict[str, float] = {}
        """Metrics of the last step that the host knows of."""
        self.sums: dict[str, float] = {}
        """Of the metrics over the epoch, as far as the host knows."""
        self.images = 0
        """Images that `sums` are over."""
        self.count = 0
        """Images of this process in the epoch, and in the main one those of all before a resume within it."""
        self._resumed = 0  # of these the ones before the resume
        self._rows: list[dict[str, Any]] = []
        self._since = 0  # images of this process since the last row
        self._window: list[float] = []  # the sums since then, as far as the host knows
        self._names: Sequence[str] = ()
        self._failed = torch.zeros(3, dtype=self.dtype, device=device)  # step (0: none), loss, norm of the gradient
        self._latest = self._failed[:0]
        self._totals = self._failed.new_zeros(2, 0)  # of the epoch, and since the last row
        self._losses = torch.zeros(_LOSSES, dtype=self.dtype, device=device)  # that of step s at s modulo their number
        self._steps = range(0)  # that they are of
        self._began = 0  # the step that the run went on from
        self._records: collections.deque[StepRecord] = collections.deque(maxlen=2 * every + 1)
        self._sent: _Copy | None = None
        self._world = world or World()

    def check(self, step: int, loss: Tensor, norm: Tensor, sound: Tensor) -> Tensor:
        """Note `step` as failed unless it is `sound` or a step has failed before; return whether none has.

        `sound` and the result are truths on the device.
        """
        now = torch.stack([self._failed.new_full((), step), loss.to(self.dtype), norm.to(self.dtype)])
        self._losses[step % _LOSSES] = now[1]
        self._steps = range(max(self._steps.start or step, step + 1 - _LOSSES), step + 1)
        healthy = self._failed[0] == 0
        self._failed = torch.where(healthy & ~sound, now, self._failed)
        return healthy & sound

    def add(self, record: StepRecord, images: int, names: Sequence[str], values: Tensor) -> None:
        """Add the metrics `names` of a step, `values` (M,) on the device: means over its images."""
        self._records.append(record)
        if len(names) != self._totals.shape[1]:
            self._names, self._totals = names, values.new_zeros(2, len(names), dtype=self.dtype)
        self._latest = values.to(self.dtype)
        # The norm of a gradient that float16's loss scaling skips is not finite, and adds nothing.
        self._totals += (self._latest * images).nan_to_num_(0.0, 0.0, 0.0)
        self.count += images
        self._since += images

    def send(self, row: dict[str, Any] | None = None) -> None:
        """Send a copy of what there is to the host, without waiting for it.

        `row` is what the host knows of the steps since the last one, `step` among it: `take` gives it with their means.
        """
        everything = torch.cat([self._failed, self._latest, self._totals.flatten()])
        self._sent = _Copy(everything, self.count, self._since, row)
        if row is not None:
            self._totals[1], self._since = 0.0, 0

    def read(self) -> Failure | None:
        """Take note of the copy that was sent last; return the first failure, if it shows one."""
        return None if self._sent is None else self._learn(self._sent)

    def drain(self) -> Failure | None:
        """`read` as of now, for which the device is waited for, with the sums of all processes."""
        self.read()  # a row may be on its way
        self.send()
        failure = self.read()
        images, *sums = self._world.sum([self.images, *self.sums.values()])
        self.images, self.sums = int(images), dict(zip(self._names, sums, strict=True))
        return failure

    def _learn(self, copy: "_Copy") -> Failure | None:
        self._sent = None
        step, loss, norm, *metrics = copy.values()
        self.images = copy.images
        self.last = dict(zip(self._names, metrics[: len(self._names)], strict=True))
        self.sums = dict(zip(self._names, metrics[len(self._names) : -len(self._names) or None], strict=True))
        self._window = metrics[2 * len(self._names) :]
        if copy.row is not None:
            if not 0 < step <= copy.row["step"]:  # what was not finite is no part of any sum
                means = (value / max(copy.since, 1) for value in self._window)
                self._rows.append({**copy.row, **dict(zip(self._names, means, strict=True))})
            self._window = [0.0] * len(self._names)
        if not step:
            return None
        record = next(record for record in self._records if record.step == step)
        if not math.isfinite(loss):
            return Failure(record, "loss", loss)
        if not math.isfinite(norm):
            return Failure(record, "gradient norm", norm)
        return Failure(record, "loss of another process", math.nan)

    def take(self) -> list[dict[str, Any]]:
        """The rows that have arrived since the last call, each with the means over the steps since the one before it.

        They are weighted by images, and of those of this process.
        """
        taken, self._rows = self._rows, []
        return taken

    def last_sane(self, before: int) -> int:
        """The last step before step `before` whose loss was not far above those of before; 0: none is known of.

        A run that diverges does so over some steps: saves that were made in them are of no use. Far is twice the lowest
        eighth of the losses that are remembered. Nor is a save of use that a run went on from, and diverged at once.
        """
        losses = self._remembered()
        known = {step: losses[step] for step in losses if step < before}
        if not known:
            return 0
        low = sorted(known.values())[len(known) // 8]
        sane = max((step for step, loss in known.items() if loss <= low + abs(low)), default=0)
        return min(sane, self._began) if before <= self._began + _AT_ONCE else sane

    def _remembered(self) -> dict[int, float]:
        """The losses of the last steps by step, to four digits, as a checkpoint has them; waits for the device."""
        largest = torch.finfo(torch.float32).max
        losses = self._losses.nan_to_num(largest, largest, -largest).tolist()
        return {step: float(f"{losses[step % _LOSSES]:.4g}") for step in self._steps}

    def mean(self, name: str) -> float:
        """A metric over the epoch, as far as the host knows."""
        return self.sums[name] / self.images if self.images else math.nan

    @property
    def count_of_all(self) -> int:
        """Images of all processes in the epoch, as the main one knows them: the others take as many as it does."""
        return self._resumed + (self.count - self._resumed) * self._world.size

    def start_epoch(self) -> None:
        """Forget the sums."""
        self._totals[0] = 0.0
        self.count = self._resumed = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready sums; call `drain` before."""
        losses = self._remembered()
        return {
            "sums": self.sums,
            "images": self.images,
            "since_row": {"images": self._since, "sums": self._window},
            "steps": [*losses][:1],
            "losses": [*losses.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums that `state_dict` returned; those of all processes go on in the main one."""
        self._names, self.count = tuple(state["sums"]), state["images"] * self._world.main
        self._resumed = self.count
        sums = [*state["sums"].values()]
        window = state.get("since_row", {"images": 0, "sums": [0.0] * len(sums)})  # older checkpoints have none
        self._since = window["images"] * self._world.main
        self._totals = torch.tensor([sums, window["sums"]], dtype=self.dtype) * self._world.main
        self._totals = self._totals.to(self._failed.device)
        self._latest = torch.zeros_like(self._totals[0])
        for first in state.get("steps", ()):  # older checkpoints have none
            self._steps = range(first, first + len(state["losses"]))
            self._began = self._steps[-1]
            places = torch.tensor(self._steps) % _LOSSES
            self._losses[places.to(self._losses.device)] = self._losses.new_tensor(state["losses"])


class _Copy:
    """Values of a device on their way to the host."""

    def __init__(self, values: Tensor, images: int, since: int, row: dict[str, Any] | None) -> None:
        self.images, self.since, self.row = images, since, row
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._values = values

    def values(self) -> list[float]:
        """The values, once they have arrived."""
        if self._event:
            self._event.synchronize()
        values: list[float] = self._values.tolist()
        return values
