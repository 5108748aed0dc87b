"""From a plan's batches to tensors: in this process for images in memory, through worker processes for files.

    for batch in PlanLoader(source, transform, workers=4).load(plan.batches(epoch)):
        loss = task.loss(model(batch.images), batch.targets)

There is one set of workers for all sizes and epochs: a worker is given a whole `Batch`, which carries its size, and
decodes straight to it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anysize.data.augment.transform import Collated, PlainTransform, Sample, Transform
from anysize.data.decode import Need
from anysize.data.handover import Handover
from anysize.data.pictures import BadImage
from anysize.data.source import ArraySource, FileSource, Source
from anysize.data.waiting import Waiting
from anysize.data.workers import delivered, start_worker, worker_count
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.shapes import SQUARE, Aspect, Extent


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedBatch:
    """One step's input.

    `images` is float32 (V * B, C, H, W), channels last in memory, square unless the batch has an aspect ratio: the
    first view (augmented copy, or crop) of all samples, then the second of all, and so on. `targets` has a row an
    image, in the same order. `indices` (B,) are the samples, `copies` is V. `step` is the position in the list of
    batches that was given to `load`: a batch is left out if each of its files is damaged and these are skipped.

    Masks are uint8 (V * B, H, W) with 255 for pixels that do not count. In evaluation images with masks keep their
    shapes, so that `images` is (V * B, C, H', W') and each mask has the size of its image's file: `boxes` (B, 4) says
    where in `images` each image lies (top, left, height, width), `shapes` (B, 2) how high and wide its mask is within
    `targets`, from the top left corner. Both are None where targets speak of an image as a whole.
    """

    images: Tensor
    targets: Tensor
    size: int
    copies: int
    indices: np.ndarray
    epoch: int
    step: int
    boxes: np.ndarray | None = None
    shapes: np.ndarray | None = None
    aspect: Aspect = SQUARE

    @property
    def extent(self) -> Extent:
        """The pixels of an image at the size of the step: the side of a square, or height and width."""
        return self.aspect.extent(self.size)


class PlanLoader:
    """Loads the batches of a plan (or of any list) from a source.

    Args:
        source: `ArraySource` or `FileSource`.
        transform: of the kind of the source's targets, such as `TrainTransform`.
        device: where the batches go; with a `PlainTransform` images in memory are kept and augmented there.
        workers: processes that decode files, started at the first `load` and kept; 0 decodes in this process, -1 takes
            one a core, at most 8. Images in memory need none, but where they go one by one (back end "pil").
        reduced: ask the source for images no larger than the transform needs, where it has such; else all are in full.

    The pixels are the same for any number of workers. `bad_files` names the damaged files met so far, with the reason;
    `waiting` adds up the time for which batches are waited for.

    Raises:
        UserError: workers in a daemonic process; from `load` a damaged file, if the source's policy is "error", and
            workers that cannot be started, cannot deliver or are gone.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        device: torch.device | str = "cpu",
        workers: int = 0,
        reduced: bool = False,
    ) -> None:
        self.source = source
        self.transform = transform
        self.device = torch.device(device)
        self.reduced = reduced
        by_pil = isinstance(transform, PlainTransform) and not transform.at_once
        self.workers = worker_count(workers) if isinstance(source, FileSource) or by_pil else 0
        self.bad_files = source.bad_files
        self.waiting = Waiting(self.device)
        self._handover = Handover(self.device)
        self._images: Tensor | None = None
        self._queue: list[tuple[Batch, bool]] = []
        self._files: DataLoader[_Decoded | UserError] | None = None

    def load(self, batches: Sequence[Batch], *, in_full: bool = False) -> Iterator[LoadedBatch]:
        """Yield the batches in order; with `in_full` all images are in full, whatever `reduced` says."""
        source, transform = self.source, self.transform
        if isinstance(source, ArraySource) and isinstance(transform, PlainTransform) and transform.at_once:
            decoded = self._from_memory(source, transform, batches)
        else:
            decoded = self._one_by_one(batches, self.reduced and not in_full)
        for step, (batch, bad, collated) in enumerate(self.waiting.over(decoded)):
            for index, reason in bad.items():
                assert isinstance(self.source, FileSource)
                self.source.report_bad(index, reason)
            if collated is None:
                continue
            pixels, targets = self._handover(collated[:2])
            images, copies = self.transform.finish(pixels, batch), self.transform.views(batch)
            where = (collated.boxes, collated.shapes)
            yield LoadedBatch(
                images, targets, batch.size, copies, batch.indices, batch.epoch, step, *where, batch.aspect
            )

    def remedies(self) -> list[str]:
        """What makes loading faster, each a phrase that begins with a verb; empty: nothing that is known of."""
        found, usual = self.source.remedies(), worker_count(-1)
        if found and self.workers < usual:
            found.insert(0, f"raise data.workers ({self.workers} now; {usual} would be one a core)")
        return found

    def _from_memory(
        self, source: ArraySource, transform: PlainTransform, batches: Sequence[Batch]
    ) -> Iterator["_Decoded"]:
        if self._images is None:
            self._images = transform.prepare(source.images.to(self.device))
        for batch in batches:
            targets = torch.from_numpy(source.targets[np.tile(batch.indices, transform.views(batch))])
            yield _Decoded(batch, {}, Collated(transform.batch(self._images, batch), targets))

    def _one_by_one(self, batches: Sequence[Batch], reduced: bool) -> Iterator["_Decoded"]:
        if self._files is None:
            self._files = DataLoader(
                _Batches(self.source, self.transform),
                sampler=self._queue,  # the same list for ever: it is filled anew, the workers go on
                batch_size=None,
                collate_fn=_as_it_is,  # no conversion: with batch_size None it receives one item
                num_workers=self.workers,
                worker_init_fn=start_worker,
                persistent_workers=self.workers > 0,
                multiprocessing_context=None if self.source.forks or not self.workers else "spawn",
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # or each epoch would draw from the global one, the model's
            )
        self._queue[:] = [(batch, reduced) for batch in batches]
        yield from delivered(self._files)


