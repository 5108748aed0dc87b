"""Kinds of targets: what each says of its targets, and that one more needs nothing but its own file."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from anysize.data.augment.transform import Sample, Transform
from anysize.data.kinds.base import TARGET_KINDS, TargetKind, create_kind
from anysize.data.loader import LoadedBatch, PlanLoader, sequential_batches
from anysize.data.source import ArraySource, Source
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError


def test_each_kind_says_which_classes_an_image_has() -> None:
    targets = {
        "class": np.int64(2),
        "labels": np.array([[0, 0, 1, 0], [1, 0, 0, 0]], np.uint8),
        "masks": np.array([[0, 255], [2, 2]], np.uint8),
    }
    present = {name: create_kind(name).classes_in(target, 4).tolist() for name, target in targets.items()}
    assert present == {
        "class": [False, False, True, False],
        "labels": [True, False, True, False],
        "masks": [True, False, True, False],
    }


@pytest.mark.parametrize("name", ["class", "labels", "masks"])
def test_where_nothing_is_known_there_are_as_many_targets_as_images(name: str) -> None:
    kind = create_kind(name)
    assert len(kind.unknown(5)) == 5
    assert len(kind.unknown(5)[np.array([3, 1])]) == 2
    if name == "masks":
        assert np.array_equal(kind.unknown(5).read(4, (2, 3)), np.full((2, 3), 255))


def test_a_limit_keeps_the_first_images_and_of_classes_as_many_of_each() -> None:
    source = ArraySource(
        torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), np.array([0, 0, 0, 0, 1, 1]), ("a", "b"), "six"
    )
    assert create_kind("class").first(source, 4).targets.tolist() == [0, 0, 1, 1]
    assert create_kind("labels").first(source, 4).targets.tolist() == [0, 0, 0, 0]
    for name in ("class", "masks"):
        assert len(create_kind(name).first(source, 0)) == len(create_kind(name).first(source, 9)) == 6


def test_a_mask_is_shown_without_its_padding() -> None:
    batch = LoadedBatch(
        torch.zeros(1, 3, 4, 4), torch.arange(16).view(1, 4, 4), 4, 1, np.arange(1), 0, 0, shapes=np.array([[2, 3]])
    )
    assert create_kind("masks").target_of(batch, 0).tolist() == [[0, 1, 2], [4, 5, 6]]
    assert create_kind("class").target_of(batch, 0).shape == (4, 4)


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown kind of targets 'mask': did you mean 'masks'"):
        create_kind("mask")


class Resized(Transform):
    """An image and points in it, (P, 2) pixels from left and top, at the batch's size."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def sample(self, image: Tensor, target: Tensor, batch: object, stored: object = None) -> Sample:
        scale = batch.size / torch.tensor([image.shape[2], image.shape[1]])
        return Sample(F.resize(image, [batch.size, batch.size])[None], (target * scale)[None])


@pytest.fixture
def keypoints() -> Iterator[TargetKind]:
    @TARGET_KINDS.register("keypoints")
    class Keypoints(TargetKind):
        in_words = "keypoints"

        def eval_transform(self, preprocessing: Preprocessing, crops: int, copies: int) -> Transform:
            return Resized(preprocessing)

        def classes_in(self, target: np.ndarray, count: int) -> np.ndarray:
            return np.ones(count, bool)

        def unknown(self, images: int) -> np.ndarray:
            return np.zeros((images, 2, 2), np.float32)

    yield create_kind("keypoints")
    del TARGET_KINDS._builders["keypoints"]


def test_a_kind_of_ones_own_is_loaded_without_a_change_elsewhere(keypoints: TargetKind) -> None:
    points = np.array([[[0.0, 4.0], [8.0, 12.0]], [[1.0, 1.0], [2.0, 6.0]], [[3.0, 0.0], [7.0, 3.0]]], np.float32)
    source: Source = ArraySource(torch.zeros(3, 16, 8, 3, dtype=torch.uint8), points, ("left", "right"), "points")
    transform = keypoints.eval_transform(Preprocessing(4, resize="stretch"), crops=1, copies=1)
    for workers in (0, 2):
        first, last = PlanLoader(source, transform, workers=workers).load(sequential_batches(3, 4, 2))
        assert first.images.shape == (2, 3, 4, 4)
        assert first.targets.tolist() == [[[0.0, 1.0], [4.0, 3.0]], [[0.5, 0.25], [1.0, 1.5]]]
        assert last.targets.tolist() == [[[1.5, 0.0], [3.5, 0.75]]]
