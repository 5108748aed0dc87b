"""The confusion matrix and what is read off it, against loops over pixels and against torchmetrics."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassConfusionMatrix

from anysize.registry import UserError
from anysize.tasks.confusion import (
    MaskConfusion,
    class_accuracy,
    confusion_matrix,
    intersection_over_union,
    pixel_accuracy,
)

VOID = 255


def by_loop(pairs: Iterable[tuple[int, int]], num_classes: int) -> list[list[int]]:
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for predicted, true in pairs:
        if true != VOID:
            matrix[true][predicted] += 1
    return matrix


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_matrix_is_a_count_of_pixels(data: st.DataObject) -> None:
    classes = data.draw(st.sampled_from([1, 2, 21, 127, 128, 255]))  # the pairs of 127 classes still fit into 16 bits
    number = st.integers(0, classes - 1)
    pixels = data.draw(st.lists(st.tuples(number, number | st.just(VOID)), max_size=30))
    dtypes = data.draw(st.tuples(*[st.sampled_from([torch.uint8, torch.int32, torch.int64])] * 2))
    predictions, targets = (
        torch.tensor([pixel[i] for pixel in pixels], dtype=dtype)[None] for i, dtype in enumerate(dtypes)
    )
    assert confusion_matrix(predictions, targets, classes).tolist() == by_loop(pixels, classes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_matrix_equals_torchmetrics(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(21, (2, 50, 40), generator=generator).to(dtype)
    targets = torch.randint(21, (2, 50, 40), generator=generator).to(dtype)
    targets[:, ::7] = VOID
    theirs = MulticlassConfusionMatrix(21, ignore_index=VOID)
    theirs.update(predictions, targets)
    assert torch.equal(confusion_matrix(predictions, targets, 21), theirs.compute())


@pytest.mark.parametrize(
    ("predictions", "targets", "says"),
    [
        ([0, 3], [0, 1], "a prediction is class 3; expected 0 to 2"),
        ([0, 1], [0, 7], "a mask holds class 7; expected 0 to 2, or 255"),
        ([0, 1], [0, -1], "targets go from -1 to 0"),
        ([0, 1], [0, 300], "targets go from 0 to 300"),
        ([0, VOID], [0, 1], "a prediction is class 255"),
        ([0.0, 1.0], [0, 1], "predictions are torch.float32; expected class numbers"),
        ([0, 1, 1], [0, 1], r"predictions are \(3,\) and targets \(2,\)"),
    ],
)
def test_what_is_no_class_is_refused(predictions: list[float], targets: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        confusion_matrix(torch.tensor(predictions), torch.tensor(targets), 3)
    narrow = torch.tensor(targets)
    if narrow.amin() >= 0 and narrow.amax() <= VOID and says.startswith("a "):
        with pytest.raises(UserError, match=says):
            confusion_matrix(torch.tensor(predictions).byte(), narrow.byte(), 3)


def test_iou_leaves_out_classes_that_occur_nowhere() -> None:
    #                        predicted: 0  1  2  3
    matrix = torch.tensor([[5, 1, 0, 0], [2, 3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    iou = intersection_over_union(matrix)
    torch.testing.assert_close(iou, torch.tensor([5 / 8, 3 / 7, 0.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(iou.nanmean(), torch.tensor((5 / 8 + 3 / 7) / 3))
    torch.testing.assert_close(class_accuracy(matrix), torch.tensor([5 / 6, 3 / 5, 0.0, math.nan]), equal_nan=True)
    assert pixel_accuracy(matrix).item() == pytest.approx(8 / 12)


def objects_by_loop(images: list[tuple[np.ndarray, np.ndarray]], areas: tuple[float, float]) -> dict[str, list[float]]:
    """IoU of each class in each image that truly holds it, but for the background, by the size of its true area."""
    found: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for predicted, true in images:
        valid = true != VOID
        for number in set(true[valid].tolist()) - {0}:
            mine, other = (true == number) & valid, (predicted == number) & valid
            area = mine.sum()
            size = "small" if area < areas[0] else "medium" if area < areas[1] else "large"
            found[size].append((mine & other).sum() / (mine | other).sum())
    return found


def images(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(12):
        height, width = random.integers(5, 20, 2)
        true = random.choice([0, 1, 2, 3, VOID], size=(height, width), p=[0.4, 0.35, 0.15, 0.02, 0.08]).astype(np.uint8)
        guessed = random.integers(0, 4, (height, width)).astype(np.uint8)
        predicted = np.where(random.random((height, width)) < 0.7, np.where(true == VOID, 1, true), guessed)
        pairs.append((predicted, true))
    return pairs


def test_iou_by_object_size_is_that_of_each_class_within_its_image() -> None:
    pairs, areas = images(), (12, 40)
    metric = MaskConfusion(4, areas)
    for predicted, true in pairs:
        metric.update(torch.from_numpy(predicted), torch.from_numpy(true))
    result, expected = metric.compute(), objects_by_loop(pairs, areas)
    assert result["objects"].tolist() == [len(values) for values in expected.values()]
    assert min(result["objects"].tolist()) > 2
    np.testing.assert_allclose(result["object_iou"], [np.mean(values) for values in expected.values()], rtol=1e-6)
    whole = by_loop(((p, t) for pair in pairs for p, t in zip(*(a.flat for a in pair), strict=True)), 4)
    assert result["matrix"].tolist() == whole


@pytest.mark.parametrize(("area", "size"), [(3, 0), (4, 1), (8, 1), (9, 2)])
def test_an_area_that_equals_a_limit_is_above_it(area: int, size: int) -> None:
    true = torch.zeros(1, 20, dtype=torch.uint8)
    true[0, :area] = 1
    metric = MaskConfusion(2, areas=(4, 9))
    metric.update(true, true)
    assert metric.compute()["objects"].nonzero().flatten().tolist() == [size]


def test_the_first_class_is_an_object_where_it_is_no_background() -> None:
    true = torch.zeros(2, 2, dtype=torch.uint8)
    for background, objects in ((0, 0), (None, 1)):
        metric = MaskConfusion(2, areas=(100, 200), background=background)
        metric.update(true, true)
        assert metric.compute()["objects"].sum() == objects


def test_matrices_of_several_processes_add_up() -> None:
    pairs = images()
    whole, *parts = (MaskConfusion(4, (12, 40)) for _ in range(3))
    for number, (predicted, true) in enumerate(pairs):
        for metric in (whole, parts[number % 2]):
            metric.update(torch.from_numpy(predicted), torch.from_numpy(true))
    parts[0].merge_state(parts[1])
    merged, expected = parts[0].compute(), whole.compute()
    assert torch.equal(merged["matrix"], expected["matrix"])
    torch.testing.assert_close(merged["object_iou"], expected["object_iou"])
