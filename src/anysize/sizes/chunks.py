"""The order of an epoch where samples lie in chunks: a few chunks at a time are shuffled together, then the next.

A global shuffle reads anywhere at any time. Where that costs too much (a disk that seeks, a network's file system, a
cache that holds a part of the data), this order reads from some chunks alone for a while, and comes back to none of
them in the epoch.

>>> rng = np.random.default_rng(0)
>>> steps = in_chunks((3, 3, 3, 3), together=2, steps=[3, 3, 3, 3], lanes=1, rng=rng)
>>> [step.tolist() for step in steps]
[[2, 0, 8], [1, 7, 6], [11, 5, 10], [9, 4, 3]]
"""

from collections.abc import Sequence

import numpy as np


def in_chunks(
    chunks: Sequence[int], together: int, steps: Sequence[int], lanes: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The samples of each step of an epoch, of all ranks together: int64, no sample twice.

    The chunks are put in an order by chance and cut into `lanes`, each as long as its share of all steps, so that a
    chunk belongs to one lane, or to two where it is cut. In a lane `together` chunks, or a few less, are shuffled
    together. A step holds its lanes' samples one lane behind the other: ranks that take equal parts of it read from
    chunks of their own as far as the number of ranks divides that of lanes, or the other way round.

    Args:
        chunks: the numbers of samples that lie together, in their order.
        together: how many chunks of a lane are shuffled together.
        steps: the samples of each step, at most as many as there are; the others are left out by chance.
        lanes: batches of a rank in a step.
        rng: where chance comes from.
    """
    lengths, counts = np.asarray(chunks, np.int64), np.asarray(steps, np.int64)
    order = rng.permutation(len(lengths))
    ends = lengths[order].cumsum()
    # Each sample of the chunks in their new order: its place in its chunk, and where that begins.
    begins = (lengths.cumsum() - lengths)[order]
    sequence = np.arange(lengths.sum()) + np.repeat(begins - (ends - lengths[order]), lengths[order])
    trained = np.ones(len(sequence), bool)
    trained[rng.choice(len(sequence), len(sequence) - counts.sum(), replace=False)] = False
    sequence, ends = sequence[trained], trained.cumsum()[ends - 1]
    shares = counts[:, None] // lanes + (np.arange(lanes) < counts[:, None] % lanes)  # (steps, lanes)
    pieces = []
    start = 0
    for share in shares.T:
        lane = sequence[start : start + share.sum()]
        inner = np.unique(ends[(ends > start) & (ends < start + len(lane))]) - start
        groups = np.array_split(np.append(inner, len(lane)), -(-(len(inner) + 1) // together))
        for first, last in zip([0, *(group[-1] for group in groups)], [group[-1] for group in groups], strict=False):
            rng.shuffle(lane[first:last])
        pieces.append(np.split(lane, share.cumsum()[:-1]))
        start += len(lane)
    return [np.concatenate(of_lanes) for of_lanes in zip(*pieces, strict=True)]
