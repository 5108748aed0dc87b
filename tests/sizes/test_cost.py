"""What a run will cost: FLOPs against counts by hand, memory against what autograd keeps, sums over epochs."""

import dataclasses

import pytest
import torch
from torch import nn

from anysize.models.measure.flops import count_flops
from anysize.models.measure.memory import activation_bytes, estimate_memory
from anysize.models.measure.meta import meta_copy
from anysize.models.spec import create_model
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.cost import Flops, plan_cost
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizePhase, SizeRamp, SizeSchedule


def multiply_adds_of_cifar_resnet(depth: int, size: int) -> int:
    """By hand: 3x3 stem, three stages of two convolutions a block, two projections, classifier."""
    blocks = (depth - 2) // 6
    total, inputs = size * size * 9 * 3 * 16, 16
    for stage, width in enumerate((16, 32, 64)):
        side = -(-size // 2**stage)
        for block in range(blocks):
            total += side * side * 9 * width * (inputs + width)
            if block == 0 and stage > 0:
                total += side * side * inputs * width
            inputs = width
    return total + 64 * 10


@pytest.mark.parametrize(("depth", "size"), [(20, 32), (20, 24), (44, 32), (44, 48), (44, 17)])
def test_flops_of_cifar_resnets_by_hand(depth: int, size: int) -> None:
    flops = count_flops(create_model(f"resnet{depth}"), size)
    stem = 2 * size * size * 9 * 3 * 16
    assert flops.forward == 2 * multiply_adds_of_cifar_resnet(depth, size)
    assert flops.backward == 2 * flops.forward - stem  # gradients of inputs and weights, but none of the image
    assert flops.total == flops.forward + flops.backward


def test_flops_of_resnet50_as_published() -> None:
    with torch.device("meta"):
        model = create_model("resnet50", num_classes=1000)
    assert count_flops(model, 224, backward=False) == Flops(2 * 4_089_184_256, 0)


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_backward_of_grouped_convolutions_takes_twice_the_forward_pass(groups: int, transposed: bool) -> None:
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(8, 8, 3, stride=2, padding=1, groups=groups)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer)
    first = 2 * 8 * 8 * 3 * 8
    flops = count_flops(model, 8)
    assert flops.forward - first == 2 * 9 * 8 * 8 // groups * (64 if transposed else 16)
    assert flops.backward - first == 2 * (flops.forward - first)


def test_frozen_weights_save_the_backward_pass() -> None:
    model = create_model("resnet20")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("fc")
    assert count_flops(model, 32).backward == 2 * 64 * 10


def test_measuring_leaves_the_model_alone() -> None:
    model = create_model("resnet8").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, 32)
    activation_bytes(model, 32)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in model.parameters())


def test_meta_copy_keeps_shared_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad = False
    copied = meta_copy(model)
    assert isinstance(copied, nn.Sequential)
    assert copied[1].weight is copied[0].weight
    assert not copied[0].bias.requires_grad
    assert {tensor.device.type for tensor in copied.state_dict().values()} == {"meta"}


def test_activations_are_those_that_autograd_keeps_in_training() -> None:
    model, batch = create_model("resnet20"), 8
    known = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = model(torch.zeros(batch, 3, 24, 24))
    kept = sum(tensor.untyped_storage().nbytes() for pointer, tensor in saved.items() if pointer not in known)
    assert output.shape == (batch, 10)
    assert activation_bytes(model, 24) == pytest.approx(kept / batch, rel=0.02)  # statistics of norms are per batch


def test_shared_storages_count_once() -> None:
    # image; output of the convolution, changed in place by the ReLU: nothing else is kept
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(800, 1))
    assert activation_bytes(model, 10) == 4 * 10 * 10 * (3 + 8)


def test_memory_is_that_of_the_largest_step_and_of_the_optimizer() -> None:
    model = create_model("resnet20")
    parts = SizeMix.named("D+", base=32).batches(64)
    weights = 4 * 272_474
    largest = 4 * 64 * activation_bytes(model, 16)
    assert largest == pytest.approx(64 * activation_bytes(model, 32), rel=0.01)
    steps = {part.size: part.batch_size * part.copies * activation_bytes(model, part.size) for part in parts}
    assert estimate_memory(model, parts) == 3 * weights + max(steps.values())
    assert estimate_memory(model, parts, optimizer_slots=2) == 4 * weights + max(steps.values())
    assert max(steps, key=lambda size: steps[size]) == 24


