"""The classification task: what it measures, what it says and shows of a prediction."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anysize.data.loader import LoadedBatch
from anysize.tasks.base import create_task

NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")
CPU = torch.device("cpu")


def batch(logits: torch.Tensor, targets: list[int], copies: int = 1) -> LoadedBatch:
    """A batch whose images are the logits that the network `as_they_are` gives."""
    indices = np.arange(len(targets))
    return LoadedBatch(logits, torch.tensor(targets * copies), 8, copies, indices, epoch=0, step=0)


def as_they_are(images: torch.Tensor) -> torch.Tensor:
    return images


def random_logits(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, len(NAMES), generator=torch.Generator().manual_seed(seed))


def test_the_summary_is_that_of_all_images_once() -> None:
    task, logits = create_task("classification", NAMES, label_smoothing=0.3), random_logits(11)
    targets = [i % 7 for i in range(11)]
    metrics = task.metrics(CPU)
    for part in (slice(0, 4), slice(4, 5), slice(5, 11)):
        task.measure(metrics, as_they_are, batch(logits[part], targets[part]))
    summary = task.summary(metrics)
    ranks = [(row > row[true]).sum().item() for row, true in zip(logits, targets, strict=True)]
    assert summary.values["top1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]))
    assert summary.values["top5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    expected = F.cross_entropy(logits, torch.tensor(targets)).item()  # without smoothing
    assert summary.values["loss"] == pytest.approx(expected)
    assert summary.tables == {}


def test_copies_of_an_image_are_averaged_before_they_are_judged() -> None:
    task = create_task("classification", NAMES[:3])
    first = torch.tensor([[9.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    second = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0]])  # the first copies of all come first
    both = batch(torch.cat([first, second]), [0, 2], copies=2)
    metrics = task.metrics(CPU)
    task.measure(metrics, as_they_are, both)
    summary = task.summary(metrics)
    assert summary.values["top1"] == 1.0  # 9 + 0 against 0 + 4, and 0 + 3 against 2 + 0
    assert "top5" not in summary.values
    expected = F.cross_entropy((first + second) / 2, torch.tensor([0, 2])).item()
    assert summary.values["loss"] == pytest.approx(expected)
    outputs = list(task.predictions(as_they_are, both))
    assert len(outputs) == 2
    torch.testing.assert_close(torch.stack(outputs), (first + second) / 2)


def test_outputs_are_float32_and_auxiliary_ones_do_not_count() -> None:
    task = create_task("classification", NAMES)
    logits = random_logits(2)

    def network(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.bfloat16(), torch.zeros_like(images)

    outputs = torch.stack(list(task.predictions(network, batch(logits, [0, 1]))))
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, logits.bfloat16().float())


@pytest.mark.parametrize(
    ("true", "kinds"),
    [
        ("bee", {"bee": "right", "dog": "wrong", "ant": "wrong"}),
        ("dog", {"bee": "wrong", "dog": "missed", "ant": "wrong"}),
        ("gnu", {"bee": "wrong", "dog": "wrong", "ant": "wrong", "gnu": "missed"}),
    ],
)
def test_what_is_shown_of_a_prediction(true: str, kinds: dict[str, str]) -> None:
    output = torch.tensor([1.0, 3.0, -1.0, 2.0, -1.5, -2.0, -3.0])
    probabilities = output.softmax(0)
    shown = create_task("classification", NAMES).show(output, torch.tensor(NAMES.index(true)))
    assert shown.score == pytest.approx(probabilities[NAMES.index(true)].item())
    assert [label for label, _, _ in shown.lines][:3] == ["bee", "dog", "ant"]
    assert {label: kind for label, _, kind in shown.lines if label in kinds} == kinds
    assert len(shown.lines) == (6 if true == "gnu" else 5)  # the true class is always among them
    for label, value, _ in shown.lines:
        assert value == pytest.approx(probabilities[NAMES.index(label)].item())
    assert shown.panels == {}


def test_a_row_says_the_class_and_all_probabilities() -> None:
    task = create_task("classification", NAMES[:3])
    row = task.describe(torch.tensor([0.0, math.log(3), 0.0]))
    assert row["class"] == "bee"
    assert row["probability"] == pytest.approx(0.6)
    assert list(row)[2:] == ["p(ant)", "p(bee)", "p(cat)"]
    assert [row[f"p({name})"] for name in NAMES[:3]] == pytest.approx([0.2, 0.6, 0.2])
    assert task.render(np.zeros((4, 4, 3), np.uint8), torch.zeros(3)) == {}
