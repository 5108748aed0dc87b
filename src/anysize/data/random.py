"""Random numbers that depend on the sample alone: a pure function of (seed, epoch, sample, copy, stream).

A counter-based generator needs no state, so that a sample is augmented alike in any batch, on any path through the
loader, with any number of workers, and after a resume. The mixing function is the finaliser of SplitMix64 (Steele, Lea,
Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), applied once a key.

    >>> uniform(0, 0, np.array([7, 8]), 0, Stream.FLIP) == uniform(0, 0, np.array([8, 7]), 0, Stream.FLIP)[::-1]
    array([ True,  True])
"""

import contextlib
import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

Keys = int | npt.NDArray[np.integer]  # an integer, or an array of them

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ALL = 2**64 - 1


class Stream(enum.IntEnum):
    """The purpose of a random number. The values are part of a run's reproducibility: append, never renumber."""

    TOP = 0
    LEFT = 1
    FLIP = 2
    RANDOM_RESIZED = 3
    AUTOAUGMENT = 4
    COLOR_JITTER = 5
    LIGHTING = 6
    CUTOUT_TOP = 7
    CUTOUT_LEFT = 8
    DATASET = 9
    STEP = 10
    RESCALE = 11
    RANDOM_ERASING = 12
    BRIGHTNESS = 13
    CONTRAST = 14


def random_bits(seed: Keys, epoch: Keys, index: Keys, copy: Keys, stream: Keys) -> npt.NDArray[np.uint64]:
    """64 random bits for each key; the arguments are broadcast against one another."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64
        state = np.zeros((), dtype=np.uint64)
        for key in (seed, epoch, stream, copy, index):
            state = _mix((state ^ np.asarray(key).astype(np.uint64)) + _GOLDEN)
    return state


def uniform(seed: Keys, epoch: Keys, index: Keys, copy: Keys, stream: Keys) -> npt.NDArray[np.float64]:
    """A random number in [0, 1) for each key, with 53 random bits."""
    return np.asarray((random_bits(seed, epoch, index, copy, stream) >> np.uint64(11)) * 2.0**-53)


def uniform_of_few(seed: int, epoch: int, index: np.ndarray, copy: np.ndarray, stream: int) -> npt.NDArray[np.float64]:
    """`uniform` of a few keys, without numpy's calls, each of which takes as long as a key here.

    >>> keys = np.array([7, 8]), np.array([0, 1])
    >>> (uniform_of_few(5, 2, *keys, Stream.FLIP) == uniform(5, 2, *keys, Stream.FLIP)).all()
    np.True_
    """
    pairs = zip(index.tolist(), copy.tolist(), strict=True)
    return np.array([(_bits_of_one(seed, epoch, *pair, stream) >> 11) * 2.0**-53 for pair in pairs])


def normal(seed: Keys, epoch: Keys, index: npt.NDArray[np.integer], copy: Keys, count: int) -> npt.NDArray[np.float64]:
    """`count` standard normal numbers (N, count) for each key, of the stream LIGHTING (Box-Muller)."""
    bits = random_bits(seed, epoch, index, copy, Stream.LIGHTING)[:, None]
    radius = np.sqrt(-2 * np.log1p(-uniform(0, 0, bits, np.arange(count), 0)))
    return np.asarray(radius * np.cos(2 * np.pi * uniform(0, 0, bits, np.arange(count), 1)))


@contextlib.contextmanager
def seeded(seed: int, epoch: int, index: int, copy: int, stream: int) -> Iterator[None]:
    """Within the block torch's CPU generator draws what follows from the key; afterwards it is as it was.

    For library transforms that draw from the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that also visits every accelerator, which costs more than the transform.
        torch.default_generator.manual_seed(_bits_of_one(seed, epoch, index, copy, stream))
        yield


def _bits_of_one(seed: int, epoch: int, index: int, copy: int, stream: int) -> int:
    """`random_bits` of one key, without numpy, whose calls would take most of the time.

    >>> _bits_of_one(-1, 2, 3, 4, 5) == int(random_bits(-1, 2, 3, 4, 5))
    True
    """
    bits = 0
    for key in (seed, epoch, stream, copy, index):
        bits = ((bits ^ (int(key) & _ALL)) + int(_GOLDEN)) & _ALL
        bits = ((bits ^ (bits >> 30)) * int(_MIX_1)) & _ALL
        bits = ((bits ^ (bits >> 27)) * int(_MIX_2)) & _ALL
        bits ^= bits >> 31
    return bits


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return np.asarray(bits ^ (bits >> np.uint64(31)))
