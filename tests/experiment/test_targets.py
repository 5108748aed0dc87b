"""What a recipe's task decides: targets, transforms, options; and which settings it refuses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from loading import eval_batches

from anysize.data.augment.joint import JointEvalTransform, JointTrainTransform
from anysize.data.augment.square import EvalTransform
from anysize.data.catalog import build_preprocessing
from anysize.data.kinds.base import TARGET_KINDS
from anysize.data.loader import LoadedBatch
from anysize.data.spread import spread
from anysize.experiment.pictures import displayed
from anysize.experiment.targets import build_task, eval_transform, info_of, kind_of, open_split, train_transform
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe, load_recipe
from anysize.registry import UserError
from anysize.sizes.batch import Batch

Make = Callable[..., Recipe]
RECIPES = {
    "classification": "quickstart",
    "multilabel": "quickstart-multilabel",
    "segmentation": "quickstart-segmentation",
}


def recipe(task: str, **changes: object) -> Recipe:
    return load_recipe(RECIPES[task], {key.replace("__", "."): value for key, value in changes.items()})


def preprocessing(of: Recipe) -> Preprocessing:
    return build_preprocessing(of.data, info_of(of), classes=("background", "cat"))


@pytest.mark.parametrize(
    ("task", "targets", "shape"),
    [("classification", "class", (3,)), ("multilabel", "labels", (3, 3, 10)), ("segmentation", "masks", (3, 128, 128))],
)
def test_data_is_read_with_the_targets_that_the_task_learns(task: str, targets: str, shape: tuple[int, ...]) -> None:
    own = recipe(task, data__limit=3)
    assert type(kind_of(own)) is TARGET_KINDS[targets]
    source = open_split(own, "validation")
    assert source.targets.shape == shape
    with pytest.raises(UserError, match=r"choose another task\.name"):
        open_split(recipe(task, data__name="scenes" if task == "classification" else "fashion-mini"), "validation")


def test_masks_are_augmented_and_evaluated_with_their_images() -> None:
    own = recipe("segmentation", data__limit=2, augment__color_jitter=0.3)
    source = open_split(own, "train")
    train, evaluate = train_transform(own, preprocessing(own)), eval_transform(own, preprocessing(own))
    assert isinstance(train, JointTrainTransform)
    assert train.augment.crop == "rescale"
    assert train.augment.rescale == own.augment.rescale
    assert train.seed == own.training.seed
    assert isinstance(evaluate, JointEvalTransform)
    sample = train.sample(*source.read(0)[:2], Batch(0, 64, 2, np.array([0])))
    assert sample.pixels.shape == (2, 3, 64, 64)
    assert sample.targets.shape == (2, 64, 64)


def test_crops_are_taken_where_there_are_no_masks() -> None:
    own = recipe("multilabel", evaluation__crops="5", data__limit=2, data__resize="center-crop")
    transform = eval_transform(own, preprocessing(own))
    assert isinstance(transform, EvalTransform)
    (batch,) = eval_batches(open_split(own, "validation"), transform, 64, 2)
    assert batch.copies == 5
    assert batch.targets.shape == (10, 3, 10)


@pytest.mark.parametrize("changes", [{"evaluation__crops": "10"}, {"evaluation__copies": 2}])
def test_crops_and_copies_are_refused_for_masks(changes: dict[str, object]) -> None:
    own = recipe("segmentation", **changes)
    (key,) = changes
    with pytest.raises(
        UserError, match=rf"{key.replace('__', '.')} is \d+, .*expected 1: evaluation\.scales and .*flip"
    ):
        eval_transform(own, preprocessing(own))


@pytest.mark.parametrize(
    ("task", "key", "value", "takers"),
    [
        ("classification", "task__loss", "asymmetric", "multilabel"),
        ("classification", "task__clip", 0.1, "multilabel"),
        ("classification", "data__areas", (16.0, 64.0), "segmentation"),
        ("multilabel", "task__label_smoothing", 0.1, "classification"),
        ("multilabel", "evaluation__scales", (0.5, 1.0), "segmentation"),
        ("segmentation", "augment__cutmix", 0.2, "classification and multilabel"),
        ("segmentation", "task__gamma_negative", 2.0, "multilabel"),
    ],
)
def test_a_setting_of_another_task_is_refused(task: str, key: str, value: object, takers: str) -> None:
    own, name = recipe(task, **{key: value}), key.replace("__", ".")
    with pytest.raises(UserError, match=rf"^{name} is set, but the task '{task}' does not use it \({takers} would\)"):
        build_task(own, preprocessing(recipe(task)))


def test_own_settings_reach_the_task() -> None:
    logits, mask = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    own = recipe("segmentation", task__auxiliary_weight=2.0)
    task = build_task(own, preprocessing(own))
    torch.testing.assert_close(task.loss((logits, logits), mask), 3 * task.loss(logits, mask))
    own = recipe("multilabel", task__loss="asymmetric", task__clip=0.9, task__auxiliary_weight=0.0)
    labels = torch.zeros(1, 3, 2, dtype=torch.uint8)
    assert build_task(own, preprocessing(own)).loss(torch.ones(1, 2), labels) == 0  # p = 0.73 is clipped away
    own = recipe("classification", task__label_smoothing=0.5)
    sure = torch.tensor([[50.0, 0.0]])
    assert build_task(own, preprocessing(own)).loss(sure, torch.tensor([0])) == pytest.approx(50 * 0.25)


def test_areas_of_objects_are_the_data_sets_unless_they_are_set() -> None:
    """A mask with an object of 300 pixels: medium among the scenes, small where areas are COCO's."""
    mask = torch.zeros(1, 40, 40, dtype=torch.uint8)
    mask[0, :15, :20] = 1
    batch = LoadedBatch(torch.zeros(1, 3, 40, 40), mask, 40, 1, np.arange(1), 0, 0)
    for changes, size in (
        ({}, "medium"),
        ({"data__areas": (1024.0, 9216.0)}, "small"),
        ({"data__areas": (9, 99)}, "large"),
    ):
        own = recipe("segmentation", **changes)
        task = build_task(own, preprocessing(own))
        metrics = task.metrics(torch.device("cpu"))
        task.measure(metrics, lambda images: torch.zeros(1, 2, 40, 40), batch)
        objects = task.summary(metrics).tables["by object size"]
        assert {name for name, row in objects.items() if row["objects"]} == {size}


