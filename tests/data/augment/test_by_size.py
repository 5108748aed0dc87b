"""Augmentation by size and epoch: each batch has the pixels that plain settings of its size and epoch would give."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from anysize.data.augment.by_size import augment_at, last_epoch, mixing_at
from anysize.data.augment.joint import JointTrainTransform
from anysize.data.augment.operations import Augmentation
from anysize.data.augment.plain import TrainTransform
from anysize.data.augment.scheduled import train_transform
from anysize.data.settings import AugmentSettings
from anysize.preprocessing import Preprocessing
from anysize.registry import UserError
from anysize.sizes.batch import Batch
from anysize.tasks.base import create_task

PLAIN = Preprocessing(28, (0.5,) * 3, (0.25,) * 3, resize="stretch")
IMAGES = torch.randint(0, 256, (6, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batch(size: int, epoch: int) -> Batch:
    return Batch(epoch, size, 2, np.array([4, 0, 3]))


def test_values_lie_on_straight_lines_and_multiples_multiply() -> None:
    augment = AugmentSettings(
        crop="random-resized", autoaugment="randaugment", cutout=8, mixup=0.2,
        by_size={"scale": ((14, 0.6, 1.0), (28, 0.2, 0.9)), "magnitude": ((14, 3), (28, 10))},
        by_epoch={"magnitude": ((0, 0.5), (10, 1.0)), "cutout": ((2, 0.0), (4, 1.0)), "mixup": ((0, 0.0), (9, 1.0))},
    )  # fmt: skip
    now = augment_at(augment, size=21, epoch=5)
    assert now.scale == pytest.approx((0.4, 0.95))
    assert (now.magnitude, now.cutout, now.by_size, now.by_epoch) == (5, 8, {}, {})  # 6.5 x 0.75, rounded
    assert [augment_at(augment, 28, epoch).cutout for epoch in (0, 2, 3, 4, 50)] == [0, 0, 4, 8, 8]
    assert augment_at(augment, 28, 3).mixup == pytest.approx(0.2 / 3)
    assert [augment_at(augment, size).scale[0] for size in (7, 14, 28, 99)] == [0.6, 0.6, 0.2, 0.2]
    assert last_epoch(augment) == 10
    assert dataclasses.replace(now, scale=augment.scale, magnitude=9, mixup=0.2, autoaugment="") == AugmentSettings(
        crop="random-resized", cutout=8, mixup=0.2
    )


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("cutout", ((14, 0), (28, 10))), ("random_erasing", ((14, 0.0), (28, 1.0))),
        ("color_jitter", ((14, 0.1), (28, 0.8))), ("lighting", ((14, 0.05), (28, 0.5))),
        ("scale", ((14, 0.8, 1.0), (28, 0.2, 0.9))), ("magnitude", ((14, 1), (28, 30))),
    ],
)  # fmt: skip
def test_pixels_are_those_of_plain_settings_of_the_size(name: str, points: tuple[Any, ...]) -> None:
    augment = AugmentSettings(crop="random-resized", flip=0.5, autoaugment="randaugment", by_size={name: points})
    made: Any = pickle.loads(pickle.dumps(train_transform(TrainTransform, PLAIN, augment, seed=7)))  # as to workers
    for size in (14, 21, 28):
        plain = TrainTransform(PLAIN, augment_at(augment, size), seed=7)
        expected = plain.finish(plain.batch(plain.prepare(IMAGES), batch(size, 3)), batch(size, 3))
        found = made.finish(made.batch(made.prepare(IMAGES), batch(size, 3)), batch(size, 3))
        assert torch.equal(found, expected)
        alone = batch(size, 3).at([1])  # as files go, one by one
        image = IMAGES[0].permute(2, 0, 1)
        sample, target = made.sample(image, torch.tensor(5), alone), plain.sample(image, torch.tensor(5), alone)
        assert torch.equal(sample.pixels, target.pixels)
        assert made.need((28, 28), alone) == plain.need((28, 28), alone)
        assert made.views(alone) == 2


def test_strength_grows_with_the_epochs_and_what_is_not_scheduled_is_the_plain_transform() -> None:
    augment = AugmentSettings(crop="pad", flip=0.5, cutout=14, by_epoch={"cutout": ((0, 0.0), (4, 1.0))})
    made: Any = train_transform(TrainTransform, PLAIN, augment)
    black = torch.full_like(IMAGES, 255)
    holes = [(made.finish(made.batch(black, batch(28, n)), batch(28, n)) == 0).float().mean() for n in range(6)]
    assert holes[0] == 0
    assert holes[1] < holes[2] < holes[4]
    assert type(train_transform(TrainTransform, PLAIN, AugmentSettings(crop="pad", flip=0.5))) is TrainTransform


def test_masks_are_rescaled_by_size() -> None:
    augment = AugmentSettings(
        crop="rescale",
        flip=0.5,
        by_size={"rescale": ((14, 1.0, 1.0), (28, 0.25, 4.0)), "color_jitter": ((14, 0), (28, 1))},
    )
    preprocessing = Preprocessing(28, (0.5,) * 3, (0.25,) * 3, resize="pad")
    made: Any = train_transform(JointTrainTransform, preprocessing, augment, seed=3)
    image, mask = IMAGES[0].permute(2, 0, 1), (IMAGES[0, :, :, 0] > 128).byte()
    for size in (14, 21, 28):
        plain = JointTrainTransform(preprocessing, augment_at(augment, size), seed=3)
        alone = batch(size, 0).at([0])
        found, expected = (each.sample(image, mask, alone) for each in (made, plain))
        assert torch.equal(found.pixels, expected.pixels)
        assert torch.equal(found.targets, expected.targets)
        together = made.collate([found, found])
        assert together.shapes.tolist() == [[size, size]] * 2


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_mixup_follows_the_size_and_the_epoch(name: str) -> None:
    tables = {"by_size": {"mixup": ((14, 0.0), (28, 0.4))}, "by_epoch": {"mixup": ((0, 0.0), (2, 1.0))}}
    task: Any = create_task(name, ["a", "b", "c"], **tables)
    plain: Any = create_task(name, ["a", "b", "c"], mixup=0.1)
    targets = torch.tensor([0, 1, 2, 0]) if name == "classification" else torch.eye(4, 3).byte()[:, None]
    for size, epoch, mixed in ((14, 5, False), (28, 0, False), (21, 1, True)):
        images = torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        new, shares = task.mix(images, targets, epoch)
        if not mixed:
            assert torch.equal(new, images)
            continue
        torch.manual_seed(2)
        expected = plain.mix(images, targets)  # half of 0.4 at half of the way, half of that at half of the epochs
        assert torch.equal(new, expected[0])
        assert torch.equal(shares, expected[1])
    assert mixing_at(0.0, 0.0, ({"mixup": ((14, 0.0), (28, 0.001))}, {}), 15, 0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by_size": {"magnitud": ((14, 3),)}}, "did you mean 'magnitude'"),
        ({"by_size": {"cutout": ()}}, r"expected a list of \[size, value\]"),
        ({"by_size": {"cutout": ((28, 3), (14, 4))}}, "each point at a larger size"),
        ({"by_size": {"cutout": ((14, 3, 4),)}}, r"expected a list of \[size, value\]"),
        ({"by_size": {"scale": ((14, 0.3),)}, "crop": "random-resized"}, r"\[size, smallest, largest\]"),
        ({"by_size": {"scale": ((14, 0.3, 1.5),)}, "crop": "random-resized"}, "expected from 1e-06 to 1"),
        ({"by_size": {"scale": ((14, 0.3, 1.0),)}}, "augment.crop is 'pad'"),
        ({"by_size": {"severity": ((14, 3),)}}, "has an effect with augmix alone"),
        ({"by_size": {"random_erasing": ((14, 0.5), (28, 2.0))}}, "make random_erasing 2 at 28 px"),
        ({"by_size": {"random_erasing": ((14, 0.5),)}, "by_epoch": {"random_erasing": ((0, 1), (5, 3))}}, "epoch 5"),
        ({"by_epoch": {"cutout": ((0, 0.5),)}}, "augment.cutout is 0"),
        ({"by_epoch": {"scale": ((0, 0.5),)}}, "has no multiple"),
    ],
)
def test_tables_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_transform(TrainTransform, PLAIN, AugmentSettings(**{"crop": "pad", "flip": 0.5, **settings}))


@pytest.mark.parametrize(
    ("make", "crop", "table", "message"),
    [
        (TrainTransform, "pad", {"lighting": ((14, 0.0), (28, 0.1))}, "augment.lighting"),
        (JointTrainTransform, "rescale", {"cutout": ((14, 0), (28, 8))}, "augment.cutout is 8"),
    ],
)
def test_what_a_point_asks_for_is_checked_before_the_training(
    make: type[Augmentation], crop: str, table: dict[str, Any], message: str
) -> None:
    preprocessing = Preprocessing(28, (0.5,), (0.25,), resize="pad" if crop == "rescale" else "stretch")
    with pytest.raises(UserError, match=message):
        train_transform(make, preprocessing, AugmentSettings(crop=crop, flip=0.5, by_size=table))
