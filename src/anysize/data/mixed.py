"""A loader of mixed sizes for a training loop of your own, over any torch data set.

loader = MixedSizeLoader(dataset, SizeMix.named("B+", base=32), batch_size=64, workers=4)
for epoch in range(epochs):
    for images, targets in loader:      # images (N, C, S, S): S changes from step to step
        ...
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from anysize.data.random import Stream, seeded
from anysize.data.workers import delivered, start_worker, worker_count
from anysize.registry import UserError
from anysize.sizes.batch import SampleKey
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.sampler import PlanSampler
from anysize.sizes.schedule import SizeSchedule
from anysize.sizes.shapes import Extent, Shapes, sides_of


class MapDataset(Protocol):
    """A map-style data set: items are (image, target), the image a PIL image or a uint8 or float tensor (C, H, W)."""

    def __getitem__(self, index: int) -> Any: ...

    def __len__(self) -> int: ...


class MixedSizeLoader:
    """Iterates over (images, targets), images float32 (N, C, S, S), by a plan of mixed sizes.

    Args:
        dataset: map-style; its items are (image, target).
        sizes: a `SizeMix`, or a `SizeSchedule` over epochs.
        batch_size, copies: at the base size; the budget of the mixture changes them for other sizes. With copies, the
            first copy of all samples comes first, then the second of all, and so on.
        repeats: turns of each sample in an epoch that is no longer for it, as in `BatchPlan`.
        seed: order, sizes and whatever draws from torch's generator follow from it, not from the number of workers.
        workers: processes that load, one set for all sizes and epochs; -1 takes one a core, at most 8.
        transform: `transform(image, size)` makes the tensor (C, size, size), or (C, H, W) of a size (H, W). By default
            the image is resized (stretched, antialiased) and scaled to [0, 1]; the data set should then hand out its
            images as stored.
        rank, world_size: each process takes its own samples, all the same size at the same step.
        drop_last: leave out what does not fill a batch.
        shapes: a few aspect ratios and the group of each image, such as `Shapes.grouped(heights_and_widths, ratios)`
            makes them: images of a batch have one of them, and `transform` receives height and width in place of the
            size where that is no square. None: all are square.

    Iterating goes on to the next epoch by itself; `set_epoch` chooses one, such as after a resume. Random numbers of
    Python and numpy are not seeded by the sample: draw from torch.

    Raises:
        UserError: too few images for a batch of two at any size, or a rank outside the world.

    >>> data = [(torch.zeros(3, 32, 32, dtype=torch.uint8), i % 10) for i in range(64)]
    >>> loader = MixedSizeLoader(data, SizeMix.custom({16: 0.5, 32: 0.5}, base=32, budget="B+"), batch_size=8)
    >>> sorted({tuple(images.shape) for images, targets in loader})
    [(8, 3, 32, 32), (32, 3, 16, 16)]
    """

    def __init__(
        self,
        dataset: MapDataset,
        sizes: SizeMix | SizeSchedule,
        batch_size: int,
        *,
        copies: int = 1,
        repeats: int = 1,
        seed: int = 0,
        workers: int = 0,
        transform: Callable[[Any, Any], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        shapes: Shapes | None = None,
    ) -> None:
        schedule = SizeSchedule.constant(sizes) if isinstance(sizes, SizeMix) else sizes
        self.plan = BatchPlan(
            len(dataset), schedule, batch_size, copies, seed, rank, world_size, drop_last, repeats, shapes=shapes
        )
        self._sampler = PlanSampler(self.plan)
        self._next_epoch = 0
        self._loader = DataLoader(
            _Sized(dataset, transform or _resize, seed),
            batch_sampler=self._sampler,
            num_workers=worker_count(workers),
            worker_init_fn=start_worker,
            persistent_workers=worker_count(workers) > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or each epoch would draw from the global one, the model's
        )

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of `epoch`."""
        self._next_epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        self._sampler.set_epoch(self._next_epoch)
        self._next_epoch += 1
        return delivered(self._loader)

    def __len__(self) -> int:
        """Steps of the epoch that the next iteration is of."""
        return self.plan.steps(self._next_epoch)


@dataclasses.dataclass(eq=False)
class _Sized(Dataset[tuple[Tensor, Any]]):
    """A data set whose index is a `SampleKey`."""

    dataset: MapDataset
    transform: Callable[[Any, Any], Tensor]
    seed: int

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Any]:
        with seeded(self.seed, key.epoch, key.index, key.copy, Stream.DATASET):
            image, target = self.dataset[key.index]
            pixels = self.transform(image, key.extent)
        if tuple(pixels.shape[-2:]) != (sides := sides_of(key.extent)):
            raise UserError(
                f"transform(image, {key.extent}) made a tensor of shape {tuple(pixels.shape)}; expected (C, "
                f"{sides[0]}, {sides[1]})"
            )
        return pixels, target


def _resize(image: Any, size: Extent) -> Tensor:
    tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
    resized: Tensor = F.to_dtype(F.resize(tensor, list(sides_of(size)), antialias=True), torch.float32, scale=True)
    return resized