def test_windows_are_as_large_as_the_recipe_says_at_the_base_size() -> None:
    own = recipe("segmentation", evaluation__window=64)
    task = build_task(own, preprocessing(own))  # base 128
    for size, expected in ((128, 64), (64, 32)):
        seen = []

        def network(images: torch.Tensor, seen: list[tuple[int, ...]] = seen) -> torch.Tensor:
            seen.append(tuple(images.shape[2:]))
            return torch.zeros(len(images), 2, *images.shape[2:])

        mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
        batch = LoadedBatch(
            torch.zeros(1, 3, size, size), mask, size, 1, np.arange(1), 0, 0, np.array([[0, 0, size, size]]),
            np.array([[128, 128]]),
        )  # fmt: skip
        (output,) = task.predictions(network, batch)
        assert set(seen) == {(expected, expected)}
        assert output.shape == (2, 128, 128)


def test_the_images_of_the_report_are_spread_evenly_and_each_is_another() -> None:
    assert spread(1000, 256).tolist() == sorted(set(spread(1000, 256).tolist()))
    assert len(spread(1000, 256)) == 256
    assert spread(1000, 256)[-1] > 990
    assert spread(3, 256).tolist() == [0, 1, 2]
    assert spread(0, 256).tolist() == []


def test_grey_images_are_displayed_in_grey() -> None:
    source = open_split(recipe("classification", data__limit=1), "validation")
    shown = displayed(source, 0)
    assert shown.shape == (28, 28, 3)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.repeat(source.image(0).numpy().transpose(1, 2, 0), 3, axis=2))
    scene = open_split(recipe("multilabel", data__limit=1), "validation")
    assert np.array_equal(displayed(scene, 0), scene.image(0).permute(1, 2, 0).numpy())
