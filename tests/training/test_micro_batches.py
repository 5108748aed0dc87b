"""Batches that are cut into smaller parts where memory does not suffice: training.micro_batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import stopped_after
from torch import Tensor, nn

from anysize.experiment import assemble as assemble_module
from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.training import loop
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint
from anysize.training.micro_batches import MicroBatches

Make = Callable[..., Recipe]
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.99 GB)"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes"),
    "python": MemoryError(),
}


def greedy(monkeypatch: pytest.MonkeyPatch, fits: Callable[[int, int], bool], error: Exception) -> None:
    """Let the model run out of memory where so many images of a size do not fit: once its norms have seen them."""

    def compiled(model: nn.Module, *rest: Any) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            outputs: Tensor = model(x)
            if not fits(len(x), x.shape[2]):
                raise error
            return outputs

        return forward

    monkeypatch.setattr(assemble_module, "compiled", compiled)


def last(run: Path) -> Checkpoint:
    return read_checkpoint(run / "checkpoints/last")


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    for part, tensors in one.tensors.items():
        assert all(torch.equal(value, other.tensors[part][name]) for name, value in tensors.items()), part


@pytest.mark.parametrize(
    "error", ["cuda", *(pytest.param(name, marks=pytest.mark.slow) for name in ERRORS if name != "cuda")]
)
def test_the_largest_step_is_cut_until_it_fits(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    changes = {"sizes__mix": "fixed", "data__limit": 60, "training__epochs": 1, "model__norm": "group"}
    changes |= {"model__norm_options": {"num_groups": 4}}
    greedy(monkeypatch, lambda images, size: images <= 5, ERRORS[error])
    with pytest.raises(UserError, match=r"out of memory in the largest step .* set training\.micro_batches to auto"):
        train(tiny(**changes), run=tmp_path / "off")
    run = train(tiny(**changes, training__micro_batches="auto"), run=tmp_path / "auto")
    assert last(run).state["micro_batches"] == {"factor": 4}
    log = (run / "log.txt").read_text()
    assert "too little memory: from step 1 on a batch is cut into 4 parts" in log
    assert "batch norm" not in log
    assert_same(last(train(tiny(**changes, training__chunks=4), run=tmp_path / "chunks")), last(run))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "online"])
def test_a_later_step_leaves_no_trace_of_the_pass_that_failed_and_is_resumed(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    changes = {
        "sizes__mix": "B+D+", "training__copies": 2, "optimizer__adapt_copies": 2, "training__epochs": 1,
        "augment__mixup": 0.2, "model__norm": norm, "training__micro_batches": "auto",
    }  # fmt: skip
    recipe = tiny(**changes)  # 14 px, 32 samples in four copies, come once, as the seventh of nine steps
    with monkeypatch.context() as patch:  # cut before the step: nothing fails
        original = loop.train_step

        def train_step(parts: Any, state: Any, batch: Any, seed: int) -> None:
            if batch.size == 14:
                state.micro_batches.halve()
            original(parts, state, batch, seed)

        patch.setattr(loop, "train_step", train_step)
        expected = last(train(recipe, run=tmp_path / "expected"))
    greedy(monkeypatch, lambda images, size: size != 14 or images <= 64, ERRORS["cuda"])
    whole = train(recipe, run=tmp_path / "whole")
    assert last(whole).state["micro_batches"] == {"factor": 2}
    log = (whole / "log.txt").read_text()
    assert "too little memory: from step 7 on a batch is cut into 2 parts" in log
    assert ("batch norm takes its statistics from these smaller parts" in log) == (norm == "batch")
    assert_same(expected, last(whole))
    with stopped_after(26), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "broken")
    assert last(tmp_path / "broken").state["micro_batches"] == {"factor": 2}
    greedy(monkeypatch, lambda images, size: True, ERRORS["cuda"])  # as on a machine with more memory
    assert_same(expected, last(train(recipe, run=tmp_path / "broken")))


@pytest.mark.slow
def test_what_fits_in_no_way_is_said(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy(monkeypatch, lambda images, size: False, ERRORS["cuda"])
    changes = {"sizes__mix": "fixed", "data__limit": 60, "training__micro_batches": "auto"}
    with pytest.raises(UserError, match=r"batch of 16 images in 8 parts, and training\.micro_batches cuts no smaller"):
        train(tiny(**changes), run=tmp_path / "batch")
    with pytest.raises(UserError, match=r"batch of 16 images in 16 parts, and .*model\.checkpoint_segments"):
        train(tiny(**changes, model__norm="online"), run=tmp_path / "online")
    greedy(monkeypatch, lambda images, size: images < 9, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(tiny(**changes), run=tmp_path / "other")


def test_no_part_is_smaller_than_batch_norm_takes() -> None:
    batch, group = (MicroBatches(norm, chunks=3, auto=True) for norm in (nn.BatchNorm2d(3), nn.GroupNorm(1, 3)))
    for micro in (batch, group):
        micro.halve()
    assert [batch.chunks(images) for images in (1, 3, 9, 12, 100)] == [3, 3, 4, 6, 6]  # the recipe's 3 stand
    assert [group.chunks(images) for images in (1, 5, 100)] == [3, 5, 6]
