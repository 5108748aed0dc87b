"""What each process of a run has of its own, and gets back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_group import in_group
from torch import nn

from anysize.training.gradients import ControlVariables
from anysize.training.replicas import Replicas
from anysize.world import World


def job(rank: int) -> dict[str, Any]:
    def replicas(value: float) -> Replicas:
        model = nn.Sequential(nn.BatchNorm2d(2))
        model[0].running_mean.fill_(value)
        return Replicas({"model": model}, ControlVariables(model), World.here(), "averaged")

    saved, new = replicas(1.0 + rank), replicas(0.0)
    saved.control.unit = 0.5 + rank  # as after a last batch that is no multiple of the processes
    saved.gather()
    new.load_state_dict(saved.state_dict())
    return {"unit": new.control.unit, "mean": new.models["model"][0].running_mean}


@pytest.mark.slow
def test_each_process_gets_its_own_buffers_and_unit_back(tmp_path: Path) -> None:
    for rank, found in enumerate(in_group(2, job, tmp_path)):
        assert found["unit"] == 0.5 + rank
        assert torch.equal(found["mean"], torch.full((2,), 1.0 + rank))
