"""The multi-label task: losses, headline figures, what it shows and writes of a prediction."""

import math

import numpy as np
import pytest
import torch

from anysize.data.loader import LoadedBatch
from anysize.registry import UserError
from anysize.tasks.base import create_task
from anysize.tasks.multilabel import MultiLabel, asymmetric_loss

CLASSES = ("cat", "dog", "fish", "bird")


def labels(count: int = 6, rows: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, rows, len(CLASSES), generator=generator) < 0.3).byte()
    return torch.randn(count, len(CLASSES), generator=generator), targets


def batch_of(images: torch.Tensor, targets: torch.Tensor, copies: int = 1) -> LoadedBatch:
    return LoadedBatch(images, targets, 8, copies, np.arange(len(images) // copies), 0, 0)


def reference_asymmetric(
    logits: torch.Tensor, true: torch.Tensor, negative: float, positive: float, clip: float
) -> float:
    total = 0.0
    for x, y in zip(logits.flatten().tolist(), true.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        shifted = max(p - clip, 0.0)
        total -= (1 - p) ** positive * math.log(p) if y else shifted**negative * math.log(1 - shifted)
    return total / len(logits)


def test_loss_is_summed_over_classes_and_the_mean_over_images() -> None:
    logits, targets = labels()
    true = targets.amax(1).double()
    p = logits.double().sigmoid()
    expected = -(true * p.log() + (1 - true) * (1 - p).log()).sum() / len(logits)
    for name in ("", "bce"):
        assert create_task("multilabel", CLASSES, loss=name).loss(logits, targets).item() == pytest.approx(
            expected.item(), rel=1e-6
        )


def test_auxiliary_logits_count_by_their_weight() -> None:
    logits, targets = labels()
    task = create_task("multilabel", CLASSES, auxiliary_weight=0.3)
    both = task.loss((logits, -logits), targets)
    torch.testing.assert_close(both, task.loss(logits, targets) + 0.3 * task.loss(-logits, targets))


@pytest.mark.parametrize("options", [(4.0, 0.0, 0.05), (2.0, 1.0, 0.0), (4.0, 1.0, 0.2), (0.0, 0.0, 0.1)])
def test_asymmetric_loss_is_its_equation(options: tuple[float, float, float]) -> None:
    logits, targets = labels(20)
    true = targets.amax(1)
    negative, positive, clip = options
    expected = reference_asymmetric(logits, true, *options)
    assert asymmetric_loss(logits, true, *options).item() == pytest.approx(expected, rel=1e-5)
    task = create_task(
        "multilabel", CLASSES, loss="asymmetric", gamma_negative=negative, gamma_positive=positive, clip=clip
    )
    assert task.loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_asymmetric_loss_is_that_of_its_equation() -> None:
    logits, targets = labels(3)
    true, logits = targets.amax(1), logits.requires_grad_()
    asymmetric_loss(logits, true, 4.0, 1.0, 0.05).backward()
    assert logits.grad is not None
    step = 1e-5
    for row, k in np.ndindex(*logits.shape):
        moved = [logits.detach().double().clone() for _ in range(2)]
        moved[0][row, k] += step
        moved[1][row, k] -= step
        up, down = (reference_asymmetric(x, true, 4.0, 1.0, 0.05) for x in moved)
        assert logits.grad[row, k].item() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("gammas", [(4.0, 0.0), (0.5, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_loss_is_finite_for_extreme_logits(gammas: tuple[float, float], clip: float) -> None:
    logits = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0]] * 2, requires_grad=True)
    true = torch.tensor([[0] * 5, [1] * 5])
    loss = asymmetric_loss(logits, true, *gammas, clip)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_options_of_a_loss_that_is_not_used_are_refused() -> None:
    with pytest.raises(UserError, match=r"set task\.loss"):
        create_task("multilabel", CLASSES, clip=0.1)
    with pytest.raises(UserError, match="expected bce or asymmetric"):
        create_task("multilabel", CLASSES, loss="focal")


def test_step_metric_is_the_batch_s_overall_f1() -> None:
    task = MultiLabel(CLASSES)
    logits, targets = labels()
    predicted, true = logits > 0, targets.amax(1) > 0
    tp, fp, fn = (predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum()
    torch.testing.assert_close(task.step_metrics(logits, targets)["of1"], 2 * tp / (2 * tp + fp + fn))
    assert task.step_metrics(torch.full((2, 4), -1.0), torch.zeros(2, 3, 4, dtype=torch.uint8))["of1"] == 0


def test_a_data_set_is_measured_with_copies_averaged() -> None:
    task = MultiLabel(CLASSES)
    logits, targets = labels(12)
    metrics, copied = task.metrics(torch.device("cpu")), task.metrics(torch.device("cpu"))
    for rows in (slice(0, 5), slice(5, 12)):
        task.measure(metrics, lambda x: x, batch_of(logits[rows], targets[rows]))
        two = torch.cat([logits[rows] + 1, logits[rows] - 1])
        task.measure(copied, lambda x: x, batch_of(two, targets[rows].repeat(2, 1, 1), copies=2))
    summary = task.summary(metrics)
    assert list(summary.values) == ["map", "cf1", "of1", "map_small", "map_medium", "map_large", "loss"]
    assert summary.values["map"] == summary.tables["all labels and by object size"]["all labels"]["mAP"]
    assert summary.values["map_large"] == summary.tables["all labels and by object size"]["large"]["mAP"]
    assert list(summary.tables["by class"]) == list(CLASSES)
    assert summary.values["loss"] == pytest.approx(task.loss(logits, targets).item(), rel=1e-5)
    assert task.summary(copied).values == pytest.approx(summary.values, rel=1e-5)
    assert task.best in summary.values


def test_the_loss_that_is_reported_does_not_depend_on_the_one_that_is_trained() -> None:
    logits, targets = labels()
    seen = []
    for name in ("bce", "asymmetric"):
        task = MultiLabel(CLASSES, loss=name)
        metrics = task.metrics(torch.device("cpu"))
        task.measure(metrics, lambda x: x, batch_of(logits, targets))
        seen.append(task.summary(metrics).values["loss"])
    assert seen[0] == seen[1]


def test_labels_without_areas_have_no_figures_by_size() -> None:
    task = MultiLabel(CLASSES)
    metrics = task.metrics(torch.device("cpu"))
    task.measure(metrics, lambda x: x, batch_of(*labels(rows=1)))
    assert list(task.summary(metrics).values) == ["map", "cf1", "of1", "loss"]


def test_a_prediction_as_shown_and_written() -> None:
    task = MultiLabel(CLASSES)
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    output, target = torch.tensor([1.0, 3.0, -0.5, -4.0]), torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0]]).byte()
    shown = task.show(output, target)
    assert [(label, kind) for label, _, kind in shown.lines] == [("dog", "right"), ("cat", "wrong"), ("fish", "missed")]
    assert [p for _, p, _ in shown.lines] == pytest.approx(output.sigmoid()[[1, 0, 2]].tolist())
    better = task.show(torch.tensor([-1.0, 3.0, 0.5, -4.0]), target)
    assert shown.score < better.score < 0
    sure = task.show(torch.tensor([5.0, 3.0, -0.5, -4.0]), target)  # the same labels, but a surer mistake
    assert sure.score < shown.score
    row = task.describe(output)
    assert row["labels"] == "dog;cat"
    assert row["p(fish)"] == pytest.approx(output.sigmoid()[2].item())
    assert task.describe(-output.abs())["labels"] == ""
    assert task.render(image, output) == {}
    predicted = task.predictions(lambda x: x, batch_of(output[None], target[None]))
    torch.testing.assert_close(list(predicted), [output])
