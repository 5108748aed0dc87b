"""Multi-label figures against their definitions, written anew in float64, and against torchmetrics where it agrees."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from anysize.tasks.label_metrics import (
    ALL_LABELS,
    BY_CLASS,
    OVERALL,
    TOP,
    LabelMetrics,
    MeanBinaryCrossEntropy,
    average_precision,
    label_tables,
)

CLASSES = tuple("abcde")
SIZES = ("small", "medium", "large")


def reference_ap(scores: list[float], positive: list[bool]) -> float:
    """Sum over thresholds of (recall gained) x precision, by counting anew at each threshold."""
    total = sum(positive)
    if not total:
        return math.nan
    thresholds = [math.inf, *sorted(set(scores), reverse=True)]

    def found(threshold: float) -> int:
        return sum(p for s, p in zip(scores, positive, strict=True) if s >= threshold)

    def passed(threshold: float) -> int:
        return sum(s >= threshold for s in scores)

    return sum((found(t) - found(before)) / total * found(t) / passed(t) for before, t in pairwise(thresholds))


def sample(count: int = 60, seed: int = 0, ties: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, 3, len(CLASSES), generator=generator) < 0.15).byte()
    logits = torch.randn(count, len(CLASSES), generator=generator) + 2 * targets.amax(1) - 1
    return (logits * 2).round() / 2 if ties else logits, targets


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_average_precision_is_its_definition_with_ties_and_left_out_images(rows: list[tuple[int, bool, bool]]) -> None:
    scores, positive, counted = zip(*rows, strict=True)
    columns = [torch.tensor(column)[:, None] for column in (scores, positive, counted)]
    everything = average_precision(columns[0].float(), columns[1])
    np.testing.assert_allclose(everything.item(), reference_ap(list(scores), list(positive)), rtol=1e-12)
    kept = [(s, p) for s, p, c in rows if c]
    some = average_precision(columns[0].float(), columns[1], columns[2])
    expected = reference_ap([s for s, _ in kept], [p for _, p in kept])
    np.testing.assert_allclose(some.item(), expected, rtol=1e-12)


def test_average_precision_equals_torchmetrics() -> None:
    logits, targets = sample(300, ties=False)
    true = targets.amax(1)
    theirs = multilabel_average_precision(logits, true.long(), len(CLASSES), average=None, thresholds=None)
    torch.testing.assert_close(average_precision(logits, true).float(), theirs, rtol=1e-5, atol=1e-6)


def test_sure_predictions_keep_their_order() -> None:
    """A sigmoid in float32 is 1 for all logits above 17: the ranking must not be made after it."""
    logits, targets = torch.tensor([[40.0], [30.0], [20.0]]), torch.tensor([[0], [1], [0]])
    assert average_precision(logits, targets).item() == pytest.approx(1 / 2)


def by_hand(predicted: np.ndarray, true: np.ndarray, negative: np.ndarray) -> dict[str, float]:
    """The abbreviations of the literature from loops over classes; `negative` says where a prediction is false."""
    per_class = []
    for k in range(true.shape[1]):
        tp = int((predicted[:, k] & true[:, k]).sum())
        fp = int((predicted[:, k] & negative[:, k]).sum())
        fn = int((~predicted[:, k] & true[:, k]).sum())
        per_class.append((tp, fp, fn))
    ratios = []
    for tp, fp, fn in per_class:
        p, r = (tp / (tp + fp), tp / (tp + fn)) if tp else (0.0, 0.0)
        ratios.append((p, r, 2 * p * r / (p + r) if tp else 0.0))
    cp, cr, f_c = np.mean(ratios, axis=0).tolist()
    tp, fp, fn = np.sum(per_class, axis=0).tolist()
    op, o_r = (tp / (tp + fp) if tp + fp else 0.0), (tp / (tp + fn) if tp + fn else 0.0)
    return {
        "CP": cp,
        "CR": cr,
        "CF1": 2 * cp * cr / (cp + cr) if cp + cr else 0.0,
        "mean F1": f_c,
        "OP": op,
        "OR": o_r,
        "OF1": 2 * op * o_r / (op + o_r) if op + o_r else 0.0,
    }


def test_f1_of_all_labels_and_of_the_three_highest() -> None:
    logits, targets = sample(ties=False)
    logits += 1  # so that some images have more than three predictions
    true = targets.amax(1).bool().numpy()
    overall = label_tables(logits, targets, CLASSES)[OVERALL]
    every = by_hand((logits > 0).numpy(), true, ~true)
    assert {key: overall[ALL_LABELS][key] for key in every} == pytest.approx(every)
    top = np.zeros_like(true)
    for row, scores in enumerate(logits.tolist()):
        for k in sorted(range(len(CLASSES)), key=lambda k: -scores[k])[:3]:
            top[row, k] = scores[k] > 0
    assert top.sum() < (logits > 0).sum()
    three = by_hand(top, true, ~true)
    assert {key: overall[TOP][key] for key in three} == pytest.approx(three)
    assert overall[ALL_LABELS]["CF1"] > overall[ALL_LABELS]["mean F1"]  # two things by one name in the literature
    f1 = multilabel_f1_score(logits.sigmoid(), targets.amax(1).long(), len(CLASSES), average="macro")
    assert overall[ALL_LABELS]["mean F1"] == pytest.approx(f1.item(), rel=1e-5)


def test_a_logit_of_zero_predicts_nothing() -> None:
    tables = label_tables(torch.zeros(2, 5), torch.ones(2, 1, 5, dtype=torch.uint8), CLASSES)
    assert tables[OVERALL][ALL_LABELS] == {"mAP": 1.0} | dict.fromkeys(by_hand(*np.zeros((3, 1, 5), dtype=bool)), 0.0)


def test_by_object_size_an_image_with_other_sizes_alone_does_not_count() -> None:
    logits, targets = sample(200)
    overall = label_tables(logits, targets, CLASSES)[OVERALL]
    predicted, true = (logits > 0).numpy(), targets.amax(1).bool().numpy()
    for row, size in enumerate(SIZES):
        positive = targets[:, row].bool().numpy()
        expected = by_hand(predicted, positive, ~true)
        assert {key: overall[size][key] for key in expected} == pytest.approx(expected)
        tp, fn = (predicted & positive).sum(0), (~predicted & positive).sum(0)
        assert overall[size]["CR"] == pytest.approx((tp / (tp + fn)).mean())  # the authors' counts
        ap = []
        for k in range(len(CLASSES)):
            kept = positive[:, k] | ~true[:, k]
            ap.append(reference_ap(logits[kept, k].tolist(), positive[kept, k].tolist()))
        assert overall[size]["mAP"] == pytest.approx(np.mean(ap))
        assert overall[size]["mAP"] != pytest.approx(overall[ALL_LABELS]["mAP"])


def test_classes_that_have_no_object_are_left_out_where_they_would_say_nothing() -> None:
    logits, targets = sample(ties=False)
    without = targets.clone()
    without[:, 0, 2] = 0  # class c has no small object,
    without[:, :, 4] = 0  # class e no object at all
    tables, all_five = label_tables(logits, without, CLASSES), label_tables(logits, targets, CLASSES)
    by_class = tables[BY_CLASS]
    assert math.isnan(by_class["e"]["AP"])
    assert by_class["e"]["images"] == 0
    assert tables[OVERALL][ALL_LABELS]["mAP"] == pytest.approx(np.mean([by_class[c]["AP"] for c in "abcd"]))
    # F1 over all classes is the authors', with 0 for a class that has none
    assert tables[OVERALL][ALL_LABELS]["CR"] == pytest.approx(sum(by_class[c]["recall"] for c in "abcd") / 5)
    assert by_class["a"] == all_five[BY_CLASS]["a"]
    small = {c: (logits[targets[:, 0, k] == 1, k] > 0).double().mean().item() for k, c in enumerate("abcde")}
    assert tables[OVERALL]["small"]["CR"] == pytest.approx(np.mean([small["a"], small["b"], small["d"]]))


def test_without_areas_there_are_no_figures_by_size() -> None:
    logits, targets = sample()
    tables = label_tables(logits, targets.amax(1, keepdim=True), CLASSES)
    assert list(tables[OVERALL]) == [ALL_LABELS, TOP]
    assert tables[OVERALL][ALL_LABELS] == label_tables(logits, targets, CLASSES)[OVERALL][ALL_LABELS]


def test_metrics_of_batches_and_of_several_processes_are_those_of_the_whole() -> None:
    logits, targets = sample(ties=False)
    true = targets.amax(1).double()
    whole = torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), true, reduction="none").sum(1).mean()
    halves = []
    for rows in (slice(0, 17), slice(17, None)):
        metrics = LabelMetrics(CLASSES), MeanBinaryCrossEntropy()
        for part in zip(logits[rows].split(7), targets[rows].split(7), strict=True):
            for metric in metrics:
                metric.update(*part)
        halves.append(metrics)
    for mine, other in zip(*halves, strict=True):
        mine.merge_state(other)
    tables, loss = (metric.compute() for metric in halves[0])
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    expected = label_tables(logits, targets, CLASSES)
    assert tables[OVERALL]["small"] == pytest.approx(expected[OVERALL]["small"])
    assert tables[BY_CLASS]["b"] == pytest.approx(expected[BY_CLASS]["b"])
