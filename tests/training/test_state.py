"""The state of a training: what checkpoints of earlier versions hold is taken over, and one rule finds `last`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import stopped_after

from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.stopping import Interrupted
from anysize.training.checkpoint import files
from anysize.training.checkpoint.files import Checkpoint, read_checkpoint, write_checkpoint
from anysize.training.checkpoint.store import find_checkpoint

Make = Callable[..., Recipe]


def as_format_1(checkpoint: Checkpoint) -> Checkpoint:
    """What version 0.1.0 wrote before format 2: one model, one optimizer, all numbers under "progress"."""
    state: dict[str, Any] = dict(checkpoint.state)
    parts = {name: state.pop(name) for name in ("smoothing", "copies", "control", "recorder", "optimizer")}
    state["optimizer"] = parts["optimizer"]["name"]
    state["progress"] = {
        **state["progress"],
        "smoothing_norm": parts["smoothing"]["norm"],
        "scaler": {},
        "gradient_unit": parts["control"]["unit"],
        "copies_factors": parts["copies"]["factors"],
        "copies_steps": parts["copies"]["steps"],
        "sums": parts["recorder"]["sums"],
    }
    del state["files"], state["format"]
    return Checkpoint({part: checkpoint.tensors[part] for part in ("model", "optimizer")}, state)


def test_a_run_of_format_1_goes_on_to_the_same_bits(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(
        sizes__mix="D+", optimizer__gradient_smoothing=0.9, optimizer__adapt_copies=2, model__norm="online",
        data__limit=100, training__epochs=1,
    )  # fmt: skip
    whole = read_checkpoint(train(recipe, run=tmp_path / "whole") / "checkpoints/last")
    with stopped_after(9), pytest.raises(Interrupted):  # several backward passes measure the scale of copies
        train(recipe, run=tmp_path / "old")
    last = tmp_path / "old/checkpoints/last"
    old = as_format_1(read_checkpoint(last))
    monkeypatch.setattr(files, "FORMAT", 1)
    write_checkpoint(last, old)
    monkeypatch.undo()
    ended = read_checkpoint(train(recipe, run=tmp_path / "old") / "checkpoints/last")
    assert ended.state["format"] == 2
    assert all(ended.state["recorder"][key] == whole.state["recorder"][key] for key in ("sums", "images"))
    for part, tensors in whole.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, ended.tensors[part][name]), f"{part}: {name}"


@pytest.mark.parametrize(
    ("folders", "name", "found"),
    [
        (["last", "previous", "best"], "last", "last"),
        ([".last.old", "previous"], "last", ".last.old"),
        (["previous", "best"], "last", "previous"),
        ([".best.old", "last"], "best", ".best.old"),
        (["last"], "best", None),
        (["last"], "previous", None),
    ],
)
def test_what_was_to_be_replaced_stands_for_a_checkpoint_after_a_crash(
    tmp_path: Path, folders: list[str], name: str, found: str | None
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    path = find_checkpoint(tmp_path, name)
    assert (path and path.name) == found
