"""What is said before the first step of the shapes of a run."""

import pytest
from torch import nn

from anysize.models.spec import create_model
from anysize.registry import UserError
from anysize.sizes.batch_plan import BatchPlan
from anysize.sizes.mix import SizeMix
from anysize.sizes.schedule import SizeSchedule
from anysize.training.length import run_length
from anysize.training.settings import TrainingSettings
from anysize.training.shapes import check_smallest_steps, distinct_shapes, too_few_images

SMALL = {"layers": [1, 1, 1, 1], "widths": [4, 4, 8, 8], "cardinality": 4, "stem": 4}


def network(norm: str = "") -> nn.Module:
    return create_model("resnext50_elastic", 3, task="segmentation", norm=norm, **SMALL)


def check(model: nn.Module, images: int, batch_size: int, chunks: int = 1, drop_last: bool = False) -> None:
    plan = BatchPlan(
        images, SizeSchedule.constant(SizeMix.fixed(32)), batch_size=batch_size, copies=1, seed=0, drop_last=drop_last
    )
    training = TrainingSettings(epochs=1, batch_size=batch_size, chunks=chunks, drop_last=drop_last)
    length = run_length(plan, training, 32, lambda size: size**2)
    check_smallest_steps(model, distinct_shapes(plan, length, lambda images: chunks), training, 3)


@pytest.mark.parametrize(
    ("images", "batch_size", "chunks", "message"),
    [
        (8, 1, 1, "a batch is one image: give a training.batch_size of 2 or more"),
        (9, 2, 1, "a batch of an epoch is left with one image: set training.drop_last, or another training.batch_size"),
        (8, 4, 3, "training.chunks 3 cuts a batch of 4 images into parts of one: lower it to 2"),
    ],
)
def test_a_step_of_one_image_is_refused_where_batch_norm_needs_two(
    images: int, batch_size: int, chunks: int, message: str
) -> None:
    with pytest.raises(UserError, match=f"cannot train on one image of 32 pixels a step, .*{message}") as error:
        check(network(), images, batch_size, chunks)
    assert str(error.value).endswith("or set model.norm to frozen_batch or group")
    for norm in ("frozen_batch", "group"):
        check(create_model("resnet8", 3, norm=norm, norm_options={"num_groups": 4} if norm == "group" else {}), 9, 4)
    check(network("frozen_batch"), images, batch_size, chunks)


@pytest.mark.parametrize(
    ("images", "chunks", "norm", "too_few"),
    [(1, 1, "", True), (3, 2, "", True), (4, 2, "", False), (1, 1, "frozen_batch", False)],
)
def test_batches_that_damaged_files_left_too_small(images: int, chunks: int, norm: str, too_few: bool) -> None:
    assert too_few_images(network(norm), images, 32, chunks, 3) == too_few


def test_steps_of_two_images_and_other_networks_are_let_through() -> None:
    check(network(), 9, 2, drop_last=True)
    check(network(), 9, 4)  # batches are cut evenly
    check(network(), 8, 4, chunks=2)
    check(create_model("resnet8", 3), 9, 1)
