"""One step of training as the batch plan lists it, and what each of its samples depends on.

>>> Batch(0, 32, 2, np.array([7, 9])).images
4
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anysize.sizes.shapes import SQUARE, Aspect, Extent

_REPEAT = 2**20  # from one repeat's first copy to the next one's: more than there are copies


class SampleKey(NamedTuple):
    """Everything that one training sample depends on: which image, at which size, which copy of it, in which epoch.

    `copy` tells the augmentations of an image in one epoch apart, those of its repeats too.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    size: int
    copy: int
    epoch: int
    aspect: Aspect = SQUARE

    @property
    def extent(self) -> Extent:
        """The pixels of the image: the side of a square, or height and width."""
        return self.aspect.extent(self.size)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One step of one rank: `copies` augmented copies of the samples `indices` (int64, (B,)), all at `size` pixels.

    `repeats` (int64, (B,)) says which of its turns in the epoch each sample has (repeated augmentation); None: it has
    one. `aspect` makes the size a height and a width, the same for all its images.
    """

    epoch: int
    size: int
    copies: int
    indices: np.ndarray
    repeats: np.ndarray | None = None
    aspect: Aspect = SQUARE

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of its images.

        >>> Batch(0, 32, 1, np.arange(4)).sides, Batch(0, 32, 1, np.arange(4), aspect=Aspect(2.0, 8)).sides
        ((32, 32), (24, 48))
        """
        return self.aspect.sides(self.size)

    @property
    def images(self) -> int:
        """Images in the batch: samples times copies."""
        return len(self.indices) * self.copies

    def sample_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Sample and copy of each image, int64 (copies * B,), as `SampleKey` has them.

        Copy by copy: all samples' first copies, then all their second ones, and so on. A chunk of a batch that is cut
        for gradient accumulation thus holds different samples.

        >>> [keys.tolist() for keys in Batch(0, 32, 2, np.array([7, 9])).sample_keys()]
        [[7, 9, 7, 9], [0, 0, 1, 1]]
        """
        copies = np.repeat(np.arange(self.copies), len(self.indices))
        if self.repeats is not None:
            copies += np.tile(self.repeats * _REPEAT, self.copies)
        return np.tile(self.indices, self.copies), copies

    def keys(self) -> list[SampleKey]:
        """A key an image, in the order of `sample_keys`."""
        pairs = zip(*(keys.tolist() for keys in self.sample_keys()), strict=True)
        return [SampleKey(index, self.size, copy, self.epoch, self.aspect) for index, copy in pairs]

    def at(self, positions: Sequence[int]) -> "Batch":
        """The samples at these positions of the batch alone.

        >>> Batch(0, 32, 1, np.array([7, 9, 7]), repeats=np.array([0, 0, 1])).at([2]).keys()
        [SampleKey(index=7, size=32, copy=1048576, epoch=0, aspect=Aspect(ratio=1.0, multiple=1))]
        """
        places = np.asarray(positions, dtype=np.int64)
        repeats = None if self.repeats is None else self.repeats[places]
        return dataclasses.replace(self, indices=self.indices[places], repeats=repeats)
