"""What is no model, and numbers that are none, in place of what a function takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import anysize
from anysize.models.checks import whole_number
from anysize.registry import UserError


@pytest.mark.parametrize("model", ["resnet20", None, nn.ReLU, lambda x: x])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("fold_batch_norm", anysize.fold_batch_norm),
        ("elasticize", anysize.elasticize),
        ("checkpoint_segments", lambda model: anysize.checkpoint_segments(model, 2)),
        ("scale_policy", lambda model: anysize.scale_policy(model, [torch.zeros(1, 3, 8, 8)])),
        ("load_weights", lambda model: anysize.load_weights(model, "none.pth")),
    ],
)
def test_what_is_no_model_is_refused_by_name(name: str, call: Callable[[Any], object], model: Any) -> None:
    with pytest.raises(
        UserError, match=rf"^{name} received .*; expected a torch\.nn\.Module, such as create_model returns"
    ):
        call(model)


def test_one_tensor_in_place_of_batches_is_refused() -> None:
    model = anysize.create_model("resnet8", elasticize="auto")
    with pytest.raises(UserError, match=r"scale_policy received one tensor; expected batches of images"):
        anysize.scale_policy(model, torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("segments", [0, -1, 1.5, "2", None])
def test_segments_are_a_whole_number_from_1(segments: Any) -> None:
    with pytest.raises(UserError, match=r"checkpoint segments are .*; expected at least 1, a whole number"):
        anysize.checkpoint_segments(anysize.create_model("resnet8"), segments)


@pytest.mark.parametrize("value", [0, 2.0, "3", True])
def test_a_whole_number_is_above_0(value: Any) -> None:
    with pytest.raises(UserError, match=r"stem is .*; expected a positive whole number, such as 64"):
        whole_number("stem", value, example=64)
