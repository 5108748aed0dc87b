"""The batch plan in the `DataLoader` of a training loop of one's own."""

from collections.abc import Iterator

from anysize.sizes.batch import SampleKey
from anysize.sizes.batch_plan import BatchPlan


class PlanSampler:
    """A batch sampler for a plain `torch.utils.data.DataLoader`: yields a batch of keys (`SampleKey`) at a time.

    The data set's `__getitem__` receives a `SampleKey`. Call `set_epoch` before each epoch; persistent workers keep
    running, because the size travels with the index.

    >>> from anysize.sizes.mix import SizeMix
    >>> from anysize.sizes.schedule import SizeSchedule
    >>> plan = BatchPlan(8, SizeSchedule.constant(SizeMix.fixed(32)), batch_size=4)
    >>> sampler = PlanSampler(plan)
    >>> sampler.set_epoch(3)
    >>> [len(keys) for keys in sampler], next(iter(sampler))[0].epoch
    ([4, 4], 3)
    """

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """List the batches of `epoch`, leaving out the first `start` that were trained already."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return (batch.keys() for batch in self.plan.batches(self.epoch)[self.start :])

    def __len__(self) -> int:
        return self.plan.steps(self.epoch) - self.start
