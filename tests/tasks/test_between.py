"""How far logits lie apart: each against a computation in float64 with numpy, for each task."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anysize.data.source import VOID
from anysize.tasks.base import create_task
from anysize.tasks.between import binary_divergence, smooth_l1, softmax_divergence


def logits(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray((p * np.log(p / q)).sum(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 6)])
def test_softmax_divergence(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = logits(0, *shape), logits(1, *shape)
    p, q = (softmax(each.double().numpy() / temperature) for each in (teacher, student))
    found = softmax_divergence(student, teacher, temperature)
    np.testing.assert_allclose(found.numpy(), temperature**2 * divergence(p, q), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_binary_divergence_sums_over_the_labels(temperature: float) -> None:
    student, teacher = logits(0, 5, 7), logits(1, 5, 7)
    p, q = (1 / (1 + np.exp(-each.double().numpy() / temperature)) for each in (teacher, student))
    each = sum(divergence(np.stack([p[:, k], 1 - p[:, k]], 1), np.stack([q[:, k], 1 - q[:, k]], 1)) for k in range(7))
    np.testing.assert_allclose(binary_divergence(student, teacher, temperature), temperature**2 * each, rtol=1e-4)


def test_smooth_l1_is_a_parabola_up_to_1_and_then_a_line() -> None:
    one, other = logits(0, 4, 3, 2), logits(1, 4, 3, 2)
    apart = np.abs(one.double().numpy() - other.double().numpy())
    expected = np.where(apart < 1, apart**2 / 2, apart - 0.5).mean(1)
    np.testing.assert_allclose(smooth_l1(one, other), expected, rtol=1e-5)


@pytest.mark.parametrize("between", [softmax_divergence, binary_divergence])
def test_extreme_logits_stay_finite_and_equal_ones_are_no_distance(between: Any) -> None:
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = between(student, torch.tensor([[-200.0, 200.0]]))
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    torch.testing.assert_close(between(logits(0, 3, 5), logits(0, 3, 5)), torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "between"), [("classification", softmax_divergence), ("multilabel", binary_divergence)]
)
def test_a_task_compares_its_images(name: str, between: Any) -> None:
    task, (student, teacher) = create_task(name, ["a", "b", "c"]), (logits(0, 4, 3), logits(1, 4, 3))
    found = task.compare(task.divergence, student, teacher, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found, between(student, teacher).mean())


def test_segmentation_compares_the_pixels_that_count_at_the_size_of_the_masks() -> None:
    task = create_task("segmentation", ["a", "b", "c"])
    student, teacher = logits(0, 2, 3, 6, 6), logits(1, 2, 3, 3, 3)
    targets = torch.randint(0, 3, (2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    targets[0, :4] = VOID
    larger = torch.nn.functional.interpolate(teacher, (6, 6), mode="bilinear")
    each = softmax_divergence(student, larger)
    found = task.compare(task.divergence, student, teacher, targets)
    torch.testing.assert_close(found, each[targets != VOID].mean())
    student[0, :, :4] = float("inf")  # where nothing counts nothing harms
    nothing = torch.full_like(targets, VOID)
    assert task.compare(smooth_l1, student, teacher, nothing) == 0
