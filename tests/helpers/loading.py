"""Loading the images of a source in order, for the tests."""

from collections.abc import Iterator

from anysize.data.augment.transform import Transform
from anysize.data.loader import LoadedBatch, PlanLoader, sequential_batches
from anysize.data.source import Source


def eval_batches(
    source: Source, transform: Transform, size: int, batch_size: int, workers: int = 0
) -> Iterator[LoadedBatch]:
    """Every image exactly once, in order, at `size` pixels; the last batch may be smaller."""
    return PlanLoader(source, transform, workers=workers).load(sequential_batches(len(source), size, batch_size))