def sequential_batches(length: int, size: int, batch_size: int, aspect: Aspect = SQUARE) -> list[Batch]:
    """The samples 0 to `length` in order, all of one shape.

    >>> [batch.indices.tolist() for batch in sequential_batches(5, size=32, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """
    every = np.arange(length)
    starts = range(0, length, batch_size)
    return [Batch(0, size, 1, every[start : start + batch_size], aspect=aspect) for start in starts]


def own_shape_batches(shapes: np.ndarray, size: int, batch_size: int, multiple: int) -> list[Batch]:
    """All samples, each in a batch of such as have its shape at `size` pixels, which has about `size` x `size`.

    Args:
        shapes: height and width of each image, (N, 2).
        size: side of the square of equal area.
        batch_size: samples of a batch, at most.
        multiple: sides are multiples of so many pixels.

    >>> batches = own_shape_batches(np.array([[30, 40], [40, 30], [60, 80]]), size=224, batch_size=2, multiple=8)
    >>> [(batch.sides, batch.indices.tolist()) for batch in batches]
    [((192, 256), [0, 2]), ((256, 192), [1])]
    """
    different, which = np.unique(shapes, axis=0, return_inverse=True)
    aspects = [Aspect.of(int(height), int(width), multiple) for height, width in different]
    groups: dict[tuple[int, int], list[int]] = {}
    for number, aspect in enumerate(aspects):
        groups.setdefault(aspect.sides(size), []).append(number)
    batches = []
    for sides in sorted(groups):
        members = np.flatnonzero(np.isin(which.reshape(-1), groups[sides]))
        aspect = aspects[groups[sides][0]]
        starts = range(0, len(members), batch_size)
        batches += [Batch(0, size, 1, members[start : start + batch_size], aspect=aspect) for start in starts]
    return batches


class _Decoded(NamedTuple):
    """What a worker hands over: a batch with its good samples alone, the reasons of the bad, the pixels of the good.

    `samples` is None where no sample is good.
    """

    batch: Batch
    bad: dict[int, str]
    samples: Collated | None


@dataclasses.dataclass(eq=False)
class _Batches(Dataset["_Decoded | UserError"]):
    """Decodes a batch: each file once, however many copies of it are asked for. What ends the run is handed over."""

    source: Source
    transform: Transform

    def __getitem__(self, wanted: tuple[Batch, bool]) -> "_Decoded | UserError":
        try:
            return self._decoded(*wanted)
        except UserError as error:  # torch would add where it was raised
            return error

    def _decoded(self, batch: Batch, reduced: bool) -> _Decoded:
        indices = batch.indices.tolist()
        needs = [self._need(batch.at([position])) if reduced else None for position in range(len(indices))]
        self.source.ahead(indices, needs)
        samples: list[Sample] = []
        good: list[int] = []
        bad: dict[int, str] = {}
        for position, (index, need) in enumerate(zip(indices, needs, strict=True)):
            try:
                image, target, stored = self.source.read(index, need)
                samples.append(self.transform.sample(image, target, batch.at([position]), stored))
                good.append(position)
            except BadImage as error:
                bad[index] = str(error)
        collated = self.transform.collate(samples) if samples else None
        return _Decoded(batch.at(good), bad, collated)

    def _need(self, alone: Batch) -> Need:
        return lambda height, width: self.transform.need((height, width), alone)


def _as_it_is(decoded: Any) -> Any:
    return decoded
