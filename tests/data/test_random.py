"""The counter-based generator: a pure function of its keys, uniform, with independent streams."""

import numpy as np
import torch

from anysize.data.random import Stream, normal, random_bits, seeded, uniform


def test_a_sample_has_its_number_in_whatever_company_it_comes():
    alone = uniform(3, 5, np.array([17]), np.array([1]), Stream.TOP)
    among = uniform(3, 5, np.arange(100), np.ones(100, int), Stream.TOP)
    assert alone[0] == among[17]


def test_numbers_stay_the_same_between_versions():
    """A resumed run must go on as it began: these values may never change."""
    bits = random_bits(0, 0, np.array([0, 1]), 0, 0)
    reference = [_reference(0, 0, 0, 0, i) for i in (0, 1)]
    assert bits.tolist() == reference
    assert random_bits(7, 3, np.array([123456]), 2, 6).tolist() == [_reference(7, 3, 6, 2, 123456)]


def _reference(seed: int, epoch: int, stream: int, copy: int, index: int) -> int:
    """SplitMix64's finaliser, once a key, in Python's own integers."""
    mask, state = 2**64 - 1, 0
    for key in (seed, epoch, stream, copy, index):
        state = ((state ^ key) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def test_every_key_matters():
    keys = {"seed": 1, "epoch": 2, "index": np.array([3]), "copy": 4, "stream": 5}
    changed = [keys | {name: value + 1} for name, value in keys.items()]

    assert len({float(uniform(**each)[0]) for each in (keys, *changed)}) == 6


def test_uniform_numbers_are_uniform_and_streams_unrelated():
    indices = np.arange(200_000)
    x, y = (uniform(0, 0, indices, 0, stream) for stream in (Stream.TOP, Stream.LEFT))
    counts, _ = np.histogram(x, bins=20, range=(0, 1))
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 45  # chi square of 19 degrees of freedom, p = 0.0007
    for other in (y, np.roll(x, 1), uniform(0, 1, indices, 0, Stream.TOP), uniform(0, 0, indices, 1, Stream.TOP)):
        assert abs(np.corrcoef(x, other)[0, 1]) < 0.01


def test_normal_numbers_have_mean_0_and_variance_1_and_unrelated_columns():
    values = normal(0, 0, np.arange(100_000), np.zeros(100_000, int), 3)
    np.testing.assert_allclose(values.mean(0), 0, atol=0.015)
    np.testing.assert_allclose(np.cov(values.T), np.eye(3), atol=0.02)


def test_a_seeded_block_repeats_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = []
    for index in (1, 2, 1):
        with seeded(0, 0, index, 0, Stream.AUTOAUGMENT):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)
