"""The segmentation task: loss, headline figures, what it shows and writes of a prediction."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anysize.data.loader import LoadedBatch
from anysize.data.palette import colorize, distinct_colors, overlay
from anysize.registry import UserError
from anysize.tasks.base import create_task
from anysize.tasks.segmentation import Segmentation, pixel_cross_entropy

CLASSES = ("background", "cat", "dog", "fish")
VOID = 255
CPU = torch.device("cpu")


def masks(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(4, shape, generator=generator, dtype=torch.uint8)
    classes[torch.rand(shape, generator=generator) < 0.2] = VOID
    return classes


def logits_for(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference_loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    log_p = logits.double().log_softmax(1)
    costs = [
        -log_p[n, int(targets[n, y, x]), y, x].item()
        for n, y, x in np.ndindex(*targets.shape)
        if targets[n, y, x] != VOID
    ]
    return sum(costs) / len(costs)


def test_loss_is_the_mean_over_pixels_that_are_not_void() -> None:
    logits, targets = logits_for(2, 4, 5, 3), masks(2, 5, 3)
    task = create_task("segmentation", CLASSES, auxiliary_weight=0.5)
    assert task.loss(logits, targets).item() == pytest.approx(reference_loss(logits, targets), rel=1e-5)
    both = task.loss((logits, 2 * logits), targets).item()
    expected = reference_loss(logits, targets) + 0.5 * reference_loss(2 * logits, targets)
    assert both == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(task.loss(logits.log_softmax(1), targets), task.loss(logits, targets))


def test_void_alone_costs_nothing() -> None:
    logits = logits_for(2, 4, 3, 3).requires_grad_()
    loss = pixel_cross_entropy(logits, torch.full((2, 3, 3), VOID, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_maps_of_another_size_are_brought_to_the_mask() -> None:
    logits, targets = logits_for(1, 4, 3, 3), masks(1, 6, 6)
    large = F.interpolate(logits, (6, 6), mode="bilinear", align_corners=False)
    task = Segmentation(CLASSES)
    torch.testing.assert_close(task.loss(logits, targets), task.loss(large, targets))
    right = (large.argmax(1) == targets)[targets != VOID].float().mean()
    torch.testing.assert_close(task.step_metrics(logits, targets)["pixel_accuracy"], right)
    nothing = torch.full_like(targets, VOID)
    assert task.step_metrics(logits, nothing)["pixel_accuracy"] == 0


def one_hot(predicted: torch.Tensor) -> torch.Tensor:
    return F.one_hot(predicted.long(), len(CLASSES)).movedim(-1, -3).float() * 10


def test_a_data_set_is_measured_at_the_images_own_sizes() -> None:
    """Two images of different sizes in a batch: what pads their masks counts nowhere."""
    truths = [masks(6, 4), masks(3, 8, seed=2)]
    guesses = [torch.where(masks(6, 4, seed=3) < 2, truths[0] % 4, 1), truths[1].clamp(max=3)]
    targets = torch.full((2, 6, 8), VOID, dtype=torch.uint8)
    targets[0, :, :4], targets[1, :3] = truths[0], truths[1]
    targets[0, :, 4:] = 2  # not to be looked at
    canvas = torch.zeros(2, 4, 8, 8)
    boxes = np.array([[1, 2, 6, 4], [4, 0, 3, 8]])
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        canvas[row, :, top : top + height, left : left + width] = one_hot(guesses[row])
    batch = LoadedBatch(canvas, targets, 8, 1, np.arange(2), 0, 0, boxes, np.array([[6, 4], [3, 8]]))
    task = Segmentation(CLASSES, areas=(4, 6))
    metrics = task.metrics(CPU)
    task.measure(metrics, lambda x: x, batch)
    summary = task.summary(metrics)

    true = np.concatenate([t.numpy().ravel() for t in truths])
    guess = np.concatenate([g.numpy().ravel() for g in guesses])[true != VOID]
    true = true[true != VOID]
    iou = [((guess == k) & (true == k)).sum() / ((guess == k) | (true == k)).sum() for k in range(4)]
    accuracy = [(guess == k)[true == k].mean() for k in range(4)]
    assert summary.values["mean_iou"] == pytest.approx(np.mean(iou), rel=1e-6)
    assert summary.values["pixel_accuracy"] == pytest.approx((guess == true).mean())
    by_class = summary.tables["by class"]
    assert [by_class[name]["IoU"] for name in CLASSES] == pytest.approx(iou)
    assert [by_class[name]["accuracy"] for name in CLASSES] == pytest.approx(accuracy)
    assert [by_class[name]["share of pixels"] for name in CLASSES] == pytest.approx(
        [(true == k).mean() for k in range(4)]
    )
    assert by_class["mean of the classes"]["accuracy"] == pytest.approx(np.mean(accuracy))
    by_size: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for truth, predicted in zip(truths, guesses, strict=True):
        for k in (1, 2, 3):
            mine, other = truth == k, (predicted == k) & (truth != VOID)
            size = "small" if mine.sum() < 4 else "medium" if mine.sum() < 6 else "large"
            by_size[size].append((mine & other).sum().item() / (mine | other).sum().item())
    for size, values in by_size.items():
        assert summary.tables["by object size"][size]["objects"] == len(values) > 0
        assert summary.values[f"iou_{size}"] == pytest.approx(np.mean(values))
    costs = [reference_loss(one_hot(g)[None], t[None]) for g, t in zip(guesses, truths, strict=True)]
    pixels = [int((t != VOID).sum()) for t in truths]
    assert summary.values["loss"] == pytest.approx(np.average(costs, weights=pixels), rel=1e-5)
    assert list(summary.values) == ["mean_iou", "pixel_accuracy", "iou_small", "iou_medium", "iou_large", "loss"]
    assert task.best in summary.values


def test_a_class_that_occurs_nowhere_is_left_out_of_the_means() -> None:
    task = Segmentation(CLASSES)
    metrics = task.metrics(CPU)
    mask = torch.tensor([[[0, 1], [1, VOID]]], dtype=torch.uint8)
    task.measure(metrics, lambda x: x, LoadedBatch(one_hot(mask.clamp(max=3)), mask, 2, 1, np.arange(1), 0, 0))
    summary = task.summary(metrics)
    assert summary.values["mean_iou"] == 1
    assert math.isnan(summary.tables["by class"]["dog"]["IoU"])
    assert math.isnan(summary.values["iou_large"])
    assert summary.tables["by object size"]["small"] == {"IoU": 1.0, "objects": 1}


def test_scales_and_mirroring_reach_the_measurement() -> None:
    """A network that only knows the right half: mirrored, it knows both."""
    mask = torch.ones(1, 4, 4, dtype=torch.uint8)

    def network(images: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(1, 4, *images.shape[-2:])
        out[:, 0] = 1
        out[:, 1, :, images.shape[-1] // 2 :] = 9
        return out

    batch = LoadedBatch(torch.zeros(1, 3, 4, 4), mask, 4, 1, np.arange(1), 0, 0)
    seen = {}
    for flip in (False, True):
        task = create_task("segmentation", CLASSES, flip=flip, scales=(1.0, 2.0))
        metrics = task.metrics(CPU)
        task.measure(metrics, network, batch)
        seen[flip] = task.summary(metrics).values["pixel_accuracy"]
    assert seen == {False: 0.5, True: 1.0}


def test_a_prediction_as_shown_and_written() -> None:
    image = np.full((3, 4, 3), 100, dtype=np.uint8)
    true = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, VOID, VOID]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 3], [3, 3, 3, 3]], dtype=torch.uint8)
    task, output = Segmentation(CLASSES), one_hot(predicted)
    shown = task.show(output, true)
    assert shown.lines == [
        ("background", 1.0, "right"),
        ("cat", 0.75, "right"),
        ("dog", 0.0, "missed"),
        ("fish", 0.0, "wrong"),
    ]
    assert shown.score == pytest.approx(1.75 / 4)
    np.testing.assert_array_equal(shown.panels["truth"], colorize(true.numpy(), distinct_colors()))
    np.testing.assert_array_equal(shown.panels["prediction"], colorize(predicted.numpy(), distinct_colors()))
    assert list(shown.legend) == ["background", "cat", "dog", "fish", "void"]
    assert shown.legend["cat"] == tuple(shown.panels["truth"][0, 2])
    row = task.describe(output)
    assert row.pop("classes") == "fish;background;cat"
    shares = {"share(background)": 4 / 12, "share(cat)": 3 / 12, "share(dog)": 0, "share(fish)": 5 / 12}
    assert row == pytest.approx(shares)
    pictures = task.render(image, output)
    assert pictures["masks"].mode == "P"
    np.testing.assert_array_equal(np.array(pictures["masks"]), predicted.numpy())
    np.testing.assert_array_equal(np.array(pictures["overlays"]), overlay(image, predicted.numpy()))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.areas is \(9, 4\)"):
        create_task("segmentation", CLASSES, areas=(9, 4))
    with pytest.raises(UserError, match=r"evaluation\.scales"):
        create_task("segmentation", CLASSES, scales=())
    with pytest.raises(UserError, match=r"evaluation\.overlap is 0\.5, but evaluation\.window is 0"):
        create_task("segmentation", CLASSES, overlap=0.5)
    create_task("segmentation", CLASSES, overlap=0.5, window=64)


def test_parts_of_a_batch_count_by_their_pixels_that_are_not_void() -> None:
    task = create_task("segmentation", CLASSES)
    targets = masks(4, 6, 5)
    targets[1] = 255
    logits = logits_for(4, len(CLASSES), 6, 5)
    whole = task.loss(logits, targets) * task.weight(targets)
    parts = [task.loss(logits[i : i + 1], targets[i : i + 1]) * task.weight(targets[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(sum(parts), whole)
    assert task.weight(targets[1:2]) == 0
