"""Evaluating over batches: each image once, copies averaged, the model left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from anysize.data.loader import LoadedBatch
from anysize.evaluation.evaluate import evaluate_batches, evaluating, on_device
from anysize.registry import UserError
from anysize.tasks.base import create_task

CPU = torch.device("cpu")


def batch(images: torch.Tensor, targets: list[int], copies: int = 1) -> LoadedBatch:
    indices = np.arange(len(targets))
    return LoadedBatch(images, torch.tensor(targets * copies), 4, copies, indices, epoch=0, step=0)


class Network(nn.Module):
    """Logits as the images say; dropout and batch norm show the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm1d(3).eval()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.calls += 1
        if images.isnan().any():
            raise RuntimeError("nan")
        return self.drop(images)


@pytest.mark.slow
def test_each_image_counts_once_however_the_batches_are_cut() -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    targets = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    model, task = Network(), create_task("classification", ["a", "b", "c"])
    one = evaluate_batches(model, task, [batch(logits, targets)], CPU)
    cut = evaluate_batches(model, task, [batch(logits[i : i + 3], targets[i : i + 3]) for i in range(0, 10, 3)], CPU)
    assert one.values["images"] == cut.values["images"] == 10
    assert one.values["top1"] == cut.values["top1"] == (logits.argmax(1) == torch.tensor(targets)).float().mean()
    assert one.values["loss"] == pytest.approx(cut.values["loss"])
    assert model.calls == 5
    assert cut.values["images_per_second"] > 0


def test_copies_are_no_images() -> None:
    good, bad = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    task = create_task("classification", ["a", "b", "c"])
    summary = evaluate_batches(Network(), task, [batch(torch.cat([bad, good]), [0], copies=2)], CPU)
    assert summary.values["images"] == 1
    assert summary.values["top1"] == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_an_image_there_is_nothing_to_say() -> None:
    with pytest.raises(UserError, match="no image can be evaluated"):
        evaluate_batches(Network(), create_task("classification", ["a", "b"]), [], CPU)


def test_each_module_gets_its_own_mode_back_also_after_an_error() -> None:
    model = Network()
    task = create_task("classification", ["a", "b", "c"])
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert (model.norm.training, model.drop.training, model.frozen.training) == (True, True, False)
    with pytest.raises(RuntimeError, match="nan"):
        evaluate_batches(model, task, [batch(torch.full((1, 3), torch.nan), [0])], CPU)
    assert (model.norm.training, model.drop.training, model.frozen.training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_tables_of_the_task_come_along() -> None:
    labels = torch.tensor([[[1, 0]], [[0, 1]]], dtype=torch.uint8)
    one = LoadedBatch(torch.tensor([[2.0, -1.0], [-1.0, 2.0]]), labels, 4, 1, np.arange(2), epoch=0, step=0)
    summary = evaluate_batches(Network(), create_task("multilabel", ["a", "b"]), [one], CPU)
    assert summary.values["map"] == pytest.approx(1.0)
    assert set(summary.tables["by class"]) >= {"a", "b"}


def test_moving_a_batch_keeps_where_images_lie() -> None:
    boxes, shapes = np.array([[0, 0, 2, 2]]), np.array([[5, 6]])
    mask = torch.zeros(1, 5, 6, dtype=torch.uint8)
    moved = on_device(LoadedBatch(torch.ones(1, 3, 4, 4), mask, 4, 1, np.arange(1), 0, 7, boxes, shapes), CPU)
    assert moved.step == 7
    assert moved.boxes is boxes
    assert moved.shapes is shapes
    assert torch.equal(moved.targets, mask)
