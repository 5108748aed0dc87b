"""Where a model is quantized: calls that are followed as they are, and the places that runtimes compute in integers."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysize.models.surgery.fold import fold_in_place
from anysize.models.surgery.quantization.calls import Interception
from anysize.models.surgery.quantization.graph import record
from anysize.models.surgery.quantization.placement import place
from anysize.models.surgery.quantization.prepare import prepare
from anysize.registry import UserError

IMAGES = torch.zeros(1, 3, 16, 16)


class Block(nn.Module):
    """A residual block whose one ReLU is called twice, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.relu(self.norm(self.first(x))))
        out += x
        out = self.pool(self.relu(out))
        return self.head(out.mean((2, 3)))


def test_a_module_that_is_called_twice_and_works_in_place_is_followed() -> None:
    model = Block().eval()
    names = fold_in_place(model)
    placement = place(record(model, IMAGES))
    assert list(names) == ["norm"]
    assert placement.points == {
        "images": "images",
        "relu:relu:0": "first:conv2d:0",
        "second:conv2d:0": "second:conv2d:0",
        "relu:relu:1": ":__iadd__:0" if ":__iadd__:0" in placement.quantizers else ":add_:0",
        ":mean:0": ":mean:0",
    }
    (copied,) = placement.copies
    assert copied == "pool:max_pool2d:0"
    assert [layer.name for layer in placement.layers.values()] == ["first", "second", "head"]
    assert not placement.kept


def test_the_places_are_the_same_with_norms_and_folded() -> None:
    folded = Block().eval()
    model = copy.deepcopy(folded)
    names = fold_in_place(folded)
    with_norms, without = place(record(model, IMAGES), folded=names), place(record(folded, IMAGES))
    assert with_norms.quantizers == without.quantizers
    assert with_norms.points == without.points  # the ReLU behind the norm is the place
    assert with_norms.layers == without.layers


def test_calls_have_the_same_names_in_training_and_in_evaluation() -> None:
    def keys(model: nn.Module) -> list[str]:
        seen: list[str] = []

        def see(call: Any, run: Any, args: Any, kwargs: Any) -> Any:
            seen.append(call.key)
            return run(*args, **kwargs)

        images = torch.zeros(2, 3, 16, 16)
        with Interception(model, see):
            model(images)
        return seen

    model = Block()
    assert keys(model.train()) == keys(model.eval())


class Strange(nn.Module):
    """What cannot be rounded: weights made of the images, values that no call of torch has given."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 3, 1)
        self.offset = torch.ones(1)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(x)
        return F.conv2d(x + self.offset, x.mean((0, 2, 3)).view(1, 3, 1, 1).expand(3, 3, 1, 1))


def test_layers_that_cannot_be_rounded_stay_in_float_with_the_reason() -> None:
    placement = place(record(Strange().eval(), IMAGES))
    assert [layer.name for layer in placement.layers.values()] == ["plain"]
    assert list(placement.kept.values()) == ["its weights follow from the images"]
    assert not any("add" in name for name in placement.quantizers)


def test_layers_are_kept_in_float_by_name_and_by_pattern() -> None:
    model = nn.Sequential(Block(), nn.Identity())
    kept = place(record(copy.deepcopy(model).eval(), IMAGES), keep=["0.head", "0.fir*"]).kept
    assert kept == {"0.first": "asked for", "0.head": "asked for"}
    with pytest.raises(UserError, match="no layer that can be quantized"):
        place(record(model.eval(), IMAGES), keep=["0"])
    with pytest.raises(UserError, match=r"'0\.heat' is not there: did you mean '0\.head'"):
        prepare(model, IMAGES, keep=["0.heat"])


def test_padding_and_joining_and_averages_are_placed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(x, (1, 1, 1, 1))
            joined = torch.cat([F.relu6(self.one(x)), F.silu(self.other(x))], 1)
            return self.last(F.adaptive_avg_pool2d(joined, 1))

    points = place(record(Net().eval(), IMAGES)).points
    assert points == {
        "images": "images",
        ":relu6:0": "one:conv2d:0",
        "other:conv2d:0": "other:conv2d:0",  # what SiLU reads, so that the layer is computed in integers
        ":silu:0": ":silu:0",
        ":cat:0": ":cat:0",
        ":adaptive_avg_pool2d:0": ":adaptive_avg_pool2d:0",
        "last:conv2d:0": "last:conv2d:0",
    }
    assert place(record(Net().eval(), IMAGES)).copies == {":pad:0": "images"}
