"""The batch plan: which samples are trained at which size, in which order, on which rank.

A pure function of (data set length, size schedule, seed, epoch, rank, world size). Nothing else in the package decides
order or size, hence every rank trains the same size at the same step, no sample is on two ranks, and resuming in the
middle of an epoch is slicing a list. What all ranks train together in a step depends on the total batch alone, not on
the number of ranks that share it, so that a run may go on with another number of them.

    >>> plan = BatchPlan(50_000, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=64)
    >>> len(plan.batches(epoch=0))
    981
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.sizes.chunks import in_chunks
from anysize.sizes.limit import limit_counts
from anysize.sizes.mix import SizeBatch, SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.sizes.shapes import SQUARE, Aspect, Shapes


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Lists the batches of any epoch.

    Each epoch draws a fresh permutation of the data set and cuts it into one piece a size, in proportion to the
    shares; each piece is cut into batches, and the batches of all sizes are shuffled together (Mix & Match; the
    authors' sampled regime).

    Args:
        length: number of samples of the data set.
        schedule: the sizes, by epoch.
        batch_size: samples a rank takes in a step at the base size, where `batches_a_step` is 0.
        copies: augmented copies of each sample at the base size (batch augmentation).
        seed: everything random follows from it and the epoch.
        rank, world_size: which of how many processes this is.
        batches_a_step: batches of `batch_size` that make a step of all ranks, which share its samples evenly; 0: one a
            rank. Where it is given, each step has the same samples whatever the number of ranks.
        drop_last: leave out what does not fill a batch, as the authors' code does, but for a size whose whole piece
            does not: it makes one smaller batch. Otherwise a piece is cut evenly, so that each sample is seen exactly
            once and no batch is much smaller than the others.
        repeats: turns of each sample in an epoch, each augmented by itself (repeated augmentation; Hoffer et al., arXiv
            1901.09335; Berman et al., MultiGrain, arXiv 1902.05509). The epoch is no longer: it sees one in `repeats`
            of the samples. The turns of a sample come in one batch, but for where one ends, and apart from each other,
            so that mixup, ranks and chunks meet different samples as far as there are any.
        limit_steps: steps that an epoch is cut to, or below 1 their share; 0: all. Each size keeps its share of them,
            and one at least as far as there are enough.
        same_samples: every epoch draws and orders the samples as the first one does.
        chunks: the numbers of samples that lie together in the data set, in their order; empty: all are shuffled
            together. Otherwise `chunks_together` of them are, for each of the batches in a step, and then the next
            (see `anysize.sizes.chunks`). Sizes, steps and numbers of samples are the same in either order.
        shapes: aspect ratios, and the group of each image; None: all images are square. Each group is cut into sizes by
            the same shares, and a batch has images of one group; one of too few images for a batch joins the nearest.

    Raises:
        UserError: an empty data set, a rank outside the world, no repeats, repeats or several aspect ratios with
            chunks, chunks or groups that are not those of the data set, or a limit that is no whole number; when asked
            for an epoch, no size with two samples for each process.
    """

    length: int
    schedule: SizeSchedule
    batch_size: int
    copies: int = 1
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = True
    repeats: int = 1
    batches_a_step: int = 0
    chunks: tuple[int, ...] = ()
    chunks_together: int = 1
    limit_steps: float = 0.0
    same_samples: bool = False
    shapes: Shapes | None = None

    def __post_init__(self) -> None:
        if self.limit_steps < 0 or (self.limit_steps > 1 and self.limit_steps % 1):
            raise UserError(
                f"the limit is {self.limit_steps:g} steps; expected a whole number, a share below 1, or 0 for all"
            )
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; expected at least 1")
        if self.length < 1:
            raise UserError("the data set is empty; expected at least one sample")
        if self.chunks and (sum(self.chunks) != self.length or self.chunks_together < 1):
            raise UserError(
                f"chunks of {sum(self.chunks)} samples, of which {self.chunks_together} are shuffled together, for "
                f"{self.length} samples; expected the chunks of the data set, and at least 1"
            )
        if self.chunks and self.repeats > 1:
            raise UserError(
                f"each sample has {self.repeats} turns in an epoch (training.repeats), which are spread over all "
                "samples, and chunks are to be shuffled by themselves (data.shuffle_chunks); leave one of them out"
            )
        if self.shapes:
            self.shapes.of_all(self.length)
        if self.chunks and self.shapes and len(self.shapes.ratios) > 1:
            raise UserError(
                "images are grouped by their aspect ratios (sizes.aspect_ratios), and chunks are to be shuffled by "
                "themselves (data.shuffle_chunks), where those of a group do not lie together; leave one of them out"
            )
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} of {self.world_size}; expected a rank from 0 to {self.world_size - 1}")
        if self.total_batch % self.world_size:
            raise UserError(
                f"a step of this run takes {self.total_batch} samples at the base size, which {self.world_size} "
                f"processes cannot share evenly; start as many as divide {self.total_batch}"
            )

    @property
    def parts(self) -> int:
        """Batches of `batch_size` in a step of all ranks."""
        return self.batches_a_step or self.world_size

    @property
    def total_batch(self) -> int:
        """Samples that all ranks take together in a step at the base size."""
        return self.batch_size * self.parts

    def at_size(self, size: int) -> "BatchPlan":
        """The same samples, batch size and copies, with every image at one size, and of one shape, in every epoch.

        The shape is that of the run where it has one, else a square.
        """
        shapes = self.shapes if self.shapes and len(self.shapes.ratios) == 1 else None
        return dataclasses.replace(self, schedule=SizeSchedule.constant(SizeMix.fixed(size)), shapes=shapes)

    def sizes(self, epoch: int) -> tuple[SizeBatch, ...]:
        """The sizes of an epoch with their shares, batch sizes (of one rank) and copies, group by group."""
        parts = self._mix(epoch)
        if self.shapes is None:
            return parts
        return tuple(
            dataclasses.replace(part, share=part.share * count / self.length, aspect=aspect)
            for aspect, count in self._groups
            for part in parts
        )

    def _mix(self, epoch: int) -> tuple[SizeBatch, ...]:
        now = self.schedule.at(epoch)
        return now.mix.batches(now.batch_size or self.batch_size, now.copies or self.copies)

    def spans(self, epochs: int) -> list[range]:
        """The first `epochs` epochs as ranges of those that have the same sizes, and hence the same `counts`."""
        return self.schedule.spans(epochs)

    def steps(self, epoch: int) -> int:
        """Number of batches of an epoch, without listing them."""
        return sum(count for _, count, _ in self.counts(epoch))

    def batches(self, epoch: int) -> list[Batch]:
        """The batches of this rank in the order of training."""
        if self.chunks:
            return self._batches_in_chunks(epoch)
        permutation = self._by_group(self._chance(epoch, 0).permutation(self.length))
        batches: list[Batch] = []
        start = 0
        for part, count, samples in self._pieces(epoch):
            piece = permutation[start : start + samples]
            start += samples
            if self.drop_last:
                piece = piece[: self._kept(part, count, samples)]
            for step in np.array_split(piece, count) if count else ():
                turns = np.array_split(self._apart(step), self.world_size)[self.rank]
                batches.append(Batch(epoch, part.size, part.copies, *self._samples(turns), part.aspect))
        return [batches[i] for i in self._order(epoch, len(batches))]

    def _batches_in_chunks(self, epoch: int) -> list[Batch]:
        parts, rng = self.step_parts(epoch), self._chance(epoch, 0)
        steps = in_chunks(self.chunks, self.chunks_together, [samples for _, samples in parts], self.parts, rng)
        return [
            Batch(epoch, part.size, part.copies, np.array_split(step, self.world_size)[self.rank], None, part.aspect)
            for (part, _), step in zip(parts, steps, strict=True)
        ]

    def step_images(self, epoch: int) -> list[tuple[int, int]]:
        """(size, images of all ranks) of each step in the order of training, the same on every rank."""
        return [(part.size, samples * part.copies) for part, samples in self.step_parts(epoch)]

    def step_parts(self, epoch: int) -> list[tuple[SizeBatch, int]]:
        """Size and samples of all ranks of each step in the order of training, the same on every rank."""
        steps: list[tuple[SizeBatch, int]] = []
        for part, count, samples in self.counts(epoch):
            larger = samples % count if count else 0  # as array_split cuts: the first ones take one more
            steps += [(part, samples // count + (i < larger)) for i in range(count)]
        return [steps[i] for i in self._order(epoch, len(steps))]

    def counts(self, epoch: int) -> list[tuple[SizeBatch, int, int]]:
        """Size, steps (the same on all ranks) and samples that all ranks train, for each piece of an epoch."""
        if not self.drop_last:
            return self._pieces(epoch)
        return [(part, count, self._kept(part, count, samples)) for part, count, samples in self._pieces(epoch)]

    def _kept(self, part: SizeBatch, count: int, samples: int) -> int:
        """Samples of a piece that its steps take under drop_last, as many on each rank."""
        return min(samples // self.parts, count * part.batch_size) * self.parts

    @functools.cached_property
    def _group_of(self) -> np.ndarray:
        """The group that each sample is trained with, uint8 (length,)."""
        if self.shapes is None:
            return np.zeros(self.length, np.uint8)
        own = self.shapes.of_all(self.length)
        counts = np.bincount(own, minlength=len(self.shapes.ratios)).tolist()
        # Every rank needs two samples a step, for its norms.
        trained: np.ndarray = np.array(self.shapes.joined(counts, 2 * self._sharing), np.uint8)[own]
        return trained

    @functools.cached_property
    def _groups(self) -> list[tuple[Aspect, int]]:
        """Aspect and number of samples of each group that has some."""
        if self.shapes is None:
            return [(SQUARE, self.length)]
        counts = np.bincount(self._group_of).tolist()
        return [(self.shapes.aspect(group), count) for group, count in enumerate(counts) if count]

    @property
    def _sharing(self) -> int:
        return max(self.parts, self.world_size)

    def _by_group(self, permutation: np.ndarray) -> np.ndarray:
        """The turns of an epoch, group by group, each in the order of the permutation."""
        if len(self._groups) == 1:
            return self._turns(permutation)
        ordered = permutation[np.argsort(self._group_of[permutation], kind="stable")]
        ends = np.cumsum([count for _, count in self._groups])[:-1]
        return np.concatenate([self._turns(each) for each in np.split(ordered, ends)])

    def _turns(self, samples: np.ndarray) -> np.ndarray:
        """As many turns as there are samples: `repeats` of each of the first ones, sample * repeats + repeat."""
        drawn = samples[: -(-len(samples) // self.repeats), None]
        return (drawn * self.repeats + np.arange(self.repeats)).ravel()[: len(samples)]

    def _apart(self, turns: np.ndarray) -> np.ndarray:
        """First turns first: torchvision's mixup mixes neighbours, ranks and chunks take neighbours."""
        return turns if self.repeats == 1 else turns[np.argsort(turns % self.repeats, kind="stable")]

    def _samples(self, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample and repeat of each turn."""
        return (turns, None) if self.repeats == 1 else divmod(turns, self.repeats)

    def _order(self, epoch: int, steps: int) -> np.ndarray:
        return self._chance(epoch, 1).permutation(steps)

    def _chance(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 0 if self.same_samples else epoch, stream])

    def _pieces(self, epoch: int) -> list[tuple[SizeBatch, int, int]]:
        """The same as `counts`, with all samples of a piece, whether they fill its last batch or not."""
        parts, sharing = self.sizes(epoch), self._sharing
        shares = [part.share for part in self._mix(epoch)]
        samples = [count for _, group in self._groups for count in self._shared(group, shares)]
        if not self.drop_last and self.length < sharing:
            raise UserError(f"{self.length} samples for {sharing} processes; expected at least one for each")
        counts = []
        for part, count in zip(parts, samples, strict=True):
            whole = part.batch_size * self.parts
            if whole < self.world_size:
                raise UserError(
                    f"a step at {part.size} px takes {whole} samples, fewer than the {self.world_size} processes; "
                    "expected a larger training.batch_size, or fewer processes"
                )
            if self.drop_last:
                counts.append(count // whole or int(count >= 2 * sharing))
            else:
                # A batch size of 1 would leave a rank without a sample in the last steps: these take one more instead.
                counts.append(min(-(-count // whole), count // sharing))
        if not any(counts):
            raise UserError(
                f"{self.length} samples make no batch of two samples at any size for {sharing} processes; "
                "expected more images, or training.drop_last = false"
            )
        if self.limit_steps:
            limited = limit_counts(counts, self.limit_steps)
            if not self.drop_last:  # otherwise `_kept` cuts a piece to its steps
                samples = [n * new // old if old else n for n, old, new in zip(samples, counts, limited, strict=True)]
            counts = limited
        return list(zip(parts, counts, samples, strict=True))

    def _shared(self, total: int, shares: Sequence[float]) -> list[int]:
        """How many of the samples of a group have each size."""
        samples = [int(share * total) for share in shares]
        samples[-1] = total - sum(samples[:-1])
        if (not self.drop_last or len(self._groups) > 1) and self.length >= self._sharing:
            # Every rank needs two samples a step, for its norms: a piece too small for that joins the largest one.
            largest = samples.index(max(samples))
            for i, count in enumerate(samples):
                if 0 < count < 2 * self._sharing and i != largest:
                    samples[largest] += count
                    samples[i] = 0
        return samples


__all__ = ["BatchPlan", "SizeBatch", "SizeMix", "SizeSchedule"]
