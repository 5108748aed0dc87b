"""Which of many images are looked at where a part of them is enough."""

import numpy as np


def spread(length: int, most: int) -> np.ndarray:
    """Indices of at most `most` of so many images, spread evenly; 0: all.

    >>> spread(10, 4).tolist(), spread(2, 4).tolist(), spread(2, 0).tolist()
    ([0, 2, 5, 7], [0, 1], [0, 1])
    """
    count = min(length, most or length)
    return np.arange(count) * length // max(1, count)
