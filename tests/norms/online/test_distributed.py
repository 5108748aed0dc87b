"""Two ranks keep a state each; averaging gives both the state of the pooled samples."""

import concurrent.futures
import copy
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anysize.norms.online.distributed import average_online_state
from anysize.norms.online.norm import OnlineNorm1d, online_norms

Result = dict[str, dict[str, Tensor]]


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), OnlineNorm1d(4, 0.9, 0.8), nn.Linear(4, 2), OnlineNorm1d(2, 0.9, 0.8))


def data(rank: int) -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(rank)) + rank


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def step(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    model(x).square().sum().backward()


def on_rank(rank: int, meeting: str) -> Result:
    """What a rank sees; numpy arrays would lose nothing, tensors travel as they are."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model = make()
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    step(parallel, data(rank))
    step(parallel, data(rank))
    result = {"gradients": gradients(model), "own": states(model)}
    average_online_state(parallel)
    result["average"] = states(model)
    average_online_state(nn.Linear(1, 1))  # a model without online norms needs no communication
    follower = make()
    parallel = DistributedDataParallel(follower)
    step(parallel, data(rank))
    step(parallel, data(rank))
    with torch.no_grad():
        parallel(data(rank))  # broadcasts first
    result["broadcast"] = states(follower)
    dist.barrier()
    dist.destroy_process_group()
    return result


@pytest.mark.slow
def test_states_of_two_ranks(tmp_path: Path) -> None:
    meeting = (tmp_path / "meeting").as_uri()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        first, second = (future.result() for future in [pool.submit(on_rank, rank, meeting) for rank in (0, 1)])

    # each rank normalises by its own samples, as one process does with the same ones
    alone = []
    for rank, result in enumerate((first, second)):
        model = make()
        step(model, data(rank))
        step(model, data(rank))
        alone.append(gradients(model))
        for name, value in states(model).items():
            torch.testing.assert_close(result["own"][name], value)
    assert all(not torch.equal(first["own"][name], second["own"][name]) for name in first["own"])

    # gradients are averaged over the ranks
    for name, value in first["gradients"].items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)
        torch.testing.assert_close(value, second["gradients"][name])

    # the average is the mean and variance of what both ranks hold together
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name]), name
        a, b = first["own"][name], second["own"][name]
        expected = (a + b) / 2
        if name.endswith("var"):
            mean_name = name.removesuffix("var") + "m"
            expected = expected + (first["own"][mean_name] - second["own"][mean_name]) ** 2 / 4
        torch.testing.assert_close(value, expected)

    # DDP's default puts rank 0's statistics in the place of the others'
    same_samples = make()
    for rank in (0, 0, 1):
        same_samples(data(rank))
    torch.testing.assert_close(second["broadcast"]["1.norm.m"], states(same_samples)["1.norm.m"])


def test_averaging_does_nothing_in_one_process() -> None:
    model = make()
    step(model, data(0))
    before = copy.deepcopy(states(model))
    average_online_state(model)
    for name, value in states(model).items():
        assert torch.equal(value, before[name])
    assert len(list(online_norms(model))) == 2
