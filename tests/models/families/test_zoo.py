"""Every registered model, ours, torchvision's and timm's behind our names: what holds for all of them."""

import re

import pytest
import torch
from tiers import FEW, ONE_A_FAMILY, tiers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anysize.models.expected import expected_preprocessing
from anysize.models.measure.input_size import check_size
from anysize.models.measure.meta import build_on_meta
from anysize.models.names import list_models, made_for
from anysize.models.spec import ModelSpec
from anysize.norms.convert.model import convert_norms
from anysize.registry import UserError
from anysize.tasks.base import main_logits

CLASSES, CHANNELS = 7, 2


def build(name: str) -> nn.Module:
    return build_on_meta(ModelSpec(name, CLASSES, CHANNELS).build)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def logits(name: str, size: int) -> tuple[int, ...]:
    """The shape of a batch of two."""
    return (2, CLASSES, size, size) if made_for(name) == "segmentation" else (2, CLASSES)


@torch.no_grad()
def forward(model: nn.Module, size: int) -> Tensor:
    return main_logits(model(torch.empty(2, CHANNELS, size, size, device="meta")))


@pytest.mark.parametrize("name", tiers(list_models(), FEW, ONE_A_FAMILY))
def test_every_model(name: str) -> None:
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) > 10_000
    assert shapes(build(name)) == shapes(model)
    size = expected_preprocessing(name).image_size
    evaluated = model.eval()(torch.empty(2, CHANNELS, size, size, device="meta"))
    assert isinstance(evaluated, Tensor)  # without auxiliary logits
    assert evaluated.shape == logits(name, size)

    odd = max(size // 2 | 1, 29)
    try:
        trained = forward(model.train(), odd)
    except (RuntimeError, AssertionError):
        with pytest.raises(UserError) as refused:
            check_size(model, odd, CHANNELS)
        message = re.search(
            rf"cannot take images of {odd} pixels: .*; the smallest it takes is (\d+)$", str(refused.value)
        )
        assert message, refused.value
        odd = int(message[1])
        trained = forward(model, odd)
    assert trained.shape == logits(name, odd)

    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        transformer = any(isinstance(module, nn.LayerNorm) for module in model.modules())
        convert_norms(model, "group", num_groups=1, skip=["LayerNorm"] if transformer else [])
        assert not any(isinstance(module, _BatchNorm) for module in model.modules())
        assert forward(model, size).shape == logits(name, size)
