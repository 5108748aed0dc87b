"""The batch plan keeps its promises for any data set, mixture, seed, epoch and number of processes."""

import collections
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from anysize.registry import UserError
from anysize.sizes.batch import Batch, SampleKey
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import BUDGETS, SizeMix
from anysize.sizes.moving import GaussianWindow, MovingMix, WeightPoints
from anysize.sizes.sampler import PlanSampler
from anysize.sizes.schedule import SizePhase, SizeRamp, SizeSchedule
from anysize.sizes.shapes import Aspect, Shapes

mixes = st.builds(
    lambda weights, base, budget: SizeMix(tuple(weights.items()), base, budget),
    st.dictionaries(st.integers(8, 64), st.floats(0.01, 1), min_size=1, max_size=6),
    st.integers(8, 64),
    st.sampled_from(BUDGETS),
)
schedules = st.one_of(
    mixes.map(SizeSchedule.constant),
    st.builds(
        lambda first, second, batch_size: SizeSchedule(
            (SizePhase(0, first, batch_size), SizePhase(2, second), SizePhase(5, SizeRamp(16, 32, 3, base=32)))
        ),
        mixes,
        mixes,
        st.integers(0, 9),
    ),
    st.builds(
        lambda sizes, spread, even, epochs, budget: SizeSchedule.moving(
            MovingMix(GaussianWindow(tuple(sizes), spread, even), epochs, 32, budget)
        ),
        st.lists(st.integers(8, 64), min_size=2, max_size=6, unique=True),
        st.floats(0.05, 3),
        st.sampled_from([0.0, 0.1, 1.0]),
        st.integers(1, 12),
        st.sampled_from(BUDGETS),
    ),
    st.builds(
        lambda start, end, epochs: SizeSchedule.moving(MovingMix(WeightPoints.of({0.0: start, 0.7: end}), epochs, 32)),
        st.dictionaries(st.integers(8, 64), st.floats(0.01, 1), min_size=1, max_size=4),
        st.dictionaries(st.integers(8, 64), st.floats(0.01, 1), min_size=1, max_size=4),
        st.integers(1, 12),
    ),
)


RATIOS = (0.75, 1.0, 4 / 3, 2.0)


@st.composite
def plans(draw: st.DrawFn, drop_last: bool | None = None) -> tuple[BatchPlan, int]:
    length = draw(st.integers(1, 400))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)), max_size=12))) if draw(st.booleans()) else []
    groups = draw(st.one_of(st.none(), st.binary(min_size=length, max_size=length)))
    plan = BatchPlan(
        length=length,
        shapes=None if cuts or groups is None else Shapes(RATIOS, 4, bytes(each % len(RATIOS) for each in groups)),
        schedule=draw(schedules),
        chunks=tuple(np.diff([0, *cuts, length]).tolist()) if cuts and length > 1 else (),
        chunks_together=draw(st.integers(1, 6)),
        batch_size=draw(st.integers(1, 20)),
        copies=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**40)),
        world_size=draw(st.integers(1, 5)),
        drop_last=draw(st.booleans()) if drop_last is None else drop_last,
    )
    epoch = draw(st.integers(0, 9))
    try:
        assert plan.counts(0)  # where every run starts
        assert plan.counts(epoch)
    except UserError:
        assume(False)
    return plan, epoch


def on_ranks(plan: BatchPlan, epoch: int) -> list[list[Batch]]:
    return [dataclasses.replace(plan, rank=rank).batches(epoch) for rank in range(plan.world_size)]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        (a.epoch, a.size, a.aspect, a.copies, a.indices.tolist())
        == (b.epoch, b.size, b.aspect, b.copies, b.indices.tolist())
        for a, b in zip(left, right, strict=True)
    )


