"""Strided 1 x 1 convolutions of few channels compute another way in training, to the same gradients."""

import copy
from collections.abc import Callable

import torch

from anysize.experiment.build import build_model
from anysize.models.surgery.narrow import NarrowConv2d, make_narrow_safe
from anysize.preprocessing import Preprocessing
from anysize.recipe import Recipe


def test_a_training_takes_them_and_gradients_are_those_of_contiguous_images(tiny: Callable[..., Recipe]) -> None:
    options = {"depth": 8, "widths": [8, 8, 16]}
    recipe = tiny(model__name="cifar_resnet", model__options=options)
    preprocessing = Preprocessing(48, classes=("cat", "dog"))
    model = build_model(recipe, preprocessing)
    names = [name for name, module in model.named_modules() if isinstance(module, NarrowConv2d)]
    assert names == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    plain = build_model(
        tiny(model__name="cifar_resnet", model__options=options, training__channels_last=False), preprocessing
    )
    assert not any(isinstance(module, NarrowConv2d) for module in plain.modules())
    assert model.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for each in (model.double(), plain.double()):
        each(images.double()).square().sum().backward()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    assert make_narrow_safe(copy.deepcopy(model)) == []


def test_others_stay_as_they_are() -> None:
    convolutions = torch.nn.ModuleList(
        [
            torch.nn.Conv2d(16, 8, 1, stride=2),
            torch.nn.Conv2d(8, 8, 1),
            torch.nn.Conv2d(8, 8, 3, stride=2),
            torch.nn.Conv2d(8, 8, 1, stride=2, groups=8),
        ]
    )
    assert make_narrow_safe(convolutions) == []
