"""Epochs that are cut to a number of steps, of which each size keeps its share."""

from collections.abc import Sequence


def limit_counts(counts: Sequence[int], limit: float) -> list[int]:
    """Cut the steps of several sizes to `limit` in all, or below 1 to this share of them (one at least).

    They are shared in proportion, but each size that has steps keeps one as far as there are enough, those with the
    most steps first.

    >>> limit_counts([60, 30, 10], 10), limit_counts([60, 30, 10], 0.05), limit_counts([60, 30, 10], 2)
    ([6, 3, 1], [3, 1, 1], [1, 1, 0])
    """
    total = sum(counts)
    wanted = min(total, int(limit) if limit >= 1 else max(1, round(limit * total)))
    exact = [wanted * count / total for count in counts]
    there = sorted((i for i, count in enumerate(counts) if count), key=lambda i: -counts[i])
    kept = [max(int(exact[i]), int(i in there[:wanted])) for i in range(len(counts))]
    while (spare := wanted - sum(kept)) != 0:
        if spare > 0:
            kept[max(there, key=lambda i: exact[i] - kept[i])] += 1
        else:
            kept[min((i for i in there if kept[i] > 1), key=lambda i: exact[i] - kept[i])] -= 1
    return kept
