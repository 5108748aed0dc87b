"""What processes exchange with each other."""

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from anysize.world import World


def test_exchanges_over_the_cpus_beside_nccl_wait_as_long_as_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
        world = World.here(datetime.timedelta(seconds=7))
        options = world.group._get_backend(torch.device("cpu")).options
        assert options._timeout == datetime.timedelta(seconds=7)
    finally:
        dist.destroy_process_group()


def test_all_processes_add_kinds_of_numbers_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the arguments: the order of a set follows from addresses, which differ from process to process."""
    kinds = [torch.int64, torch.float32, torch.int8, torch.float64, torch.int32, torch.float16, torch.bfloat16]
    sent: list[torch.dtype] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: sent.append(tensor.dtype))
    World(0, 2).add(*(torch.ones(1, dtype=kind) for kind in (*kinds, torch.float32)))
    assert sent == kinds
