"""`anysize bench --find-batch`: no larger batch would fit, at any size, by the same sum that `anysize plan` tells."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from anysize.experiment import find_batch as module
from anysize.experiment.find_batch import SPARED, find_batch
from anysize.experiment.planning import plan
from anysize.machine import free_memory
from anysize.models.measure.largest_batch import fits_into_memory
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError

Make = Callable[..., Recipe]


def test_the_next_larger_batch_does_not_fit(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 20 * 2**20
    monkeypatch.setattr(module, "free_memory", lambda: free)
    recipe = tiny(sizes__mix="D+", training__device="cpu")
    found = find_batch(recipe, images=10_000)
    here, larger = (
        plan(recipe, {"training.batch_size": found.batch_size + more}, images=10_000).memory for more in (0, 1)
    )
    assert found.memory == here <= (1 - SPARED) * free < larger
    assert (found.left, found.tried, found.all_images) == (free - here, False, False)


def test_sizes_that_come_after_the_epochs_at_the_base_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 40 * 2**20
    monkeypatch.setattr(module, "free_memory", lambda: free)
    recipe = load_recipe("quickstart", {"training.device": "cpu"})  # 28 px from its ninth epoch on, of 14
    found = find_batch(recipe)
    assert found.size == 28
    assert plan(recipe, {"training.batch_size": found.batch_size}).memory <= (1 - SPARED) * free


def test_recipes_that_have_no_largest_batch(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 2**10)
    with pytest.raises(UserError, match="not even a batch of one"):
        find_batch(tiny(training__device="cpu"))
    with pytest.raises(UserError, match="batch_size of its own"):
        find_batch(tiny(sizes__phases=[{"epoch": 1, "size": 28, "batch_size": 4}]))


def test_a_pass_without_memory_does_not_fit_and_leaves_no_gradients() -> None:
    model = nn.Linear(2, 2)

    def short() -> None:
        model(torch.ones(1, 2)).sum().backward()
        raise torch.OutOfMemoryError("CUDA out of memory")

    def wrong() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    assert not fits_into_memory(model, short)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="multiplied"):
        fits_into_memory(model, wrong)


def test_limits_of_a_container_count(tmp_path: Any) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n")
    assert free_memory(tmp_path) == 4000 * 1024
    groups = tmp_path / "sys/fs/cgroup"
    groups.mkdir(parents=True)
    (groups / "memory.max").write_text("max\n")
    (groups / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path) == 4000 * 1024
    (groups / "memory.max").write_text("3000\n")
    assert free_memory(tmp_path) == 2000


def test_command_says_batch_and_what_is_left(anysize: Callable[..., Any]) -> None:
    done = anysize("bench", "quickstart", "--find-batch", "--model.name", "resnet8", "--data.limit", "100")
    assert "largest batch: --training.batch-size 100 (which are all there are)" in done.stdout, done.stderr
    refused = anysize("bench", "quickstart", "--find-batch", "--sizes", "28")
    assert (refused.returncode, "leave --sizes out" in refused.stderr) == (2, True)