def flops(size: int) -> Flops:
    return Flops(size**2, 2 * size**2)


def test_cost_is_the_sum_over_the_batches_of_all_epochs() -> None:
    mix = SizeMix.named("B+D+", base=32)
    phases = (SizePhase(0, mix), SizePhase(3, SizeRamp(16, 32, 3, base=32), batch_size=5), SizePhase(6, mix, copies=2))
    for drop_last, limit in ((True, 0), (False, 0), (True, 11), (False, 0.3)):
        plan = BatchPlan(503, SizeSchedule(phases), 8, world_size=2, drop_last=drop_last, limit_steps=limit)
        ranks = [dataclasses.replace(plan, rank=rank) for rank in (0, 1)]
        batches = [batch for rank in ranks for epoch in range(8) for batch in rank.batches(epoch)]
        cost = plan_cost(plan, 8, flops)
        assert cost.steps == len(batches) // 2
        assert cost.samples == sum(len(batch.indices) for batch in batches)
        assert cost.images == sum(batch.images for batch in batches)
        assert cost.total_flops == sum(batch.images * flops(batch.size).total for batch in batches)
        assert sum(part.backward_flops for part in cost.sizes) == 2 * sum(part.forward_flops for part in cost.sizes)
        assert (cost.base.size, cost.base.batch_size, cost.base.copies) == (32, 8, 1)


def test_sizes_of_several_phases_are_one_row() -> None:
    phases = (SizePhase(0, SizeMix.custom({16: 0.5, 32: 0.5}, 32)), SizePhase(1, SizeMix.fixed(32)))
    cost = plan_cost(BatchPlan(64, SizeSchedule(phases), batch_size=4), 3, flops)
    assert [(part.size, part.steps, part.samples) for part in cost.sizes] == [(16, 8, 32), (32, 40, 160)]
    assert cost.ratio == pytest.approx((32 * 16**2 + 160 * 32**2) / (192 * 32**2))


def test_base_can_be_given_and_flops_are_asked_once_a_size() -> None:
    asked: list[int] = []
    plan = BatchPlan(1000, SizeSchedule.constant(SizeMix.fixed(16)), batch_size=10)
    cost = plan_cost(plan, 100, lambda size: asked.append(size) or flops(size), base=32)  # type: ignore[func-returns-value]
    assert cost.ratio == pytest.approx(0.25)
    assert sorted(asked) == [16, 32]


def test_a_run_that_is_cut_and_measures_copies_costs_what_its_steps_cost() -> None:
    """Every second step of a size with copies computes its images twice more, and the last epoch has 20 steps."""
    schedule = SizeSchedule.constant(SizeMix.named("B+D+", base=32))
    plan, ranks = (
        BatchPlan(503, schedule, batch_size=8, copies=2, world_size=2),
        [BatchPlan(503, schedule, 8, copies=2, rank=rank, world_size=2) for rank in (0, 1)],
    )
    steps = [pair for epoch in range(3) for pair in zip(*(rank.batches(epoch) for rank in ranks), strict=True)]
    steps = steps[: 20 - plan.steps(2) or None]
    seen: dict[int, int] = {}
    spent = measured = 0
    for step in steps:
        images, size = sum(batch.images for batch in step), step[0].size
        spent += images * flops(size).total
        if step[0].copies > 1:
            measured += 0 if seen.get(size, 0) % 2 else 2 * images * flops(size).total
            seen[size] = seen.get(size, 0) + 1
    cost = plan_cost(plan, 3, flops, last_steps=20, adapt_copies=2)
    assert (cost.steps, cost.images) == (len(steps), sum(batch.images for step in steps for batch in step))
    assert (cost.total_flops, cost.measured_flops) == (spent + measured, measured)
    without = plan_cost(plan, 3, flops, last_steps=20)
    assert (without.steps, without.images, without.total_flops) == (cost.steps, cost.images, spent)
    assert [part.size for part in without.sizes] == [part.size for part in cost.sizes]
    assert measured > 0 < plan.steps(2) - 20


def test_online_norm_costs_no_matrix_products() -> None:
    """Its recurrence is solved by one, which is no work of the network."""
    sizes = [count_flops(create_model("resnet8", norm=norm), 16) for norm in ("batch", "online")]
    assert sizes[0] == sizes[1]