@given(plans())
@settings(deadline=None)
def test_each_sample_at_most_once_an_epoch_over_all_ranks(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    seen = np.concatenate([batch.indices for batches in on_ranks(plan, epoch) for batch in batches])
    assert len(set(seen.tolist())) == len(seen)
    assert set(seen.tolist()) <= set(range(plan.length))


@given(plans())
@settings(deadline=None)
def test_a_batch_has_images_of_one_group(given_plan: tuple[BatchPlan, int]) -> None:
    """A group that is large enough for two samples a process has its own batches, in its own shape."""
    plan, epoch = dataclasses.replace(given_plan[0], chunks=()), given_plan[1]
    plan = dataclasses.replace(plan, shapes=plan.shapes or Shapes((2.0,)))
    groups = plan.shapes.of_all(plan.length)
    large = np.bincount(groups, minlength=len(plan.shapes.ratios)) >= 2 * plan.world_size
    for batch in plan.batches(epoch):
        for group in set(groups[batch.indices].tolist()):
            if large[group]:
                assert batch.aspect == plan.shapes.aspect(group)
        assert batch.aspect in {plan.shapes.aspect(group) for group in range(len(plan.shapes.ratios))}


@given(plans(drop_last=False))
@settings(deadline=None)
def test_each_sample_exactly_once_where_nothing_is_dropped(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    seen = np.concatenate([batch.indices for batches in on_ranks(plan, epoch) for batch in batches])
    assert sorted(seen.tolist()) == list(range(plan.length))


@given(plans())
@settings(deadline=None)
def test_every_rank_trains_the_same_size_at_the_same_step_with_samples(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    for step in zip(*on_ranks(plan, epoch), strict=True):
        assert len({(batch.size, batch.aspect, batch.copies) for batch in step}) == 1
        counts = [len(batch.indices) for batch in step]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= (0 if plan.drop_last else 1)


@given(plans())
@settings(deadline=None)
def test_batches_of_a_size_are_as_large_as_asked_for_and_alike(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    asked = {(part.size, part.aspect): part for part in plan.sizes(epoch)}
    counts: dict[tuple[int, Aspect], list[int]] = collections.defaultdict(list)
    for batch in plan.batches(epoch):
        assert batch.copies == asked[batch.size, batch.aspect].copies
        counts[batch.size, batch.aspect].append(len(batch.indices))
    for size, found in counts.items():
        if plan.drop_last:
            assert set(found) == {asked[size].batch_size} or (
                len(found) == 1 and 2 <= found[0] < asked[size].batch_size
            )
        else:
            assert max(found) - min(found) <= 1
            # where a batch is one sample, a step of several ranks may have to take what is left over
            assert max(found) <= asked[size].batch_size + (asked[size].batch_size == 1)


@given(plans())
@settings(deadline=None)
def test_shares_of_images_hold_within_one_batch(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    seen: collections.Counter[int] = collections.Counter()
    for batches in on_ranks(plan, epoch):
        for batch in batches:
            seen[batch.size] += len(batch.indices)
    parts, groups = plan.sizes(epoch), len({part.aspect for part in plan.sizes(epoch)})
    share = collections.Counter[int]()
    for part in parts:
        share[part.size] += part.share * plan.length
    # Pieces smaller than the world join the largest, where nothing is dropped or images are grouped.
    joined = 0 if plan.drop_last and groups == 1 else 2 * len(parts) * plan.world_size
    for part in parts:
        slack = len(parts) + joined + (groups * part.batch_size * plan.world_size if plan.drop_last else 0)
        assert abs(seen[part.size] - share[part.size]) <= slack


@given(plans())
@settings(deadline=None)
def test_counts_are_those_of_the_batches(given_plan: tuple[BatchPlan, int]) -> None:
    plan, epoch = given_plan
    batches = plan.batches(epoch)
    assert plan.steps(epoch) == len(batches)
    steps = collections.Counter((batch.size, batch.aspect) for batch in batches)
    counts = plan.counts(epoch)
    assert steps == collections.Counter({(part.size, part.aspect): count for part, count, _ in counts if count})
    ranks = [dataclasses.replace(plan, rank=rank).batches(epoch) for rank in range(plan.world_size)]
    trained = sum(len(batch.indices) for batches in ranks for batch in batches)
    assert sum(samples for _, _, samples in plan.counts(epoch)) == trained
    # What every rank knows of a step: its size and the images of all ranks.
    together = [(step[0].size, sum(batch.images for batch in step)) for step in zip(*ranks, strict=True)]
    assert plan.step_images(epoch) == together


@given(plans(), st.one_of(st.integers(1, 60), st.floats(0.01, 0.99)))
@settings(deadline=None)
def test_a_limit_keeps_the_sizes_and_what_a_plan_promises(given_plan: tuple[BatchPlan, int], limit: float) -> None:
    plan, epoch = given_plan
    limited = dataclasses.replace(plan, limit_steps=limit)
    test_counts_are_those_of_the_batches.hypothesis.inner_test((limited, epoch))
    test_each_sample_at_most_once_an_epoch_over_all_ranks.hypothesis.inner_test((limited, epoch))
    test_every_rank_trains_the_same_size_at_the_same_step_with_samples.hypothesis.inner_test((limited, epoch))
    whole, steps = plan.steps(epoch), limited.steps(epoch)
    assert steps == min(whole, limit) if limit >= 1 else steps == max(1, round(limit * whole))
    sizes = {(batch.size, batch.aspect) for batch in plan.batches(epoch)}
    assert len({(batch.size, batch.aspect) for batch in limited.batches(epoch)}) == min(steps, len(sizes))


@given(plans(), st.integers(0, 30))
@settings(deadline=None)
def test_every_epoch_may_train_the_samples_of_the_first(given_plan: tuple[BatchPlan, int], limit: int) -> None:
    plan, _ = given_plan
    now = plan.schedule.at(0)
    schedule = SizeSchedule((SizePhase(0, now.mix, now.batch_size),))
    plan = dataclasses.replace(plan, schedule=schedule, same_samples=True)
    first, other = (dataclasses.replace(plan, limit_steps=limit).batches(epoch) for epoch in (0, 7))
    assert same(first, [dataclasses.replace(batch, epoch=0) for batch in other])


@given(plans(), st.data())
@settings(deadline=None)
def test_a_pure_function_and_resuming_is_a_slice(given_plan: tuple[BatchPlan, int], data: st.DataObject) -> None:
    plan, epoch = given_plan
    batches = plan.batches(epoch)
    np.random.seed(0)  # noqa: NPY002  the plan must not depend on it
    torch.manual_seed(0)
    twin = dataclasses.replace(plan)
    twin.batches(epoch)
    assert same(twin.batches(epoch), batches)
    start = data.draw(st.integers(0, len(batches)))
    sampler = PlanSampler(plan)
    sampler.set_epoch(epoch, start)
    assert len(sampler) == len(batches) - start
    assert list(sampler) == [batch.keys() for batch in batches[start:]]


@given(plans(), st.integers(2, 5))
@settings(deadline=None)
def test_repeats_change_the_samples_alone(given_plan: tuple[BatchPlan, int], repeats: int) -> None:
    """Every size, step and number of images is as without; each sample has its turns, each with its own keys."""
    plan, epoch = dataclasses.replace(given_plan[0], chunks=()), given_plan[1]
    repeated = dataclasses.replace(plan, repeats=repeats)
    assert repeated.step_images(epoch) == plan.step_images(epoch)
    ranks, without = on_ranks(repeated, epoch), on_ranks(plan, epoch)
    shapes = [[[(each.size, each.copies, each.images) for each in one] for one in of] for of in (ranks, without)]
    assert shapes[0] == shapes[1]
    batches = [batch for one in ranks for batch in one]
    keys = list(itertools.chain.from_iterable(map(Batch.keys, batches)))
    assert len({(key.index, key.copy) for key in keys}) == len(keys)
    turns = [turn for batch in batches for turn in zip(batch.indices.tolist(), batch.repeats.tolist(), strict=True)]
    assert len(set(turns)) == len(turns)
    assert {turn for _, turn in turns} <= set(range(repeats))
    if not plan.drop_last and plan.shapes is None:  # each group has a rest of its own
        whole, rest = divmod(plan.length, repeats)
        counts = sorted(collections.Counter(index for index, _ in turns).values())
        assert counts == [rest] * bool(rest) + [repeats] * whole
    assert all(batch.repeats is None for one in without for batch in one)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_with_repeats_sees_few_samples_often(world_size: int) -> None:
    """Under 256 images, where torchvision's sampler has none, at mixed sizes, on one process and on two."""
    schedule = SizeSchedule.constant(SizeMix.custom({16: 0.5, 32: 0.5}, base=32))
    plan = BatchPlan(200, schedule, 16 // world_size, world_size=world_size, repeats=4)
    seen: collections.Counter[int] = collections.Counter()
    for epoch in range(40):
        together = [np.concatenate([b.indices for b in step]) for step in zip(*on_ranks(plan, epoch), strict=True)]
        assert [len(step) for step in together] == [16] * 12
        own = collections.Counter(np.concatenate(together).tolist())
        assert 48 <= len(own) <= 50
        assert sum(count == 4 for count in own.values()) >= 46  # a batch of each size is not full
        assert all(len(set(step.tolist())) <= 5 for step in together)
        seen.update(own)
    assert len(seen) == 200
    assert max(seen.values()) < 100  # 38.4 on average


def test_a_sample_is_no_neighbour_of_its_own_repeats() -> None:
    """torchvision's mixup mixes neighbours; several processes and chunks take neighbours, too."""
    plan = BatchPlan(96, SizeSchedule.constant(SizeMix.fixed(32)), batch_size=8, world_size=2, repeats=4)
    for batches in on_ranks(plan, 3):
        for batch in batches:
            assert not (batch.indices == np.roll(batch.indices, 1)).any()


def test_a_part_of_a_batch_keeps_its_keys() -> None:
    batch = Batch(1, 16, 2, np.array([5, 9, 5]), np.array([0, 0, 1]))
    keys = batch.keys()
    assert batch.at([2, 1]).keys() == [keys[2], keys[1], keys[5], keys[4]]
    assert batch.at([]).keys() == []
    assert (keys[0].copy, keys[3].copy) == (0, 1)


def test_epochs_and_seeds_differ() -> None:
    plan = BatchPlan(200, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=8)
    assert not same(plan.batches(0), plan.batches(1))
    assert not same(plan.batches(0), dataclasses.replace(plan, seed=1).batches(0))


def test_sizes_are_shuffled_together() -> None:
    sizes = [b.size for b in BatchPlan(2000, SizeSchedule.constant(SizeMix.named("D+")), batch_size=8).batches(0)]
    changes = sum(a != b for a, b in itertools.pairwise(sizes))
    assert changes > len(sizes) / 2


def test_pieces_smaller_than_the_world_join_the_largest() -> None:
    mix = SizeMix.custom({16: 0.02, 24: 0.03, 32: 0.95}, base=32)
    plan = BatchPlan(100, SizeSchedule.constant(mix), batch_size=4, world_size=4, drop_last=False)
    assert [(part.size, steps, samples) for part, steps, samples in plan.counts(0)] == [
        (16, 0, 0),
        (24, 0, 0),
        (32, 7, 100),
    ]


def test_keys_go_copy_by_copy_so_that_chunks_hold_different_samples() -> None:
    keys = Batch(epoch=3, size=16, copies=2, indices=np.array([5, 9])).keys()
    assert keys == [SampleKey(5, 16, 0, 3), SampleKey(9, 16, 0, 3), SampleKey(5, 16, 1, 3), SampleKey(9, 16, 1, 3)]


def test_a_plain_data_loader_follows_the_plan() -> None:
    class Images(Dataset[tuple[torch.Tensor, int]]):
        def __getitem__(self, key: SampleKey) -> tuple[torch.Tensor, int]:
            return torch.full((1, key.size, key.size), float(key.epoch)), key.index

    plan = BatchPlan(60, SizeSchedule.constant(SizeMix.named("D+", base=32)), batch_size=4)
    sampler = PlanSampler(plan)
    sampler.set_epoch(2)
    loader = DataLoader(Images(), batch_sampler=sampler)
    for (images, indices), batch in zip(loader, plan.batches(2), strict=True):
        assert images.shape == (batch.images, 1, batch.size, batch.size)
        assert indices.tolist() == batch.indices.tolist() * batch.copies
        assert images.unique().item() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "the data set is empty"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2; expected a rank from 0 to 1"),
        ({"repeats": 0}, "repeats is 0; expected at least 1"),
        ({"chunks": (4, 4)}, "chunks of 8 samples, of which 1 are shuffled together, for 10 samples; expected the"),
        (
            {"chunks": (4, 6), "shapes": Shapes((1.0, 2.0), groups=bytes(10))},
            r"grouped by their aspect ratios .* chunks",
        ),
        (
            {"shapes": Shapes((1.0, 2.0), groups=bytes(9))},
            "9 images have an aspect ratio, and there are 10; expected as",
        ),
        ({"chunks": (4, 6), "repeats": 2}, r"\(training.repeats\), .* chunks are to be shuffled by themselves"),
        ({"length": 3, "batch_size": 4, "world_size": 2}, "3 samples make no batch of two samples at any size"),
    ],
)
def test_plans_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    schedule = SizeSchedule.constant(SizeMix.fixed(32))
    with pytest.raises(UserError, match=message):
        BatchPlan(**{"length": 10, "schedule": schedule, "batch_size": 2, **arguments}).steps(0)


@st.composite
def in_chunks(draw: st.DrawFn) -> tuple[list[int], BatchPlan]:
    """A plan over chunks whose steps 1, 2, 3, 4, 6 and 12 ranks can share."""
    chunks = draw(st.lists(st.integers(1, 60), min_size=2, max_size=40))
    lanes = draw(st.sampled_from((1, 2, 3, 4, 6, 12)))
    batch = 12 // lanes * draw(st.integers(1, 3))
    plan = BatchPlan(
        sum(chunks),
        draw(schedules),
        batch,
        seed=draw(st.integers(0, 2**40)),
        drop_last=draw(st.booleans()),
        batches_a_step=lanes,
        chunks=tuple(chunks),
        chunks_together=draw(st.integers(1, 5)),
    )
    return chunks, plan


@given(in_chunks(), st.integers(0, 9), st.sampled_from((1, 2, 3, 4, 6, 12)))
@settings(deadline=None)
def test_chunks_are_read_a_few_at_a_time_whatever_the_number_of_ranks(
    given_plan: tuple[list[int], BatchPlan], epoch: int, ranks: int
) -> None:
    chunks, plan = given_plan
    several = dataclasses.replace(plan, world_size=ranks)
    try:
        together, expected = on_ranks(several, epoch), plan.step_parts(epoch)
    except UserError:
        assume(False)
    assume(expected == several.step_parts(epoch))  # with very few samples more ranks take fewer steps
    steps = [np.concatenate([batch.indices for batch in step]) for step in zip(*together, strict=True)]
    # The same samples in the same order for any number of ranks; sizes and numbers as without chunks.
    assert [each.tolist() for each in steps] == [batch.indices.tolist() for batch in plan.batches(epoch)]
    assert [len(each) for each in steps] == [samples for _, samples in expected]
    assert plan.step_images(epoch) == dataclasses.replace(plan, chunks=()).step_images(epoch)
    seen = np.concatenate(steps)
    assert len(set(seen.tolist())) == len(seen)
    # Each lane comes to a chunk once, stays for as long as its few are read, and never comes back.
    of_chunk = np.repeat(np.arange(len(chunks)), chunks)
    for lane in range(plan.parts):
        own = of_chunk[np.concatenate([np.array_split(step, plan.parts)[lane] for step in steps])]
        first = {chunk: int(np.flatnonzero(own == chunk)[0]) for chunk in set(own.tolist())}
        last = {chunk: int(np.flatnonzero(own == chunk)[-1]) for chunk in first}
        open_at_once = max(sum(first[c] <= at <= last[c] for c in first) for at in range(len(own))) if len(own) else 0
        assert open_at_once <= plan.chunks_together


def test_the_order_of_chunks_is_another_each_epoch() -> None:
    """All chunks come first at some time, and what is left out is not always the same."""
    plan = BatchPlan(
        205, SizeSchedule.constant(SizeMix.fixed(32)), batch_size=20, chunks=(41,) * 5, chunks_together=2
    )  # fmt: skip
    first = collections.Counter(int(plan.batches(epoch)[0].indices[0]) // 41 for epoch in range(60))
    assert set(first) == set(range(5))
    left_out = [set(range(205)) - {i for b in plan.batches(epoch) for i in b.indices.tolist()} for epoch in range(60)]
    assert len(set.union(*left_out)) > 140  # 155 on average
    assert not same(plan.batches(0), dataclasses.replace(plan, seed=1).batches(0))


GROUPS = Shapes((1.0, 0.75, 1.5), groups=bytes(index * index % 7 % 3 for index in range(1009)))


@pytest.mark.parametrize("shapes", [None, GROUPS], ids=["square", "shapes"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_what_is_trained_in_a_step_does_not_depend_on_the_number_of_ranks(
    drop_last: bool, shapes: Shapes | None
) -> None:
    """A run of four ranks with 6 samples each goes on as one of 1, 2, 3 or 8: the same samples at the same sizes."""
    schedule = SizeSchedule.constant(SizeMix.named("B+", base=32))
    plan = BatchPlan(1009, schedule, 6, seed=3, drop_last=drop_last, shapes=shapes)

    def steps(ranks: int) -> list[tuple[int, Aspect, list[int]]]:
        plans = [dataclasses.replace(plan, rank=r, world_size=ranks, batches_a_step=4) for r in range(ranks)]
        together = zip(*(plan.batches(2) for plan in plans), strict=True)
        return [
            (step[0].size, step[0].aspect, np.concatenate([batch.indices for batch in step]).tolist())
            for step in together
        ]

    four = steps(4)
    assert all(len(indices) >= 8 and len(set(indices)) == len(indices) for _, _, indices in four)
    assert all(steps(ranks) == four for ranks in (1, 2, 3, 8))
    plain = [dataclasses.replace(plan, rank=r, world_size=4).batches(2) for r in range(4)]
    assert [np.concatenate([b.indices for b in step]).tolist() for step in zip(*plain, strict=True)] == [
        indices for _, _, indices in four
    ]


def test_ranks_that_cannot_share_a_step_are_refused() -> None:
    schedule = SizeSchedule.constant(SizeMix.fixed(32))
    with pytest.raises(UserError, match="a step of this run takes 24 samples at the base size, which 5 processes"):
        BatchPlan(100, schedule, 6, world_size=5, batches_a_step=4)
    large = SizeSchedule.constant(SizeMix.custom({32: 0.5, 128: 0.5}, base=32))
    large = SizeSchedule.constant(SizeMix(large.phases[0].sizes.weights, 32, "B+"))  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a step at 128 px takes 1 samples, fewer than the 4 processes"):
        BatchPlan(100, large, 16, world_size=4, batches_a_step=1).batches(0)
