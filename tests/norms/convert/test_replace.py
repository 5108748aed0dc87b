"""A norm for another number of channels: of the same kind, with the same options, and nothing taken over."""

import pytest
import torch
import torchvision
from torch import nn

from anysize.norms.convert.replace import resized
from anysize.norms.factory import create_norm
from anysize.norms.online.norm import OnlineNorm2d
from anysize.norms.synchronised import SyncBatchNorm
from anysize.registry import UserError


def test_options_are_kept_and_trained_values_are_not() -> None:
    old = nn.BatchNorm2d(8, eps=0.1, momentum=None, affine=False).eval().double()
    new = resized(old, 12)
    assert isinstance(new, nn.BatchNorm2d)
    assert (new.num_features, new.eps, new.momentum, new.affine, new.training) == (12, 0.1, None, False, False)
    assert new.running_mean is not None
    assert new.running_mean.dtype == torch.float64
    trained = nn.BatchNorm2d(8)
    nn.init.constant_(trained.weight, 3.0)
    assert resized(trained, 12).get_parameter("weight").eq(1).all()
    online = resized(create_norm("online", 8, ecm="ac", alpha_fwd=0.9), 12)
    assert isinstance(online, OnlineNorm2d)
    assert (online.options.ecm, online.options.alpha_fwd) == ("ac", 0.9)


@pytest.mark.parametrize("old", [nn.BatchNorm2d(8, bias=False), nn.GroupNorm(4, 8, bias=False)])
def test_a_missing_or_frozen_parameter_is_missing_or_frozen(old: nn.Module) -> None:
    new = resized(old.requires_grad_(False), 12)
    assert new.bias is None
    assert not new.get_parameter("weight").requires_grad
    assert new(torch.randn(2, 12, 3, 3)).shape == (2, 12, 3, 3)


def test_the_process_group_of_a_synchronized_norm_is_kept() -> None:
    group = object()
    new = resized(nn.SyncBatchNorm(8, process_group=group), 12)
    assert isinstance(new, SyncBatchNorm)
    assert new.process_group is group


@pytest.mark.parametrize(
    "old", [torchvision.ops.FrozenBatchNorm2d(8), create_norm("frozen_batch", 8), nn.LayerNorm([8, 4, 4]), nn.ReLU()]
)
def test_what_has_no_other_size_is_refused(old: nn.Module) -> None:
    with pytest.raises(UserError, match=f"{type(old).__name__} cannot be made for another number of channels"):
        resized(old, 12)
