"""Dropout and label smoothing that follow the size and the epoch of a step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interruption import stopped_after
from timm.layers import DropPath
from torch import nn
from torchvision.models import swin_t
from torchvision.ops import StochasticDepth

from anysize.experiment.train import train
from anysize.recipe import Recipe
from anysize.registry import UserError
from anysize.stopping import Interrupted
from anysize.tasks.base import create_task
from anysize.training.checkpoint.files import read_checkpoint
from anysize.training.dropout import ScheduledDropout, dropout_layers

TABLES = {"14": 0.0, "28": 1.0}


def test_all_kinds_of_layers_follow_both_tables_and_come_back() -> None:
    model = nn.ModuleList(
        [
            nn.Dropout(0.5),
            nn.Dropout2d(0.2),
            StochasticDepth(0.4, "row"),
            DropPath(0.1),
            nn.MultiheadAttention(4, 1, 0.3),
        ]
    )
    own = [0.5, 0.2, 0.4, 0.1, 0.3]
    dropout = ScheduledDropout(model, TABLES, {"0": 0.0, "10": 1.0})
    for size, epoch, multiple in (
        (28, 10, 1.0),
        (21, 10, 0.5),
        (28, 5, 0.5),
        (21, 5, 0.25),
        (14, 99, 0.0),
        (99, 99, 1.0),
    ):
        dropout.apply(size, epoch)
        now = [model[0].p, model[1].p, model[2].p, model[3].drop_prob, model[4].dropout]
        assert now == pytest.approx([multiple * each for each in own])
    assert len(dropout_layers(swin_t())) == 11  # of twelve blocks the first drops nothing


def test_what_is_dropped_at_a_size_is_its_share() -> None:
    model = nn.Sequential(nn.Dropout(0.8))
    dropout, ones = ScheduledDropout(model, TABLES, {}), torch.ones(100_000)
    for size, share in ((14, 0.0), (21, 0.4), (28, 0.8)):
        dropout.apply(size, 0)
        assert (model(ones) == 0).float().mean().item() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__dropout_by_size": TABLES, "model__options": {"depth": 8}}, "dropout of the model, which has none"),
        ({"training__dropout_by_size": {"14": 1.0, "28": 11.0}}, "dropout_by_size: up to 1.1 of dropout = 0.1"),
        ({"training__dropout_by_epoch": {"first": 1.0}}, "expected whole epochs = multiple"),
        ({"training__dropout_by_epoch": {"0": 0.0}, "training__compile": True}, "leave one of them out"),
        ({"task__label_smoothing_by_size": TABLES}, "task.label_smoothing, which is 0"),
        (
            {"task__label_smoothing": 0.6, "task__label_smoothing_by_epoch": {"0": 2.0}},
            "up to 1.2 of task.label_smo",
        ),
    ],
)
def test_tables_without_effect_are_refused(
    tiny: Callable[..., Recipe], tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(tiny(**changes), run=tmp_path / "run")


def test_label_smoothing_is_that_of_size_and_epoch() -> None:
    tables = {"label_smoothing_by_size": TABLES, "label_smoothing_by_epoch": {"0": 0.5, "2": 1.0}}
    task = create_task("classification", ["a", "b", "c"], label_smoothing=0.3, **tables)
    targets, logits = torch.tensor([0, 2, 1, 1]), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for size, epoch, share in ((28, 2, 0.3), (21, 2, 0.15), (28, 0, 0.15), (14, 2, 0.0)):
        _, smoothed = task.mix(torch.zeros(4, 1, size, size), targets, epoch)
        expected = F.cross_entropy(logits, targets, label_smoothing=share)
        torch.testing.assert_close(task.loss(logits, smoothed), expected)
        assert task.step_metrics(logits, smoothed) == task.step_metrics(logits, targets)


def test_a_run_that_is_stopped_ends_with_the_same_bits(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    tables = {"training__dropout_by_size": TABLES, "training__dropout_by_epoch": {"0": 0.5, "1": 3.0}}
    tables |= {"task__label_smoothing": 0.1, "task__label_smoothing_by_size": TABLES}
    recipe = tiny(data__limit=64, **tables)
    whole = read_checkpoint(train(recipe, run=tmp_path / "whole") / "checkpoints/last").tensors["model"]
    with stopped_after(6), pytest.raises(Interrupted):
        train(recipe, run=tmp_path / "stopped")
    ended = read_checkpoint(train(recipe, run=tmp_path / "stopped") / "checkpoints/last").tensors["model"]
    assert all(torch.equal(value, ended[name]) for name, value in whole.items())
    plain = read_checkpoint(train(tiny(data__limit=64), run=tmp_path / "plain") / "checkpoints/last").tensors["model"]
    assert not torch.equal(plain["conv1.weight"], whole["conv1.weight"])
